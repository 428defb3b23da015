"""What this machine is and what it grants us: cores, memory, instruction sets, folders.

Knows nothing of models or text. torch is imported only inside the functions that ask it.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Where prepared data and learned tokenizers are kept: `$HANDLOOM_CACHE`, else the user's cache folder."""
    named = os.environ.get("HANDLOOM_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "handloom"
