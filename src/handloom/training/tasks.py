"""Files of examples become what a tuning run learns from: conversations, preferred answers, labels."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from handloom.data.collate import (
    IGNORE_INDEX,
    Row,
    ShuffledSampler,
    bucket_by_length,
    encode_row,
    pack,
    pad_batch,
    stack,
)
from handloom.data.encoding import ExampleEncoder, encode_conversations, encode_labeled, encode_pairs
from handloom.data.examples import Conversation, LabeledText, PreferencePair, digest, read_examples, validation_mask
from handloom.errors import DataError, ModelError
from handloom.model.config import SINGLE_LABEL
from handloom.model.gpt import GPT
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import CHAT_TEMPLATE, Message
from handloom.training.classification import Classification
from handloom.training.config import FinetuneConfig
from handloom.training.dpo import DPO
from handloom.training.objective import Batch, Objective
from handloom.training.progress import Reporter
from handloom.training.sft import SFT
from handloom.training.sizes import STEPS_AN_EPOCH, USUAL_BATCH
from handloom.training.work import batch_size_of, pluralize, tell

Opened = tuple[Objective, str, dict[str, Any]]
_LABELS_SHOWN = 6
_QUESTIONS = 2


def open_task(
    config: FinetuneConfig,
    model: GPT,
    tokenizer: Tokenizer,
    context_length: int,
    reporter: Reporter,
    reference: Callable[[], GPT] | None,
) -> Opened:
    """What a task other than text is learned from.

    Args:
        config: with its precision decided.
        model: to be trained; to tell labels apart it is given a head, if it has none.
        tokenizer: of the model.
        context: tokens in a row.
        reporter: told what was cut or left out.
        reference: gives the model as it was before the first step, to compare preferences with; None where only
            batches are asked for.

    Returns:
        the objective; its data in one line for people; and in numbers, for `data.json`.

    Raises:
        DataError: for data that cannot be learned from, naming file and line.
    """
    if config.task == "sft":
        return _instruct(config, tokenizer, context_length, reporter)
    if config.task == "dpo":
        return _prefer(config, tokenizer, context_length, reporter, reference)
    return _classify(config, model, tokenizer, context_length, reporter)


def _instruct(config: FinetuneConfig, tokenizer: Tokenizer, context_length: int, reporter: Reporter) -> Opened:
    fitting = ExampleEncoder(context_length, config.overlong)
    examples = read_examples(Conversation, config.data, config.encoding_errors, fitting.omissions)
    found = encode_conversations(examples, tokenizer, fitting)
    tell(fitting.omissions.sentences(), reporter)
    kept = [example for example, _ in found]
    sides: tuple[list[Row], list[Row]] = ([], [])
    out_of_training = validation_mask(kept, config.validation_fraction)
    for (_, text), out in zip(found, out_of_training, strict=True):
        sides[out].append(encode_row(text.ids, text.loss_mask))
    packed = tuple(pack(side, context_length) for side in sides) if config.pack is not False else sides
    packs = len(packed[0]) >= STEPS_AN_EPOCH * USUAL_BATCH if config.pack is None else config.pack
    training, validation = packed if packs else sides
    names = ("inputs", "targets", "segments") if packs else ("inputs", "targets")

    def batch(rows: Sequence[Row]) -> Batch:
        made = stack(rows)
        return tensors({name: made[name] for name in names})

    size = batch_size_of(config, len(training))
    order = ShuffledSampler(len(training), size, config.seed)
    objective = SFT(
        lambda step: batch([training[number] for number in order.batch(step)]),
        order.steps_per_epoch,
        (batch([validation[n] for n in some]) for some in bucket_by_length([*map(len, validation)], size)),
        _key(config, kept, tokenizer, context_length, CHAT_TEMPLATE, packs),
        CHAT_TEMPLATE,
    )
    learned, read = sum(row.n_targets for row in training), sum(map(len, training))
    line = (
        f"{pluralize(len(sides[0]), 'conversation')}: {read:,} tokens in {pluralize(len(training), 'row')} of up to "
        f"{context_length:,}, {learned:,} of them learned; held out: {len(sides[1]):,}."
    )
    report = _report(config, fitting, len(sides[0]), len(sides[1]), CHAT_TEMPLATE, size)
    report |= {"pack": packs, "rows": len(training), "tokens": read, "learned_tokens": learned}
    asked = [example.messages for example, out in zip(kept, out_of_training, strict=True) if out]
    return objective, line, {**report, "questions": _questions(asked)}


def _prefer(
    config: FinetuneConfig,
    tokenizer: Tokenizer,
    context_length: int,
    reporter: Reporter,
    reference: Callable[[], GPT] | None,
) -> Opened:
    fitting = ExampleEncoder(context_length, config.overlong)
    examples = read_examples(PreferencePair, config.data, config.encoding_errors, fitting.omissions)
    found = encode_pairs(examples, tokenizer, fitting)
    tell(fitting.omissions.sentences(), reporter)
    kept = [example for example, _, _ in found]
    template = None if any(isinstance(example.prompt, str) for example in kept) else CHAT_TEMPLATE
    sides: tuple[list[tuple[Row, Row]], list[tuple[Row, Row]]] = ([], [])
    out_of_training = validation_mask(kept, config.validation_fraction)
    for (_, *both), out in zip(found, out_of_training, strict=True):
        chosen, rejected = (encode_row(text.ids, text.loss_mask) for text in both)
        sides[out].append((chosen, rejected))
    training, validation = sides
    size = batch_size_of(config, len(training))
    order = ShuffledSampler(len(training), size, config.seed)
    longest = [max(map(len, both)) for both in validation]
    objective = DPO(
        lambda step: pairs_batch([training[number] for number in order.batch(step)]),
        order.steps_per_epoch,
        (pairs_batch([validation[n] for n in some]) for some in bucket_by_length(longest, size)),
        _key(config, kept, tokenizer, context_length, template),
        config.dpo_beta,
        template,
    )
    if reference is not None:
        reporter.note(f"Asking the model as it is how likely {2 * len(kept):,} answers are.")
        objective.compute_reference_logprobs(reference(), config.precision)
    read = sum(len(row) for both in training for row in both)
    line = f"{pluralize(len(training), 'pair')} of answers: {read:,} tokens; held out: {len(validation):,}."
    report = _report(config, fitting, len(training), len(validation), template, size)
    asked = [
        example.prompt
        for example, out in zip(kept, out_of_training, strict=True)
        if out and not isinstance(example.prompt, str)
    ]
    return objective, line, {**report, "tokens": read, "questions": _questions(asked) if template else []}


def _questions(conversations: Sequence[Sequence[Message]]) -> list[str]:
    """What some held-out conversations begin with, to ask the model on its way."""
    firsts = (next(message.content for message in each if message.role == "user") for each in conversations)
    return list(dict.fromkeys(firsts))[:_QUESTIONS]


def pairs_batch(both: Sequence[tuple[Row, Row]]) -> Batch:
    """Pairs of rows as inputs and targets, (B, 2, T) each."""
    rows = [row for pair in both for row in pair]
    inputs, targets = (
        pad_batch([row.inputs for row in rows], 0),
        pad_batch([row.targets for row in rows], IGNORE_INDEX),
    )
    B, T = len(both), inputs.shape[1]
    return tensors({"inputs": inputs.reshape(B, 2, T), "targets": targets.reshape(B, 2, T)})


def _classify(
    config: FinetuneConfig, model: GPT, tokenizer: Tokenizer, context_length: int, reporter: Reporter
) -> Opened:
    fitting = ExampleEncoder(context_length, config.overlong)
    examples = read_examples(LabeledText, config.data, config.encoding_errors, fitting.omissions)
    found = encode_labeled(examples, tokenizer, fitting)
    tell(fitting.omissions.sentences(), reporter)
    kept = [example for example, _ in found]
    names = _label_names(kept, model)
    sides: tuple[list[tuple[list[int], int]], list[tuple[list[int], int]]] = ([], [])
    for (example, ids), out in zip(found, validation_mask(kept, config.validation_fraction), strict=True):
        sides[out].append((ids, names.index(example.label)))
    training, validation = sides
    _warn_of_unseen(names, {label for _, label in training}, {label for _, label in validation}, reporter)
    if not model.config.label_names:
        model.add_classification_head(names, config.seed)
    size = batch_size_of(config, len(training))
    order = ShuffledSampler(len(training), size, config.seed)
    lengths = [len(ids) for ids, _ in validation]
    objective = Classification(
        model,
        names,
        lambda step: texts_batch([training[number] for number in order.batch(step)]),
        order.steps_per_epoch,
        (texts_batch([validation[n] for n in some]) for some in bucket_by_length(lengths, size)),
        _key(config, kept, tokenizer, context_length, names),
    )
    numbers = Counter(names[label] for _, label in training)
    shown = ", ".join(f"{name} {numbers[name]:,}" for name in names[:_LABELS_SHOWN])
    more = f" and {len(names) - _LABELS_SHOWN} more" if len(names) > _LABELS_SHOWN else ""
    read = sum(len(ids) for ids, _ in training)
    line = (
        f"{pluralize(len(training), 'text')} with {len(names)} labels ({shown}{more}), {read:,} tokens; "
        f"held out: {len(validation):,}."
    )
    report = _report(config, fitting, len(training), len(validation), None, size)
    return objective, line, {**report, "tokens": read, "labels": {name: numbers[name] for name in names}}


def texts_batch(texts: Sequence[tuple[list[int], int]]) -> Batch:
    """Texts in ids with their labels, as inputs (B, T), last (B) and labels (B)."""
    ids = [np.array(text, dtype=np.int64) for text, _ in texts]
    last = np.array([len(text) - 1 for text in ids])
    return tensors({"inputs": pad_batch(ids, 0), "last": last, "labels": np.array([label for _, label in texts])})


def _label_names(examples: Sequence[LabeledText], model: GPT) -> tuple[str, ...]:
    """All labels, in the order of their ids; numbers by size, words by their letters.

    Raises:
        DataError: for a single label, or one that the model was not made for.
        ModelError: for a model that does not give each text one label.
    """
    if model.config.problem_type != SINGLE_LABEL:
        raise ModelError(
            f"The problem_type of the model is {model.config.problem_type}, and classify learns one label for each "
            "text.",
            "Tune a model without labels, such as the one that it came from.",
        )
    found = {example.label: example for example in reversed(examples)}
    if known := model.config.label_names:
        for label, example in found.items():
            if label not in known:
                raise DataError(
                    f"{example.origin}: the model has no label {label!r}; it knows {', '.join(known)}.",
                    "Mend the label, or tune a model that knows none yet.",
                )
        return known
    if len(found) == 1:
        raise DataError(
            f"All {len(examples)} texts have the label {examples[0].label!r}, so there is nothing to tell apart.",
            "Add texts with another label.",
        )
    numbers = all(label.removeprefix("-").isdecimal() for label in found)
    return tuple(sorted(found, key=lambda label: (int(label), label) if numbers else (0, label)))


def _warn_of_unseen(names: Sequence[str], learned: set[int], tested: set[int], reporter: Reporter) -> None:
    missing = [name for number, name in enumerate(names) if number not in learned]
    if missing:
        reporter.warning(f"No text is learned from that has the label {' or '.join(missing)}.")
    missing = [name for number, name in enumerate(names) if number not in tested]
    if missing:
        reporter.warning(f"No held-out text has the label {' or '.join(missing)}; its F1 is 0 for that.")


def _report(
    config: FinetuneConfig, fitting: ExampleEncoder, training: int, validation: int, template: str | None, size: int
) -> dict[str, Any]:
    return {
        "task": config.task,
        "template": template,
        "training_examples": training,
        "validation_examples": validation,
        "batch_size": size,
        "omitted": fitting.omissions.to_dict(),
    }


def _key(
    config: FinetuneConfig,
    examples: Sequence[Conversation] | Sequence[PreferencePair] | Sequence[LabeledText],
    tokenizer: Tokenizer,
    context_length: int,
    *more: object,
) -> str:
    """Stands for everything that rows are made of; not for their order, which is the seed's."""
    about = [config.task, config.validation_fraction, config.overlong, context_length, tokenizer.fingerprint]
    made_of = [digest(examples), *about, *more]
    return hashlib.sha256(json.dumps(made_of).encode("ascii")).hexdigest()[:32]


def tensors(arrays: dict[str, np.ndarray]) -> Batch:
    """Arrays as tensors, without a copy."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
