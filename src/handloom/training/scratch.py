"""From the settings of a run from scratch to what it works with: a vocabulary, tokens, a fresh model."""

from __future__ import annotations

import dataclasses

from handloom.checkpoints import native
from handloom.checkpoints.memory import require_memory
from handloom.data.corpus import Corpus, open_corpus
from handloom.data.sources import unrepeatable
from handloom.data.tokenized import PreparedData, TokenData, open_cached, prepare, training_documents
from handloom.model.gpt import GPT
from handloom.tokenizer import load_tokenizer
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.gpt2 import TiktokenTokenizer
from handloom.tokenizer.train import train_bpe
from handloom.training.config import DataSettings, TrainConfig
from handloom.training.objective import NextToken
from handloom.training.progress import Reporter
from handloom.training.work import TrainingSetup, pluralize, save_whole, tell


def pretrain_setup(
    config: TrainConfig, reporter: Reporter, checkpoint: native.Checkpoint | None = None
) -> TrainingSetup:
    """What the settings ask for, with fresh weights or those of a checkpoint of the run.

    Raises:
        HandloomError: for settings or data that do not allow it.
    """
    if checkpoint is None:  # at once, not after the data was prepared; the smallest vocabulary stands for any
        require_memory(config.model_config(vocab_size=257), "The run", copies=3)
    tokenizer = checkpoint.load_tokenizer() if checkpoint else None
    data = reopened(config, tokenizer, checkpoint)
    if data is None:
        corpus = open_text(config)
        tokenizer = tokenizer or make_tokenizer(config, corpus, reporter)
        data = prepare_text(config, corpus, tokenizer, reporter)
    assert tokenizer is not None
    shape = config.model_config(tokenizer.vocab_size)
    objective = NextToken(
        data,
        tokenizer,
        context_length=shape.context_length,
        stride=config.stride,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    model = materialize(checkpoint.load_model()) if checkpoint else GPT(shape, config.seed)
    return TrainingSetup(tokenizer, model, objective, save_whole(model, tokenizer), *described(data))


def make_tokenizer(config: TrainConfig, corpus: Corpus, reporter: Reporter) -> Tokenizer:
    """The tokenizer that the settings name; `learn` learns one from the training documents alone."""
    if config.tokenizer != "learn":
        tokenizer = load_tokenizer(config.tokenizer)
        if tokenizer.settings.chat_template or tokenizer.settings.more_templates:
            reporter.note("The tokenizer's chat template is left out: a new model has learned no conversations.")
            return load_tokenizer(config.tokenizer, templates=False)
        return tokenizer
    texts = training_documents(corpus, validation_fraction=config.validation_fraction, split=config.split)
    reporter.note(f"Learning a vocabulary of up to {config.vocab_size:,} tokens.")
    learned = train_bpe(texts, config.vocab_size)
    reporter.note(f"Learned a vocabulary of {learned.vocab_size:,} tokens from the training text.")
    return TiktokenTokenizer(learned)


def open_text(config: DataSettings) -> Corpus:
    """The documents that the settings name."""
    return open_corpus(
        config.data,
        text_field=config.text_field,
        encoding_errors=config.encoding_errors,
        json_as_text=config.json_as_text,
        document_separator=config.document_separator,
    )


def reopened(
    config: DataSettings, tokenizer: Tokenizer | None, checkpoint: native.Checkpoint | None
) -> TokenData | None:
    """What came through a pipe, or is gone, cannot be read again, but its tokens may still be in the cache."""
    if checkpoint is None or tokenizer is None or not unrepeatable(config.data):
        return None
    return open_cached(checkpoint.training["data"], tokenizer)


def prepare_text(config: DataSettings, corpus: Corpus, tokenizer: Tokenizer, reporter: Reporter) -> PreparedData:
    """The text that the settings name, as token shards."""
    data = prepare(corpus, tokenizer, validation_fraction=config.validation_fraction, split=config.split)
    tell(data.sentences(), reporter)
    if data.report.split == "tail":
        reporter.note(f"The last {config.validation_fraction:.0%} of each document is held out.")
    return data


def described(data: TokenData) -> tuple[str, dict[str, object]]:
    """The data in one line for people, and in numbers."""
    line = (
        f"Text: {pluralize(data.train.n_documents, 'document')}, {data.train.n_bytes / 1e6:.2f} MB, "
        f"{data.train.n_tokens:,} tokens; held out: {pluralize(data.validation.n_documents, 'document')}, "
        f"{data.validation.n_bytes / 1e6:.2f} MB."
    )
    return line, dataclasses.asdict(data.report) if isinstance(data, PreparedData) else {}


def materialize(model: GPT) -> GPT:
    """The same model in memory of its own, no longer in the checkpoint's file."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model
