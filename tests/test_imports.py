"""The graph of imports: no module of the package needs itself, by whatever way, and the light ones stay light."""

from __future__ import annotations

import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import grimp


def test_no_circle() -> None:
    """Counting imports inside functions; those for type checkers only never happen."""
    graph = grimp.build_graph("handloom", exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 100
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        raise AssertionError(" <- ".join(circle)) from None


def test_importing_the_tokenizer_is_light() -> None:
    code = "import sys, handloom.tokenizer; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert not {"torch", "tiktoken", "regex", "numpy", "jinja2", "handloom.tokenizer.bpe"} & set(loaded)
