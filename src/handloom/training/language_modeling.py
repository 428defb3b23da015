"""Next-token prediction on running text: reading the text, and the objective."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor

from handloom.checkpoints import native
from handloom.console import pluralize
from handloom.data.corpus import Corpus, open_corpus
from handloom.data.sources import unrepeatable
from handloom.data.tokenized import PreparedData, TokenData, open_cached, prepare
from handloom.data.windows import Windows
from handloom.evaluation.scoring import validate
from handloom.model.gpt import GPT
from handloom.model.loss import IGNORE_INDEX, next_token_loss
from handloom.tokenizer.base import Tokenizer
from handloom.training.activation_cache import CachedBackbone
from handloom.training.config import DataSettings, LoopSettings
from handloom.training.objective import Batch, EvalResult, OpenedData, to_device
from handloom.training.progress import Reporter, report_sentences


class NextToken:
    """Predict each token of running text from those before it, in windows as `windowing` has them (see `Windows`).

    Raises DataError unless there is a window of text to train on, and one to validate with.
    """

    unit: ClassVar[str] = "nats/token"
    chat_template: str | None = None

    def __init__(self, data: TokenData, tokenizer: Tokenizer, **windowing: Any) -> None:
        data.windows(windowing["context_length"], windowing["stride"])
        self.windows = Windows(data.train.tokens, **windowing)
        self.data_hash, self.steps_per_epoch = data.key, self.windows.steps_per_epoch
        self._validation = data.validation
        # The first token of the held-out text is predicted from nothing, so its bytes do not count.
        self._bytes = data.validation.n_bytes - len(tokenizer.token_bytes(int(data.validation.tokens[0])))

    def batch(self, step: int) -> Batch:
        """inputs and targets, (B, T) each."""
        inputs, targets = self.windows.batch(step)
        return {"inputs": torch.from_numpy(inputs), "targets": torch.from_numpy(targets)}

    def num_targets(self, batch: Batch) -> int:
        """Targets."""
        return int((batch["targets"] != IGNORE_INDEX).sum())

    def loss(self, model: GPT, batch: Batch, cache: CachedBackbone | None = None) -> Tensor:
        """The summed NLL of the targets, in nats."""
        batch = to_device(batch, model)
        hidden = (cache or model).hidden(batch["inputs"])  # (B, T, C)
        return next_token_loss(hidden, model.lm_head, batch["targets"])[0]

    def evaluate(self, model: GPT, cache: CachedBackbone | None = None) -> EvalResult:
        """The mean NLL of every held-out token but the first."""
        tokens, windows = self._validation.tokens, self.windows
        hidden = cache.hidden if cache else None
        found = validate(
            model, tokens, self._bytes, windows.context_length, batch_size=windows.batch_size, hidden=hidden
        )
        return EvalResult(found.nats_per_token, self.unit, {"bits_per_byte": found.bits_per_byte})


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
