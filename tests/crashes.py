"""A process that ends at any of its calls to the file system, as SIGKILL would end it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

CALLS = ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync", "link")


class Killed(BaseException):
    """No `except Exception` sees it; and from then on no call of the killed process does anything."""


def killed_everywhere(work: Callable[[], object], prepare: Callable[[], object]) -> Iterator[int]:
    """Run `work` and kill it before its first call to the file system, its second, and so on, until it ends.

    Args:
        work: is run for each.
        prepare: is called before each.

    Yields:
        after each kill, how many calls went before it.
    """
    for allowed in range(10_000):
        prepare()
        done = 0

        def counted(call, allowed=allowed):
            def instead(*args, **named):
                nonlocal done
                if done >= allowed:
                    raise Killed
                done += 1
                return call(*args, **named)

            return instead

        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                work()
            except Killed:
                pass
            else:
                return
        yield allowed
