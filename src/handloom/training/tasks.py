"""Opens the examples of a finetuning task: encode, split, make batches, describe; the result is an objective."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from handloom.console import pluralize
from handloom.data import collate
from handloom.data.collate import Row
from handloom.data.examples import KINDS, ExampleEncoder, LabeledText, digest, read_examples, validation_mask
from handloom.errors import DataError, ModelError
from handloom.model import surgery
from handloom.model.config import SINGLE_LABEL
from handloom.model.gpt import GPT
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import CHAT_TEMPLATE, Message
from handloom.training.config import DEFAULT_BATCH, MIN_STEPS_PER_EPOCH, FinetuneConfig
from handloom.training.objective import Batch, OpenedData
from handloom.training.progress import Reporter, report_sentences
from handloom.training.task_objectives import DPO, SFT, Classification

_LABELS_SHOWN = 6
_QUESTIONS = 2


def open_task(
    config: FinetuneConfig,
    model: GPT,
    tokenizer: Tokenizer,
    reporter: Reporter,
    reference: Callable[[], GPT] | None = None,
) -> OpenedData:
    """The data of a task other than text; precision and context_length are decided.

    For classify the model gets a classification head if it has none. For dpo `reference` loads the model before the
    first step; without it there are only batches. Raises DataError, naming file and line, for data that cannot be
    trained on.
    """
    examples = _Examples(config, tokenizer, reporter)
    if config.task == "sft":
        return _open_sft(examples)
    if config.task == "dpo":
        return _open_dpo(examples, reporter, reference)
    return _open_classify(examples, model, reporter)


class _Examples:
    """The examples of a task, read, encoded and split."""

    def __init__(self, config: FinetuneConfig, tokenizer: Tokenizer, reporter: Reporter) -> None:
        assert config.context_length is not None
        self.config, self.tokenizer, self.context_length = config, tokenizer, config.context_length
        encoder = ExampleEncoder(self.context_length, config.overlong)
        self.omissions = encoder.omissions
        kind: Any = KINDS[config.task]
        examples = read_examples(kind, config.data, config.encoding_errors, encoder.omissions)
        self.encoded = encoder.encode(examples, tokenizer)
        report_sentences(encoder.omissions.sentences(), reporter)
        self.examples: list[Any] = [example for example, _ in self.encoded]
        self.held_out = validation_mask(self.examples, config.validation_fraction)

    def split(self, items: Iterable[Any]) -> tuple[list[Any], list[Any]]:
        """Training and held-out items, one for each example, each in their order."""
        splits: tuple[list[Any], list[Any]] = ([], [])
        for item, held_out in zip(items, self.held_out, strict=True):
            splits[held_out].append(item)
        return splits

    def batches(
        self,
        splits: tuple[list[Any], list[Any]],
        to_batch: Callable[[list[Any]], Batch],
        length: Callable[[Any], int],
        hashed: Sequence[object],
    ) -> dict[str, Any]:
        """The fields of an `Objective`; its rows depend on `hashed` too, besides examples and settings."""
        training, validation = splits
        self.batch_size = batch_size_of(self.config, len(training))
        sampler = collate.ShuffledSampler(len(training), self.batch_size, self.config.seed)
        # The hash is of everything that rows are made of, but not of their order, which is the seed's.
        settings = [self.config.task, self.config.validation_fraction, self.config.overlong, self.context_length]
        parts = [digest(self.examples), *settings, self.tokenizer.fingerprint, *hashed]
        buckets = collate.bucket_by_length([length(item) for item in validation], self.batch_size)
        return {
            "batch": lambda step: to_batch([training[number] for number in sampler.batch(step)]),
            "steps_per_epoch": sampler.steps_per_epoch,
            "validation": [to_batch([validation[number] for number in bucket]) for bucket in buckets],
            "data_hash": hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()[:32],
        }

    def stats(self, template: str | None, **more: object) -> dict[str, Any]:
        """The data in numbers."""
        held_out = sum(self.held_out)
        return {
            "task": self.config.task,
            "template": template,
            "training_examples": len(self.held_out) - held_out,
            "validation_examples": held_out,
            "batch_size": self.batch_size,
            "omitted": self.omissions.to_dict(),
            **more,
        }

    def questions(self, messages: Callable[[Any], Sequence[Message]]) -> list[str]:
        """The first user messages of some held-out conversations, as prompts of samples."""
        held_out = self.split(self.examples)[1]
        firsts = (next(m.content for m in messages(example) if m.role == "user") for example in held_out)
        return list(dict.fromkeys(firsts))[:_QUESTIONS]


def batch_size_for(rows: int, steps: int = MIN_STEPS_PER_EPOCH) -> int:
    """The default batch, or the largest smaller power of two with which an epoch of so many rows has so many steps."""
    size = DEFAULT_BATCH
    while size > 1 and rows < steps * size:
        size //= 2
    return size


def batch_size_of(config: FinetuneConfig, rows: int) -> int:
    """Rows in a step: as the settings say, otherwise as suits so many rows; whole micro-batches in any case.

    Where steps or minutes are given, a smaller batch would only train on less, so an epoch need have but one step.
    """
    if config.batch_size is not None:
        return config.batch_size
    by_epochs = config.steps is None and config.minutes is None
    size, micro = batch_size_for(rows, MIN_STEPS_PER_EPOCH if by_epochs else 1), config.micro_batch_size or 1
    return max(micro, size // micro * micro)


def _open_sft(examples: _Examples) -> OpenedData:
    context_length, use_packed = examples.context_length, examples.config.pack
    splits = rows = examples.split(collate.encode_row(text.ids, text.loss_mask) for _, (text,) in examples.encoded)
    if use_packed is not False:
        packed = collate.pack(rows[0], context_length), collate.pack(rows[1], context_length)
        use_packed = use_packed or len(packed[0]) >= MIN_STEPS_PER_EPOCH * DEFAULT_BATCH
        splits = packed if use_packed else rows
    names = ("inputs", "targets", "segments") if use_packed else ("inputs", "targets")

    def to_batch(some: list[Row]) -> Batch:
        arrays = collate.stack(some)
        return tensors({name: arrays[name] for name in names})

    fields = examples.batches(splits, to_batch, len, [CHAT_TEMPLATE, use_packed])
    trained, read = sum(row.n_targets for row in splits[0]), sum(map(len, splits[0]))
    description = (
        f"{pluralize(len(rows[0]), 'conversation')}: {read:,} tokens in {pluralize(len(splits[0]), 'row')} of up to "
        f"{context_length:,}, {trained:,} of them with a loss; held out: {len(rows[1]):,}."
    )
    numbers = {"pack": use_packed, "rows": len(splits[0]), "tokens": read, "learned_tokens": trained}
    stats = examples.stats(CHAT_TEMPLATE, **numbers, questions=examples.questions(lambda example: example.messages))
    return OpenedData(SFT(**fields, chat_template=CHAT_TEMPLATE), description, stats)


def _open_dpo(examples: _Examples, reporter: Reporter, reference: Callable[[], GPT] | None) -> OpenedData:
    config = examples.config
    as_text = any(isinstance(example.prompt, str) for example in examples.examples)
    template = None if as_text else CHAT_TEMPLATE
    splits = examples.split(
        tuple(collate.encode_row(text.ids, text.loss_mask) for text in pair) for _, pair in examples.encoded
    )
    fields = examples.batches(splits, pairs_batch, lambda pair: max(map(len, pair)), [template])
    objective = DPO(**fields, chat_template=template, beta=config.dpo_beta)
    if reference is not None:
        reporter.note(f"Computing reference log-probabilities of {2 * len(examples.examples):,} answers.")
        objective.compute_reference_logprobs(reference(), config.precision)
    read = sum(len(row) for pair in splits[0] for row in pair)
    description = f"{pluralize(len(splits[0]), 'pair')} of answers: {read:,} tokens; held out: {len(splits[1]):,}."
    questions = [] if as_text else examples.questions(lambda example: example.prompt)
    return OpenedData(objective, description, examples.stats(template, tokens=read, questions=questions))


def _open_classify(examples: _Examples, model: GPT, reporter: Reporter) -> OpenedData:
    names = label_names(examples.examples, model)
    splits = examples.split((text.ids, names.index(example.label)) for example, (text,) in examples.encoded)
    counts = [Counter(names[label] for _, label in split) for split in splits]
    if missing := [name for name in names if not counts[0][name]]:
        reporter.warning(f"There is no training text with the label {' or '.join(missing)}.")
    if missing := [name for name in names if not counts[1][name]]:
        reporter.warning(f"There is no held-out text with the label {' or '.join(missing)}, so its F1 is 0.")
    if not model.config.label_names:
        surgery.add_classification_head(model, names, examples.config.seed)
    fields = examples.batches(splits, texts_batch, lambda text: len(text[0]), [names])
    shown = ", ".join(f"{name} {counts[0][name]:,}" for name in names[:_LABELS_SHOWN])
    more = f" and {len(names) - _LABELS_SHOWN} more" if len(names) > _LABELS_SHOWN else ""
    read = sum(len(ids) for ids, _ in splits[0])
    description = (
        f"{pluralize(len(splits[0]), 'text')} with {len(names)} labels ({shown}{more}), {read:,} tokens; "
        f"held out: {len(splits[1]):,}."
    )
    stats = examples.stats(None, tokens=read, labels={name: counts[0][name] for name in names})
    return OpenedData(Classification(**fields, names=names), description, stats)


def label_names(examples: Sequence[LabeledText], model: GPT) -> tuple[str, ...]:
    """The labels in the order of their ids: the model's own, or sorted.

    Raises DataError for a single label or one that the model does not have, ModelError for one with multiple labels.
    """
    if model.config.problem_type != SINGLE_LABEL:
        raise ModelError(
            f"The problem_type of the model is {model.config.problem_type}, and classify trains one label per text.",
            "Finetune a model without labels, such as its base model.",
        )
    found = {example.label: example for example in reversed(examples)}
    if known := model.config.label_names:
        for label, example in found.items():
            if label not in known:
                raise DataError(
                    f"{example.origin}: the model has the labels {', '.join(known)}, not {label!r}.",
                    "Fix the label, or finetune a model without labels.",
                )
        return known
    if len(found) == 1:
        raise DataError(
            f"All {len(examples)} texts have the label {examples[0].label!r}, so there is nothing to classify.",
            "Add texts with another label.",
        )
    numbers = all(label.removeprefix("-").isdecimal() for label in found)
    return tuple(sorted(found, key=lambda label: (int(label), label) if numbers else (0, label)))


def pairs_batch(pairs: Sequence[Sequence[Row]]) -> Batch:
    """Pairs of rows as inputs and targets, (B, 2, T) each."""
    rows = [row for pair in pairs for row in pair]
    inputs = collate.pad_batch([row.inputs for row in rows], 0)
    targets = collate.pad_batch([row.targets for row in rows], collate.IGNORE_INDEX)
    B, T = len(pairs), inputs.shape[1]
    return tensors({"inputs": inputs.reshape(B, 2, T), "targets": targets.reshape(B, 2, T)})


def texts_batch(texts: Sequence[tuple[list[int], int]]) -> Batch:
    """Encoded texts with their label ids, as inputs (B, T), last (B) and labels (B)."""
    ids = [np.array(text, dtype=np.int64) for text, _ in texts]
    last, labels = np.array([len(text) - 1 for text in ids]), np.array([label for _, label in texts])
    return tensors({"inputs": collate.pad_batch(ids, 0), "last": last, "labels": labels})


def tensors(arrays: dict[str, np.ndarray]) -> Batch:
    """Arrays as tensors, without a copy."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
