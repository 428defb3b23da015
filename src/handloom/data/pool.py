"""Tokenize pieces in several processes, in order, with a bounded number of them in flight.

Our own worker processes rather than `ProcessPoolExecutor`: its `spawn` and `forkserver` run the
user's script again in every worker, which breaks scripts without a `__main__` guard, and `fork` is
unsafe once torch has started threads. A worker here is a fresh Python that is told which tokenizer
to load. Knows pieces and tokens; no files of text and no shards.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
from array import array
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from handloom.data import worker
from handloom.data.chunking import PIECE
from handloom.data.split import Piece
from handloom.data.worker import encode_texts, read_frame, write_frame
from handloom.errors import DataError
from handloom.temporary import TemporaryFolder
from handloom.tokenizer.base import Tokenizer

# Below this many bytes a worker's start costs more than it saves.
WORTH_A_WORKER = 8 << 20
# Not `-m`, which would let a json.py in the current folder stand in for Python's.
_PROGRAM = f"import sys; del sys.path[0]; from {worker.__name__} import main; main(sys.argv[1], int(sys.argv[2]))"


@dataclass(frozen=True)
class Encoded:
    """Some pieces of one side and their tokens, as bytes in the type they have on disk."""

    pieces: list[Piece]
    counts: array[int]
    tokens: bytes
    n_bytes: int


def encode(
    pieces: Iterable[Piece], tokenizer: Tokenizer, *, token_bytes: int, workers: int
) -> Generator[Encoded, None, None]:
    """Tokenize `pieces`; with one worker in this process, else in as many others.

    Returns:
        the tokens, each side in the order of its pieces, however the workers raced. Closing the
        generator ends the workers.
    Raises:
        DataError: a worker process died or could not be started.
    """
    batches = _batched(pieces)
    if workers == 1:
        for batch in batches:
            counts, tokens = encode_texts(tokenizer, [(p.text, p.ends) for p in batch], token_bytes)
            yield Encoded(batch, counts, tokens, sum(len(p.text.encode("utf-8")) for p in batch))
        return
    with _Pool(tokenizer, token_bytes, workers) as pool:
        flying: deque[Future[Encoded]] = deque()
        for batch in batches:
            flying.append(pool.submit(batch))
            if len(flying) > 2 * workers:  # one at work and one waiting for each: enough to keep them busy
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()


def _batched(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Pieces of one side together, about `PIECE` characters, so that short documents travel in company."""
    held: dict[int, list[Piece]] = {}
    sizes: dict[int, int] = {}
    for piece in pieces:
        side = piece.side
        held.setdefault(side, []).append(piece)
        sizes[side] = sizes.get(side, 0) + len(piece.text)
        if sizes[side] >= PIECE:
            yield held.pop(side)
            sizes[side] = 0
    yield from held.values()


class _Pool:
    """Worker processes, and one thread for each that talks with it."""

    def __init__(self, tokenizer: Tokenizer, token_bytes: int, workers: int) -> None:
        self._tokenizer, self._token_bytes, self._workers = tokenizer, token_bytes, workers
        self._all: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="handloom-tokenize")

    def __enter__(self) -> _Pool:
        try:
            self._start()
        except OSError as error:
            self._close()
            raise DataError(
                f"Worker processes could not be started ({error.strerror or error}).",
                "Tokenize in this process instead, with --workers 1.",
            ) from None
        except BaseException:
            self._close()
            raise
        return self

    def _start(self) -> None:
        with TemporaryFolder("tokenizer") as folder:
            self._tokenizer.save(Path(folder))
            for _ in range(self._workers):
                self._all.append(_Worker(folder, self._token_bytes))
            for one in self._all:
                one.greet(self._tokenizer.fingerprint)  # it has loaded the folder by then
                self._idle.put(one)

    def submit(self, batch: list[Piece]) -> Future[Encoded]:
        return self._threads.submit(self._ask, batch)

    def _ask(self, batch: list[Piece]) -> Encoded:
        one = self._idle.get()
        try:
            return one.ask(batch)
        finally:
            self._idle.put(one)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for one in self._all:
            one.kill()  # an answer that nobody wants any more is not waited for
        self._threads.shutdown(cancel_futures=True)
        for one in self._all:
            one.close()


class _Worker:
    """One worker process, asked by one thread at a time."""

    def __init__(self, folder: str, token_bytes: int) -> None:
        package_home = str(Path(worker.__file__).parents[2])
        paths = os.pathsep.join(filter(None, (package_home, os.environ.get("PYTHONPATH"))))
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, folder, str(token_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env={**os.environ, "PYTHONPATH": paths},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout

    def greet(self, fingerprint: str) -> None:
        """Wait until it is ready, and make sure that it loaded the same tokenizer."""
        answer = self._read()
        if answer != fingerprint.encode("ascii"):
            raise DataError(
                "A worker process loaded another tokenizer than the one that was given.",
                "Use --workers 1, and report this with the tokenizer folder.",
            )

    def ask(self, batch: list[Piece]) -> Encoded:
        texts = json.dumps([(piece.text, piece.ends) for piece in batch], ensure_ascii=False)
        try:
            write_frame(self._questions, texts.encode("utf-8"))
        except OSError:
            raise self._death() from None
        counts = array("Q")
        counts.frombytes(self._read())
        return Encoded(batch, counts, self._read(), sum(len(piece.text.encode("utf-8")) for piece in batch))

    def _read(self) -> bytes:
        frame = read_frame(self._answers)
        if frame is None:
            raise self._death()
        return frame

    def _death(self) -> DataError:
        code = self._process.wait()
        self._complaints.seek(0)
        lines = self._complaints.read().decode("utf-8", "replace").strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return DataError(
            f"A worker process that tokenizes {how}{last}.",
            "If memory ran out, close other programs or use fewer processes: --workers 1.",
        )

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.wait()
        for stream in (self._questions, self._answers, self._complaints):
            try:
                stream.close()
            except BrokenPipeError:  # a question it did not live to read
                continue
