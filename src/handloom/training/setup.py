"""What a run trains, and how it is set up from scratch; `finetune_setup` begins with a pretrained model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from handloom import runtime
from handloom.checkpoints import native, peft
from handloom.checkpoints.memory import require_memory
from handloom.console import pluralize
from handloom.data.corpus import Corpus, open_corpus
from handloom.data.sources import unrepeatable
from handloom.data.tokenized import PreparedData, TokenData, open_cached, prepare, training_documents
from handloom.finetuning import lora
from handloom.finetuning.memory_estimate import MicroBatch, peak_bytes
from handloom.model.block import Block
from handloom.model.config import preset
from handloom.model.gpt import GPT
from handloom.tokenizer import load_tokenizer
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.gpt2 import TiktokenTokenizer
from handloom.tokenizer.train import train_bpe
from handloom.training.activation_cache import CachedBackbone
from handloom.training.config import DataSettings, LoopSettings, TrainConfig
from handloom.training.objective import Objective, OpenedData
from handloom.training.progress import Reporter, report_sentences
from handloom.training.task_objectives import NextToken
from handloom.tuned import profile_for


@dataclass
class TrainingSetup:
    """What a run trains, and how it saves it."""

    config: LoopSettings
    """With everything decided that was left open."""
    tokenizer: Tokenizer
    model: GPT
    """Its trainable parameters have requires_grad."""
    data: OpenedData
    base: native.BaseModelRef | None = None
    """Of finetuning."""
    adapter: lora.LoRAConfig | None = None
    """Where only an adapter is trained and saved."""
    cache: CachedBackbone | None = None
    needs: Path | None = None
    """The checkpoint of the base model, if the run goes on needing it."""
    summary: dict[str, Any] = field(default_factory=dict)
    """What `summary.json` has in addition to what every run has."""

    @property
    def objective(self) -> Objective:
        """Of the data."""
        return self.data.objective

    def fit_memory(self, reporter: Reporter) -> int:
        """Turn gradient checkpointing on where the settings ask for it or memory is short.

        Returns the most memory that the process is expected to hold while it trains, in bytes.
        """
        inputs, asked = self.objective.batch(0)["inputs"], self.config.gradient_checkpointing
        rows, bf16 = inputs[..., 0].numel() // self.config.accumulation, self.config.precision == "bf16"
        at_once = MicroBatch(rows, inputs.shape[-1], bf16)
        short = peak_bytes(self.model, at_once) > runtime.available_memory()
        use = asked == "on" or (asked == "auto" and short)
        if use and asked == "auto":
            reporter.note(
                "Memory is short, so activations are computed again in the backward pass: a third more computing, the "
                "same numbers (`gradient_checkpointing=off` keeps them)."
            )
        for block in self.model.blocks:
            assert isinstance(block, Block)
            block.checkpointing = use
        return peak_bytes(self.model, dataclasses.replace(at_once, kept=True, checkpointing=use))

    def save(self, folder: Path, state: dict[str, Any], optimizer: dict[str, Tensor]) -> None:
        """Write a checkpoint: the model, or only the adapter; the trainer's state as JSON values; the optimizer's."""
        adapter, base = None, self.base
        if base is not None:
            state = {**state, "base": dataclasses.asdict(base)}
            if self.adapter is not None:
                write = partial(peft.write_adapter, model=self.model, how=self.adapter, base=base.name)
                adapter = base, write
        native.save(folder, self.model, self.tokenizer, state, optimizer=optimizer, adapter=adapter)


def pretrain_setup(
    config: TrainConfig, reporter: Reporter, checkpoint: native.Checkpoint | None = None
) -> TrainingSetup:
    """What a run from scratch trains (threads and precision are decided): a new model, or that of a checkpoint."""
    if checkpoint is None:  # before the data is prepared; the smallest vocabulary stands for any
        require_memory(config.model_config(vocab_size=257), "The run", copies=3)
    tokenizer = checkpoint.load_tokenizer() if checkpoint else None
    tokens = reopen_text(config, tokenizer, checkpoint)
    if tokens is None:
        corpus = open_text(config)
        tokenizer = tokenizer or make_tokenizer(config, corpus, reporter)
        tokens = prepare_text(config, corpus, tokenizer, reporter)
    assert tokenizer is not None
    shape = config.model_config(tokenizer.vocab_size)
    model = materialize(checkpoint.load_model()) if checkpoint else GPT(shape, config.seed)
    data = open_windows(config, tokens, tokenizer, shape.context_length, batch_size=config.batch_size)
    return TrainingSetup(config, tokenizer, model, data)


def tuned_for_training(config: LoopSettings, on_note: Callable[[str], None]) -> LoopSettings:
    """The settings of a new run with threads and precision as `tune` found them, where neither was given."""
    name: str | None = getattr(config, "model", None)
    if isinstance(config, TrainConfig) and config.model_config(preset(config.preset).vocab_size) == preset(
        config.preset
    ):
        name = config.preset
    found = profile_for(name, on_note) if name and config.threads is None and config.precision == "auto" else None
    if found is None or found.training_threads is None or found.training_precision is None:
        return config
    threads, precision = found.training_threads, found.training_precision
    on_note(f"{precision}, {pluralize(threads, 'thread')}, as `handloom tune {name}` measured.")
    return dataclasses.replace(config, threads=threads, precision=precision)


def make_tokenizer(config: TrainConfig, corpus: Corpus, reporter: Reporter) -> Tokenizer:
    """The tokenizer that the settings name; `train` trains one on the training documents alone."""
    if config.tokenizer != "train":
        tokenizer = load_tokenizer(config.tokenizer)
        if tokenizer.settings.chat_template or tokenizer.settings.more_templates:
            reporter.note("The tokenizer's chat template is left out: a new model has not seen conversations.")
            return load_tokenizer(config.tokenizer, templates=False)
        return tokenizer
    texts = training_documents(corpus, validation_fraction=config.validation_fraction, split=config.split)
    reporter.note(f"Training a tokenizer of up to {config.vocab_size:,} tokens.")
    trained = train_bpe(texts, config.vocab_size)
    reporter.note(f"Trained a tokenizer of {trained.vocab_size:,} tokens on the training text.")
    return TiktokenTokenizer(trained)


def materialize(model: GPT) -> GPT:
    """The same model in memory of its own, independent of the checkpoint's file."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


