"""Paths, settings of runs that go on, and pipes that cannot be used: rows of docs/errors.md."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from bad_inputs import BadInput


def _environment(**values: str | None):
    """Change the environment; None takes a variable out."""

    def before(undo: ExitStack) -> None:
        patch = undo.enter_context(pytest.MonkeyPatch.context())
        for name, value in values.items():
            if value is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, value)

    return before


CASES = [
    BadInput("data from a variable that is not set", 'handloom train --data "" --run runs/new'),
    BadInput("an empty name for a run", "handloom train --data fox.txt --run="),
    BadInput("an empty name for a model", 'handloom generate Hi --model ""'),
    BadInput("an empty name for a new folder", 'handloom export runs/demo "" --to hf'),
    BadInput(
        "an empty cache folder", "handloom data prepare --data fox.txt", _environment(HANDLOOM_CACHE="")
    ),
    BadInput("the home folder of nobody", "handloom train --data fox.txt --run=~no-such-user/x"),
]
