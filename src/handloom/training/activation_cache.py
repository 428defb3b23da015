"""Frozen lower blocks say the same of a row every time: they are asked once, and the answer is kept on disk.

With `--method last:2` of 12 blocks, five sixths of the work forward are the same in every epoch. What the
frozen blocks make of a row of tokens is written to a nameless file in the run's folder and read from there
when the row comes again. The file is gone with the process, however that ends; a resumed run asks again.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from handloom.model.gpt import GPT
from handloom.model.kv_cache import KVCache

SHARE = 0.5
"""Of the disk space that is free at the beginning, at most this much is used."""


class ActivationStore:
    """Hidden states of rows, float32, by key, in a file without a name.

    Args:
        folder: on whose disk.
        limit: bytes at most; None: half of what is free there.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.limit = int(SHARE * shutil.disk_usage(folder).free) if limit is None else limit
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - lives as long as this
        weakref.finalize(self, self._file.close)
        self._places: dict[bytes, int] = {}
        self._end = 0

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: bytes, shape: tuple[int, ...]) -> Tensor | None:
        """What was kept under that key, or None."""
        if key not in self._places:
            return None
        row = torch.empty(shape)
        self._file.seek(self._places[key])
        view, done = memoryview(_bytes(row)), 0
        while done < len(view):
            done += self._file.readinto(view[done:])  # type: ignore[attr-defined]
        return row

    def put(self, key: bytes, row: Tensor) -> None:
        """Keep a row, if there is room; a disk that is full is no reason to stop."""
        view, done = memoryview(_bytes(row.contiguous())), 0
        if self._end + len(view) > self.limit:
            return
        try:
            self._file.seek(self._end)
            while done < len(view):
                done += self._file.write(view[done:])
        except OSError:
            self.limit = 0
            return
        self._places[key] = self._end
        self._end += len(view)


def _bytes(row: Tensor) -> Any:
    """The memory of a tensor."""
    return row.numpy().reshape(-1).view("uint8")


class CachedBackbone:
    """Stands for a GPT of which nothing below block `layer` is trained.

    There is no dropout in what is frozen, so that it says the same every time. Each row goes through it
    alone, so that what is said of a row does not depend on those beside it, nor on when it is asked.

    Args:
        model: a GPT.
        layer: the lowest block that trains; the number of blocks if none does.
        rows: where answers are kept; None: nowhere, and they are computed each time.
    """

    def __init__(self, model: GPT, layer: int, rows: ActivationStore | None) -> None:
        self.model, self.layer, self.rows = model, layer, rows
        self.asked = 0

    @property
    def training(self) -> bool:
        """Whether dropout is on above."""
        return self.model.training

    @property
    def lm_head(self) -> nn.Module:
        """(..., C) -> (..., V)."""
        return self.model.lm_head

    def train(self, mode: bool = True) -> CachedBackbone:
        """Switch dropout on or off in the blocks that are trained, and above them."""
        self.model.train(mode)
        for frozen in (self.model.embedding, *self.model.blocks[: self.layer]):
            frozen.eval()
        return self

    def eval(self) -> CachedBackbone:
        """Switch dropout off."""
        return self.train(False)

    def hidden(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        segments: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """(B, T) -> (B, T, C), as `GPT.hidden`."""
        if cache is not None:
            return self.model.hidden(tokens, cache, segments)
        return self.model.above(self._below(tokens, segments, lengths), self.layer, segments)

    @torch.no_grad()
    def _below(self, tokens: Tensor, segments: Tensor | None, lengths: Tensor | None) -> Tensor:
        """What the first trained block is given to read, (B, T, C); 0 for padding.

        A row is read without its padding: however much of it there is, the row is known again.
        """
        if self.layer == 0:  # the embedding alone, which is the same however many rows are read
            return self.model.below(tokens, 0, segments)
        B, T = tokens.shape
        found = []
        for row, end in enumerate([T] * B if lengths is None else lengths.tolist()):
            part = None if segments is None else segments[row : row + 1, :end]
            kept = self._row(tokens[row : row + 1, :end], part)  # (1, end, C)
            found.append(F.pad(kept, (0, 0, 0, T - end)))  # (1, T, C)
        return torch.cat(found)  # (B, T, C)

    def _row(self, tokens: Tensor, segments: Tensor | None) -> Tensor:
        """The same for one row: (1, T) -> (1, T, C)."""
        if self.rows is None:
            return self.model.below(tokens, self.layer, segments).float()
        mixed = torch.is_autocast_enabled("cpu")
        key = hashlib.blake2b(bytes([mixed]) + tokens.numpy().tobytes(), digest_size=16)
        key.update(b"" if segments is None else segments.numpy().tobytes())
        shape = (*tokens.shape, self.model.config.embed_dim)
        kept = self.rows.get(key.digest(), shape)
        if kept is None:
            self.asked += 1
            kept = self.model.below(tokens, self.layer, segments).float()
            self.rows.put(key.digest(), kept)
        return kept