# Running text


def open_text(config: DataSettings) -> Corpus:
    """The documents that the settings name."""
    names = ("text_field", "encoding_errors", "json_as_text", "document_separator")
    return open_corpus(config.data, **{name: getattr(config, name) for name in names})


def reopen_text(
    config: DataSettings, tokenizer: Tokenizer | None, checkpoint: native.Checkpoint | None
) -> TokenData | None:
    """The tokens of a resumed run from the cache, where its text cannot be read again: it came through a pipe, or is
    gone."""
    if checkpoint is None or tokenizer is None or not unrepeatable(config.data):
        return None
    return open_cached(checkpoint.training["data"], tokenizer)


def prepare_text(config: DataSettings, corpus: Corpus, tokenizer: Tokenizer, reporter: Reporter) -> PreparedData:
    """The text as token shards."""
    data = prepare(corpus, tokenizer, validation_fraction=config.validation_fraction, split=config.split)
    report_sentences(data.sentences(), reporter)
    if data.report.split == "tail":
        reporter.note(f"The last {config.validation_fraction:.0%} of each document is held out.")
    return data


def open_windows(
    config: LoopSettings, data: TokenData, tokenizer: Tokenizer, context_length: int, batch_size: int
) -> OpenedData:
    """The text as an objective in windows of that length."""
    windowing = {"context_length": context_length, "stride": config.stride, "seed": config.seed}
    line = (
        f"Text: {pluralize(data.train.n_documents, 'document')}, {data.train.n_bytes / 1e6:.2f} MB, "
        f"{data.train.n_tokens:,} tokens; held out: {pluralize(data.validation.n_documents, 'document')}, "
        f"{data.validation.n_bytes / 1e6:.2f} MB."
    )
    stats = dataclasses.asdict(data.report) if isinstance(data, PreparedData) else {}
    return OpenedData(NextToken(data, tokenizer, batch_size=batch_size, **windowing), line, stats)
