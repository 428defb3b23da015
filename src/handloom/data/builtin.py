"""Two corpora that need no download: the documentation and the source of the Python that runs this.

`python-docs` is about 2 MB of English: the docstrings of the standard library, one document a module, and the language
reference that `help()` shows, one document a topic. `python-source` is about 11 MB of code, one document a file.
Sources are parsed, never imported.
"""

from __future__ import annotations

import ast
import os
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from handloom.errors import DataError

# Tests are odd code, installed packages are not the library, pydoc_data is English (python-docs has it
# as topics), the rest depends on the machine.
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "_bundled", "pydoc_data", "__pycache__"}
_LEFT_OUT_PREFIXES = ("config-", "_sysconfigdata", ".")
_SCOPES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_REMEDY = (
    "Install Python with its sources (the full python3 package, or one from python.org), or name text files "
    "of your own."
)


def python_docs(library: Path | None = None) -> Iterator[tuple[str, str]]:
    """Titles and texts in sorted order: docstrings by module, then the language reference by topic.

    `library` is the folder of the standard library, by default that of the running Python. Raises DataError if it lacks
    sources or `pydoc_data`.
    """
    library = library or _library()
    topics = library / "pydoc_data" / "topics.py"
    if not topics.is_file():
        raise DataError(f"python-docs: this Python lacks its language reference ({topics} is missing).", _REMEDY)
    for path in _modules(library):
        text = "\n\n".join(_docstrings(_parsed(path)))
        if text:
            yield path.relative_to(library).with_suffix("").as_posix(), text + "\n"
    for statement in _parsed(topics).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            for title, text in sorted(ast.literal_eval(statement.value).items()):
                yield f"topics/{title}", text.strip("\n") + "\n"


def python_source(library: Path | None = None) -> Iterator[tuple[str, str]]:
    """The standard library's own code, one document a file; otherwise as `python_docs`."""
    library = library or _library()
    for path in _modules(library):
        text = _decoded(path)
        if text:
            yield path.relative_to(library).as_posix(), text


BUILTIN: dict[str, Callable[[], Iterable[tuple[str, str]]]] = {
    "python-docs": python_docs,
    "python-source": python_source,
}


def _library() -> Path:
    library = Path(sysconfig.get_path("stdlib"))
    if not (library / "ast.py").is_file():
        raise DataError(f"This Python lacks its library sources ({library / 'ast.py'} is missing).", _REMEDY)
    return library


def _modules(library: Path) -> list[Path]:
    def kept(names: list[str]) -> list[str]:
        return [name for name in names if name not in _LEFT_OUT and not name.startswith(_LEFT_OUT_PREFIXES)]

    found = []
    for where, folders, files in os.walk(library):
        folders[:] = kept(folders)
        found += [Path(where, name) for name in kept(files) if name.endswith(".py")]
    return sorted(found, key=lambda path: path.relative_to(library).parts)


def _decoded(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return ""  # a module with another encoding cookie is an exhibit, not prose
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).", _REMEDY) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _parsed(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd escapes in the library's strings are not our user's business
        try:
            return ast.parse(_decoded(path))
        except SyntaxError:
            return ast.Module(body=[], type_ignores=[])  # templates of code are not modules


def _docstrings(node: ast.AST) -> Iterator[str]:
    """Cleaned docstrings in the order of the source. Walks statements only: expressions hold none."""
    if isinstance(node, _SCOPES):
        text = ast.get_docstring(node)
        if text:
            yield text.encode("utf-8", "replace").decode("utf-8")  # an escape may stand for half a surrogate pair
    for block in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, block, ()):
            if isinstance(child, ast.stmt | ast.excepthandler):
                yield from _docstrings(child)
