"""Caches the output of frozen lower layers on disk, so each training row passes through them once.

With `method=last:2` of 12 blocks, five sixths of the forward pass are the same in every epoch. The cache is an unnamed
file in the run's folder: it goes with the process, however that ends, and a resumed run fills it again.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from handloom.model.gpt import GPT

DISK_FRACTION = 0.5
"""Of the disk space that is free at the beginning, at most this much is used."""


class ActivationStore:
    """Hidden states of rows, float32, by key, in an unnamed file in `folder`; `limit` is the most bytes to write."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.limit = int(DISK_FRACTION * shutil.disk_usage(folder).free) if limit is None else limit
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - lives as long as this
        weakref.finalize(self, self._file.close)
        self._offsets: dict[bytes, int] = {}
        self._end = 0

    def __len__(self) -> int:
        return len(self._offsets)

    def get(self, key: bytes, shape: tuple[int, ...]) -> Tensor | None:
        """The row under that key, or None."""
        if key not in self._offsets:
            return None
        row = torch.empty(shape)
        self._file.seek(self._offsets[key])
        view, done = memoryview(_bytes(row)), 0
        while done < len(view):
            done += self._file.readinto(view[done:])  # type: ignore[attr-defined]
        return row

    def put(self, key: bytes, row: Tensor) -> None:
        """Store a row on the CPU if there is room; a full disk ends caching, not training."""
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
        self._offsets[key] = self._end
        self._end += len(view)


def _bytes(row: Tensor) -> Any:
    """The memory of a tensor."""
    return row.numpy().reshape(-1).view("uint8")


class CachedBackbone:
    """Computes the hidden states of a GPT of which nothing below block `layer` is trained.

    `layer` is the number of blocks if none is. Each row passes through the frozen layers alone, without padding and
    without dropout (see `TrainStep.train`), so that its output is the same every time, whatever the other rows of the
    batch are. Without a `store` it is computed each time.
    """

    def __init__(self, model: GPT, layer: int, store: ActivationStore | None) -> None:
        self.model, self.layer, self.store = model, layer, store
        self.computed = 0

    def hidden(self, tokens: Tensor, segments: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, T, C), as `GPT.hidden`; beyond `lengths` (B) rows are padding, with undefined output."""
        lower = self._lower(tokens, segments, lengths)  # (B, T, C)
        return self.model.hidden(lower, segment_ids=segments, start_at_layer=self.layer)  # (B, T, C)

    @torch.no_grad()
    def _lower(self, tokens: Tensor, segments: Tensor | None, lengths: Tensor | None) -> Tensor:
        """The input of the first trained block, (B, T, C); 0 for padding."""
        if self.layer == 0:  # the embedding alone, which is the same however many rows are read
            return self.model.hidden(tokens, segment_ids=segments, stop_at_layer=0)
        B, T = tokens.shape
        rows = []
        for row, end in enumerate([T] * B if lengths is None else lengths.cpu().tolist()):
            part = None if segments is None else segments[row : row + 1, :end]
            lower = self._row(tokens[row : row + 1, :end], part)  # (1, end, C)
            rows.append(F.pad(lower, (0, 0, 0, T - end)))  # (1, T, C)
        return torch.cat(rows)  # (B, T, C)

    def _row(self, tokens: Tensor, segments: Tensor | None) -> Tensor:
        """The same for one row: (1, T) -> (1, T, C)."""
        if self.store is None:
            return self.model.hidden(tokens, segment_ids=segments, stop_at_layer=self.layer).float()
        mixed = torch.is_autocast_enabled(tokens.device.type)
        key = hashlib.blake2b(bytes([mixed]) + tokens.cpu().numpy().tobytes(), digest_size=16)
        key.update(b"" if segments is None else segments.cpu().numpy().tobytes())
        row = self.store.get(key.digest(), (*tokens.shape, self.model.config.embed_dim))
        if row is None:
            self.computed += 1
            row = self.model.hidden(tokens, segment_ids=segments, stop_at_layer=self.layer).float().cpu()  # (1, T, C)
            self.store.put(key.digest(), row)
        return row.to(tokens.device)
