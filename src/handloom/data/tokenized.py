"""Documents become token shards in the cache, once: the same text and tokenizer are not prepared twice.

A prepared folder is called by the SHA-256 of everything that its tokens depend on. It is made under a temporary name
and renamed when whole, by one process at a time: another that needs the same waits, and takes what was made.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handloom import locks
from handloom.data import split as splits
from handloom.data.corpus import Corpus, open_corpus
from handloom.data.shards import VERSION, Shard, ShardWriter, open_shard, token_dtype, writing_to
from handloom.data.split import SPLITS, TRAIN, VALIDATION, Piece, SplitPlan, assign_splits
from handloom.data.windows import check_held_out, count_windows
from handloom.errors import CheckpointError, ConfigError, DataError
from handloom.runtime import available_cores, cache_folder
from handloom.storage import sync
from handloom.tokenizer.base import Tokenizer

Sources = Sequence[str | Path] | str | Path | Corpus
Encoded = tuple[list[Piece], list[int], bytes]
"""Some pieces of one split, the number of tokens of each, and all their tokens as they are on disk."""
_PARTIAL = ".partial"


@dataclass(frozen=True)
class PrepareStats:
    """Counts of one `prepare`. Bytes are UTF-8 bytes of text; end-of-text tokens stand for none."""

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
    seconds: float  # all of it, the walk that assigns documents included


@dataclass(frozen=True)
class TokenData:
    """Tokens of both splits, memory-mapped."""

    train: Shard
    validation: Shard
    folder: Path
    copies: int = 0  # documents that were left out as exact copies of others, where that is known

    @property
    def key(self) -> str:
        """Stands for the text, the split and the tokenizer together."""
        return self.folder.name

    def windows(self, context_length: int, stride: int | None) -> int:
        """Windows of text in an epoch; DataError, with the reason, for a split that is too short."""
        train, held_out, copies = self.train, self.validation, self.copies
        stride = stride or context_length
        count = count_windows(train.n_tokens, context_length, stride, n_bytes=train.n_bytes, copies=copies)
        check_held_out(held_out.n_tokens, n_bytes=held_out.n_bytes, copies=copies)
        return count

    def names(self, split: int) -> Iterator[str]:
        """The documents of a split (TRAIN or VALIDATION), in order, as they were called when they were prepared."""
        return iter((self.train, self.validation)[split].names)


@dataclass(frozen=True, kw_only=True)
class PreparedData(TokenData):
    """The same, with the corpus it was made from."""

    report: PrepareStats
    corpus: Corpus
    plan: SplitPlan

    def names(self, split: int) -> Iterator[str]:
        """As for any tokens, but called as the sources call them now; reads the text again."""
        pieces = splits.pieces(self.corpus, self.plan)
        return (piece.name for piece in pieces if piece.split == split and piece.ends)

    def sentences(self) -> list[tuple[str, bool]]:
        """What is worth printing about the text, and whether there is something to do about it."""
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

    `sources` is what `open_corpus` takes, with its settings in `reading`; or the corpus it gave. For
    `validation_fraction` and `split` see `assign_splits`, for `verify` `open_shard`. `workers` threads tokenize, by
    default one for each available core; they need tiktoken to run side by side. `on_progress` is called with the bytes
    of text done and in all.

    Raises DataError for text that cannot be used, a damaged shard in the cache, and a full disk; ConfigError for a
    setting outside its limits.
    """
    began = time.monotonic()
    if workers is not None and workers < 1:
        problem = f"workers is {workers}, but must be at least 1."
        raise ConfigError(problem, "Leave it out to use every core.", setting="workers")
    corpus = _corpus(sources, reading)
    plan = assign_splits(corpus, validation_fraction=validation_fraction, split=split)
    workers = workers or available_cores()
    depends_on = [VERSION, tokenizer.fingerprint, plan.digest, plan.policy, plan.fraction]
    folder = _folder_of(hashlib.sha256(json.dumps(depends_on).encode("utf-8")).hexdigest()[:32])
    reused = folder.is_dir() or not _Preparation(
        corpus, plan, tokenizer, workers=workers, on_progress=on_progress
    ).make(folder)
    data = _open(folder, tokenizer, verify)
    train, validation = data.train, data.validation
    report = PrepareStats(
        documents=len(plan.assignments),
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
    copies = plan.omissions["duplicate"]
    return PreparedData(train, validation, folder, copies, report=report, corpus=corpus, plan=plan)


def open_cached(key: str, tokenizer: Tokenizer) -> TokenData | None:
    """What was prepared under that `key`, without reading its text; None if the cache does not have it; DataError for
    a damaged shard, or one of another tokenizer."""
    return _open(_folder_of(key), tokenizer, None) if is_prepared(key) else None


def training_documents(
    sources: Sources, *, validation_fraction: float = 0.1, split: str = "auto", **reading: Any
) -> Iterator[str]:
    """The text that `prepare` with the same settings puts into training, to train a tokenizer on.

    Documents come in order; one longer than 256k characters in several pieces, cut where the split pattern has a
    boundary anyway, so that nothing is learned across a cut.
    """
    corpus = _corpus(sources, reading)
    plan = assign_splits(corpus, validation_fraction=validation_fraction, split=split)
    return (piece.text for piece in splits.pieces(corpus, plan) if piece.split == TRAIN)


def is_prepared(key: str) -> bool:
    """Whether the cache has tokens under that `key`."""
    return _folder_of(key).is_dir()


def _folder_of(key: str) -> Path:
    return cache_folder() / "data" / key


def _corpus(sources: Sources, reading: dict[str, Any]) -> Corpus:
    return sources if isinstance(sources, Corpus) else open_corpus(sources, **reading)


def _open(folder: Path, tokenizer: Tokenizer, verify: bool | None) -> TokenData:
    train, validation = (
        open_shard(folder / f"{split}.tokens", fingerprint=tokenizer.fingerprint, verify=verify) for split in SPLITS
    )
    return TokenData(train, validation, folder)


@dataclass(frozen=True)
class _Preparation:
    """One corpus on its way into the cache."""

    corpus: Corpus
    plan: SplitPlan
    tokenizer: Tokenizer
    workers: int
    on_progress: Callable[[int, int], None] | None

    def make(self, folder: Path) -> bool:
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
                total = self.plan.bytes_of(TRAIN, VALIDATION)
                # A token stands for two bytes of text in code, for more in prose: refuse early what would fail halfway.
                needed = total // 2 * token_dtype(self.tokenizer.vocab_size).itemsize
                if needed > (free := shutil.disk_usage(folder.parent).free):
                    raise DataError(
                        f"{total / 1e6:,.0f} MB of text may take {needed / 1e6:,.0f} MB as tokens, but {folder.parent} "
                        f"has {free / 1e6:,.0f} MB free.",
                        "Free some space, or name another folder in HANDLOOM_CACHE.",
                    )
                self._write_shards(partial)
                partial.rename(folder)
                sync(folder.parent)
        return True

    def _write_shards(self, partial: Path) -> None:
        total, done = self.plan.bytes_of(TRAIN, VALIDATION), 0
        tokenizer, pieces = self.tokenizer, splits.pieces(self.corpus, self.plan, self.tokenizer.settings.cuts_before)
        made_for: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint}
        with ExitStack() as stack:
            writers = [stack.enter_context(ShardWriter(partial / f"{name}.tokens", **made_for)) for name in SPLITS]
            for batch, counts, tokens in stack.enter_context(closing(_encode(pieces, tokenizer, self.workers))):
                writer = writers[batch[0].split]
                end, n_bytes = writer.n_tokens, sum(len(piece.text.encode("utf-8")) for piece in batch)
                writer.add(tokens, n_bytes)
                for piece, count in zip(batch, counts, strict=True):
                    end += count
                    if piece.ends:
                        writer.end_document(piece.name, end)
                done += n_bytes
                if self.on_progress:
                    self.on_progress(done, total)


