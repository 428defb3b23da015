"""The limits of the control group (a container, a systemd slice) that this process runs in: cores and memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_UNLIMITED = 1 << 60
"""Version 1 writes a number near 2^63 where there is no limit of memory."""


@dataclass(frozen=True)
class Limits:
    """What a control group allows; None where it sets no limit."""

    cores: float | None = None
    """Processor time: 1.5 are three halves of a core."""
    memory_bytes: int | None = None


def limits(root: Path = Path("/")) -> Limits:
    """The smallest limits of this process's groups and of those around them, of version 2 and 1; `root` holds `proc`
    and `sys`."""
    cores: list[float] = []
    memory: list[int] = []
    for folder in _folders(root):
        version_1 = [*_numbers(folder / "cpu.cfs_quota_us"), *_numbers(folder / "cpu.cfs_period_us")]
        for numbers in (version_1, _numbers(folder / "cpu.max")):
            if len(numbers) == 2 and min(numbers) > 0:
                cores.append(numbers[0] / numbers[1])
        for name in ("memory.max", "memory.limit_in_bytes"):
            memory += [number for number in _numbers(folder / name) if number < _UNLIMITED]
    return Limits(min(cores, default=None), min(memory, default=None))


def _folders(root: Path) -> Iterator[Path]:
    """The folders of the groups, and of all above them: each limit holds for what is below it.

    The mounted root comes always: in a container it is the group itself, whatever its path is called outside.
    """
    mounted = root / "sys" / "fs" / "cgroup"
    for line in _lines(root / "proc" / "self" / "cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names: Iterable[str] = [controllers, *controllers.split(",")] if controllers else ["", "unified"]
        for name in dict.fromkeys(names):
            parts = PurePosixPath(path.strip("/"))
            for part in (parts, *parts.parents):
                yield mounted / name / part
    yield mounted


def _lines(path: Path) -> list[str]:
    with suppress(OSError):
        return path.read_text(encoding="utf-8").splitlines()
    return []


def _numbers(path: Path) -> list[int]:
    """The numbers of a file: none where it is not there, or where one of its words is `max`."""
    with suppress(ValueError):
        return [int(word) for word in " ".join(_lines(path)).split()]
    return []
