"""Handloom: a GPT written by hand in PyTorch, for the computer you already have.

    import handloom
    lm = handloom.load("runs/demo")
    print(lm.generate("Learning is", temperature=0.8, top_p=0.9))

Importing this package is quick: torch is imported when a model is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from handloom import errors

if TYPE_CHECKING:
    from handloom.errors import HandloomError
    from handloom.inference.language_model import LanguageModel
    from handloom.loading import load

__version__ = "0.1.0"
__all__ = ["HandloomError", "LanguageModel", "errors", "load"]

_HOMES = {
    "HandloomError": "handloom.errors",
    "LanguageModel": "handloom.inference.language_model",
    "load": "handloom.loading",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'handloom' has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(_HOMES[name]), name)
    except (ImportError, OSError) as error:
        from handloom.packages import import_failure

        raise import_failure(error) or error from error