def _encode(pieces: Iterable[Piece], tokenizer: Tokenizer, workers: int) -> Generator[Encoded, None, None]:
    """Tokenize in threads, since tiktoken releases the interpreter's lock; each split in the order of its pieces."""
    dtype = token_dtype(tokenizer.vocab_size)

    def encode(batch: list[Piece]) -> Encoded:
        counts, tokens = [], list[int]()
        for piece in batch:
            ids = tokenizer.encode(piece.text) + [tokenizer.eos_token_id] * piece.ends
            counts.append(len(ids))
            tokens += ids
        return batch, counts, np.array(tokens, dtype=dtype).tobytes()

    waiting: deque[Future[Encoded]] = deque()
    threads = ThreadPoolExecutor(workers, thread_name_prefix="handloom-tokenize")
    try:
        for batch in splits.batched(pieces):
            waiting.append(threads.submit(encode, batch))
            if len(waiting) > 2 * workers:  # one at work and one waiting for each: enough to keep them busy
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


def _sweep(folder: Path) -> None:
    """Remove what killed processes left: the lock of what a living one prepares is held."""
    for abandoned in folder.glob(f"*{_PARTIAL}"):
        whole = abandoned.with_name(abandoned.name.removesuffix(_PARTIAL))
        with suppress(CheckpointError), locks.hold(locks.lock_beside(whole), whole):
            shutil.rmtree(abandoned, ignore_errors=True)
