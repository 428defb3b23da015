"""What is printed: safe text, numbers, tables, progress bars, JSON lines and notes.

No string of a user or a model is markup, an emoji code or a control sequence of a terminal. The only module that makes
rich consoles, panels and progress bars (a test holds this). Knows no models and no data.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import box
from rich import console as rich_console
from rich.panel import Panel
from rich.progress import Progress, ProgressColumn, TextColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from handloom.errors import worded

# Format characters with a place in words: joiners of several scripts, and Arabic number signs, which have a glyph.
_IN_WORDS = frozenset("\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u08e2")
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def is_visible(character: str) -> bool:
    """Whether a character shows as itself: not a control character, not a change of direction."""
    return (
        character.isprintable()
        or character in "\n\t"
        or character in _IN_WORDS
        or unicodedata.category(character) not in _INVISIBLE
    )


def visible(text: str) -> str:
    r"""The same text with escapes such as \x1b and \u202e for what would steer the terminal; line ends stay."""
    if text.isprintable():
        return text
    return "".join(c if is_visible(c) else c.encode("unicode_escape").decode("ascii") for c in text)


class Console(rich_console.Console):
    """A rich console that reads no markup in strings, and writes no control characters that are not its own."""

    def render_str(self, text: str, **settings: Any) -> Text:
        """The text as it is, also that of table cells and titles."""
        return super().render_str(visible(text), **{**settings, "emoji": False, "markup": False})

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """Everything else, such as the parts of a `Text`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Raise the error for `cli.main`, where all commands end; rich would exit with 1 here."""
        raise


def new_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console without markup, emoji codes and highlighting."""
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def panel(body: Any, title: str, width: int) -> Panel:
    """A box around `body`; its title is not markup either."""
    return Panel(body, title=Text(visible(title)), title_align="left", width=width)


def column(field: str) -> TextColumn:
    """A column of a progress bar with a text, for example {task.description}."""
    return TextColumn(field, markup=False)


def progress(*columns: ProgressColumn, console: Console | None = None) -> Progress:
    """A progress bar, on standard error if no console is given; shown on a terminal only."""
    where = console or new_console(stderr=True)
    return Progress(*columns, console=where, transient=True, disable=not where.is_terminal)


@contextmanager
def activity() -> Iterator[Callable[[str], None]]:
    """Shows what is being done, in a line that goes away; on a terminal only. Gives a function that takes the words."""
    with progress(TextColumn("{task.description}", markup=False)) as bar:
        task = bar.add_task("", total=None)
        yield lambda words: bar.update(task, description=words)


def table(columns: Iterable[str], rows: Iterable[Iterable[str | Text]] = (), *, title: str = "", **how: Any) -> Table:
    """A table with a line below its head; a column whose name begins with ">" is aligned to the right."""
    made = Table(title=title or None, **{"title_justify": "left", "box": box.SIMPLE_HEAD, "pad_edge": False, **how})
    for name in columns:
        right = name.startswith(">")
        made.add_column(name.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def plain_table(title: str) -> Table:
    """A table without lines, its title in bold on the left."""
    return table((), title=title, title_style="bold", box=None, padding=(0, 1), header_style="")


# Numbers for people


def number(value: float | None, digits: int = 3) -> str:
    """`1,234.568`; `-` for None."""
    return "-" if value is None else f"{value:,.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """0.1234 as `12.3%`; `-` for None."""
    return "-" if value is None else f"{value:.{digits}%}"


def pluralize(count: int, one: str, many: str | None = None) -> str:
    """`1 document`, `2 documents`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def megabytes(count: float) -> str:
    """Bytes: `18 kB`, `3.2 MB`, `1,530 MB`."""
    if count < 1e6:
        return f"{count / 1e3:,.0f} kB"
    return f"{count / 1e6:,.1f} MB" if count < 1e7 else f"{count / 1e6:,.0f} MB"


# Lines


def note(text: str, kind: str = "Note: ") -> None:
    """Print a line on standard error: what is not the result of a command."""
    print(kind + visible(worded(text)), file=sys.stderr)


def write(text: str, end: str = "\n") -> None:
    """Write a user's or a model's text to standard output: exactly to a file or pipe, visible to a terminal."""
    if sys.stdout is not None and sys.stdout.isatty():
        text = visible(text)
    print(text, end=end, flush=True)


def print_json(value: Any) -> None:
    """Write one JSON value on a line; control sequences and lone surrogates are escaped."""
    line = json.dumps(value, ensure_ascii=False)
    if not line.isprintable():
        line = "".join(c if is_visible(c) else json.dumps(c)[1:-1] for c in line)
    print(line)
