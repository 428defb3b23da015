"""Documents become token shards in the cache, once: the same text and tokenizer are not prepared twice.

A prepared folder is called by the SHA-256 of everything that its tokens depend on. It is made under a temporary name
and renamed when whole, by one process at a time: another that wants the same waits, and takes what was made.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handloom import locks
from handloom.data import split as plans
from handloom.data.corpus import Corpus, open_corpus
from handloom.data.pool import WORTH_A_WORKER, encode
from handloom.data.shards import VERSION, Shard, ShardWriter, open_shard, token_dtype, writing_to
from handloom.data.split import SPLITS, TRAIN, VALIDATION, SplitPlan, assign_splits
from handloom.data.windows import check_held_out, count_windows
from handloom.errors import CheckpointError, ConfigError, DataError
from handloom.runtime import available_cores, cache_folder
from handloom.storage import sync
from handloom.tokenizer.base import Tokenizer

Sources = Sequence[str | Path] | str | Path | Corpus
_PARTIAL = ".partial"


@dataclass(frozen=True)
class PrepareStats:
    """What preparing did. Bytes are UTF-8 bytes of text; end-of-text tokens stand for none."""

    documents: int  # all that were found
    omitted: dict[str, Any]  # what was left out, as `Omissions.to_dict` has it
    separation: dict[str, Any]  # of documents within files, as `Separation.to_dict` has it
    split: str  # "documents", "tail" or "none": the policy used
    train_documents: int
    train_bytes: int
    train_tokens: int
    validation_documents: int
    validation_bytes: int
    validation_tokens: int
    reused: bool
    workers: int
    seconds: float  # all of it, the walk that decides about documents included


@dataclass(frozen=True)
class TokenData:
    """Tokens of both sides, memory-mapped."""

    train: Shard
    validation: Shard
    folder: Path

    @property
    def key(self) -> str:
        """Stands for the text, the split and the tokenizer together: equal if the tokens are."""
        return self.folder.name

    @property
    def copies(self) -> int:
        """Documents that were left out as exact copies of others, as far as that is known."""
        return 0

    def windows(self, context_length: int, stride: int | None) -> int:
        """Windows of text in an epoch.

        Raises:
            DataError: for a side that is too short, with what is so about it.
        """
        train, held_out = self.train, self.validation
        count = count_windows(train.n_tokens, context_length, stride or context_length, train.n_bytes, self.copies)
        check_held_out(held_out.n_tokens, held_out.n_bytes, self.copies)
        return count

    def names(self, side: int) -> Iterator[str]:
        """The documents of a side (TRAIN or VALIDATION), in the order of their tokens; as they were called when the
        text was first prepared."""
        return iter((self.train, self.validation)[side].names)


@dataclass(frozen=True)
class PreparedData(TokenData):
    """Tokens of both sides, and how they came about."""

    report: PrepareStats
    corpus: Corpus
    plan: SplitPlan

    @property
    def copies(self) -> int:
        """Documents that were left out as exact copies of others."""
        return self.plan.omissions["duplicate"]

    def names(self, side: int) -> Iterator[str]:
        """As for any tokens, but called as the sources call them now; reads the text again."""
        pieces = plans.pieces(self.corpus, self.plan)
        return (piece.name for piece in pieces if piece.side == side and piece.ends)

    def sentences(self) -> list[tuple[str, bool]]:
        """What is worth saying of the text, and whether there is something to do about it."""
        return self.plan.omissions.sentences() + self.plan.separation.sentences()


def prepare(
    sources: Sources,
    tokenizer: Tokenizer,
    *,
    validation_fraction: float = 0.1,
    split: str = "auto",
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    verify: bool | None = None,
    **reading: Any,
) -> PreparedData:
    """Tokenize `sources` into the cache, or find that this was done before.

    Args:
        sources: what `open_corpus` takes, or the corpus it gave.
        validation_fraction, split: see `plan.assign_splits`.
        workers: processes that tokenize; default: the cores granted to us, or none but this one for
            a small corpus.
        on_progress: called with bytes of text done and in all.
        verify: whether opening reads the shards through; see `open_shard`.
        reading: what else `open_corpus` takes; settled already if it gave the corpus.
    Raises:
        DataError: text that cannot be used, a torn shard in the cache, no space, a dead worker.
        ConfigError: a setting outside its limits.
    """
    began = time.monotonic()
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}, but must be at least 1.", "Leave it out to use every core.")
    corpus = _opened(sources, reading)
    plan = assign_splits(corpus, validation_fraction=validation_fraction, split=split)
    total = plan.bytes_of(TRAIN, VALIDATION)
    workers = workers or _workers_for(total)
    folder = _folder_of(_key(plan, tokenizer))
    reused = folder.is_dir()
    if not reused:
        reused = not _build(folder, corpus, plan, tokenizer, workers, on_progress or (lambda done, of: None))
    train, validation = _open_sides(folder, tokenizer, verify)
    report = PrepareStats(
        documents=len(plan.fates),
        omitted=plan.omissions.to_dict(),
        separation=plan.separation.to_dict(),
        split=plan.policy,
        train_documents=train.n_documents,
        train_bytes=train.n_bytes,
        train_tokens=train.n_tokens,
        validation_documents=validation.n_documents,
        validation_bytes=validation.n_bytes,
        validation_tokens=validation.n_tokens,
        reused=reused,
        workers=0 if reused else workers,
        seconds=time.monotonic() - began,
    )
    return PreparedData(train, validation, folder, report, corpus, plan)


def open_cached(key: str, tokenizer: Tokenizer) -> TokenData | None:
    """What was prepared under that `key`, without a look at its text; None if the cache has it no more.

    Raises:
        DataError: a torn shard, or one of another tokenizer.
    """
    folder = _folder_of(key)
    return TokenData(*_open_sides(folder, tokenizer, None), folder) if folder.is_dir() else None


def training_documents(
    sources: Sources, *, validation_fraction: float = 0.1, split: str = "auto", **reading: Any
) -> Iterator[str]:
    """The text that `prepare` with the same settings puts into training, to learn a tokenizer from.

    Returns:
        documents in order; one longer than 256k characters comes in several pieces, cut where the
        split pattern has a boundary anyway, so that nothing is learned across a cut.
    """
    corpus = _opened(sources, reading)
    plan = assign_splits(corpus, validation_fraction=validation_fraction, split=split)
    return (piece.text for piece in plans.pieces(corpus, plan) if piece.side == TRAIN)


def _open_sides(folder: Path, tokenizer: Tokenizer, verify: bool | None) -> tuple[Shard, Shard]:
    train, validation = (
        open_shard(folder / f"{side}.tokens", fingerprint=tokenizer.fingerprint, verify=verify) for side in SPLITS
    )
    return train, validation


def is_prepared(key: str) -> bool:
    """Whether the cache has tokens under that `key`."""
    return _folder_of(key).is_dir()


def _folder_of(key: str) -> Path:
    return cache_folder() / "data" / key


def _opened(sources: Sources, reading: dict[str, Any]) -> Corpus:
    return sources if isinstance(sources, Corpus) else open_corpus(sources, **reading)


def _workers_for(n_bytes: int) -> int:
    if n_bytes < WORTH_A_WORKER or not sys.executable:  # an embedded Python cannot start another
        return 1
    return available_cores()


def _key(plan: SplitPlan, tokenizer: Tokenizer) -> str:
    depends_on = [VERSION, tokenizer.fingerprint, plan.digest, plan.policy, plan.fraction]
    return hashlib.sha256(json.dumps(depends_on).encode("utf-8")).hexdigest()[:32]


def _build(
    folder: Path,
    corpus: Corpus,
    plan: SplitPlan,
    tokenizer: Tokenizer,
    workers: int,
    on_progress: Callable[[int, int], None],
) -> bool:
    """Make the folder; returns whether it was not made by another process meanwhile."""
    with ExitStack() as stack:
        with writing_to(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locks.hold(locks.lock_beside(folder), folder, wait=True))
        if folder.is_dir():
            return False
        partial = folder.with_name(folder.name + _PARTIAL)
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
        with writing_to(folder.parent):
            shutil.rmtree(partial, ignore_errors=True)
            _sweep(folder.parent)
            partial.mkdir()
            _check_space(folder.parent, plan, tokenizer)
        _write_shards(partial, corpus, plan, tokenizer, workers, on_progress)
        with writing_to(folder.parent):
            partial.rename(folder)
            sync(folder.parent)
    return True


def _write_shards(
    partial: Path,
    corpus: Corpus,
    plan: SplitPlan,
    tokenizer: Tokenizer,
    workers: int,
    on_progress: Callable[[int, int], None],
) -> None:
    total, done = plan.bytes_of(TRAIN, VALIDATION), 0
    token_bytes = token_dtype(tokenizer.vocab_size).itemsize
    made_for: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint}
    batches = encode(
        plans.pieces(corpus, plan, tokenizer.settings.cuts_before), tokenizer, token_bytes=token_bytes, workers=workers
    )
    with ExitStack() as stack:
        stack.enter_context(writing_to(partial.parent))
        writers = [stack.enter_context(ShardWriter(partial / f"{side}.tokens", **made_for)) for side in SPLITS]
        stack.enter_context(closing(batches))  # or workers would outlive an error
        for encoded in batches:
            writer = writers[encoded.pieces[0].side]
            end = writer.n_tokens
            writer.add(encoded.tokens, encoded.n_bytes)
            for piece, count in zip(encoded.pieces, encoded.counts, strict=True):
                end += count
                if piece.ends:
                    writer.end_document(piece.name, end)
            done += encoded.n_bytes
            on_progress(done, total)


def _check_space(folder: Path, plan: SplitPlan, tokenizer: Tokenizer) -> None:
    """Refuse early what would fail halfway. A token stands for two bytes of text in code, for more in prose."""
    total = plan.bytes_of(TRAIN, VALIDATION)
    needed = total // 2 * token_dtype(tokenizer.vocab_size).itemsize
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{total / 1e6:,.0f} MB of text may take {needed / 1e6:,.0f} MB as tokens, but {folder} has "
            f"{free / 1e6:,.0f} MB free.",
            "Free some space, or name another folder in HANDLOOM_CACHE.",
        )


def _sweep(folder: Path) -> None:
    """Remove what killed processes left behind: the lock of what a living one prepares is held."""
    for abandoned in folder.glob(f"*{_PARTIAL}"):
        whole = abandoned.with_name(abandoned.name.removesuffix(_PARTIAL))
        lock = locks.lock_beside(whole)
        with suppress(CheckpointError), locks.hold(lock, whole):
            shutil.rmtree(abandoned, ignore_errors=True)
