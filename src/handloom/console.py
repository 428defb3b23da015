"""What is printed for people: no string of a user or a model is markup, an emoji code or a terminal's control sequence.

The only module that makes rich consoles, panels and progress bars (a test holds this). Knows nothing of models or data.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

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
    """Whether a character shows as itself and steers nothing: no control character, no change of direction."""
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
        """The text as it is, whatever stands in it; also that of table cells and titles."""
        return super().render_str(visible(text), **{**settings, "emoji": False, "markup": False})

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """Everything else that comes to be written, such as the parts of a `Text`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Let the error go on to where all commands end alike; rich would exit with 1 here."""
        raise


def new_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console without markup, emoji codes and highlighting."""
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def panel(body: Any, title: str, width: int) -> Panel:
    """A box around `body`; the title, too, is no markup."""
    return Panel(body, title=Text(visible(title)), title_align="left", width=width)


def column(field: str) -> TextColumn:
    """A column of a progress bar with a text, for example {task.description}."""
    return TextColumn(field, markup=False)


def progress(*columns: ProgressColumn, console: Console | None = None) -> Progress:
    """A progress bar (on standard error if no console is given), which only a terminal gets to see."""
    where = console or new_console(stderr=True)
    return Progress(*columns, console=where, transient=True, disable=not where.is_terminal)


def plain_table(title: str) -> Table:
    """A table without lines, its title in bold on the left."""
    return Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1), header_style="")


def note(text: str, kind: str = "Note: ") -> None:
    """Print a line on standard error: what is not the result of a command."""
    print(kind + visible(worded(text)), file=sys.stderr)


def write(text: str, end: str = "\n") -> None:
    """Write a user's or a model's text to standard output: exactly to a file or pipe, visible to a terminal."""
    if sys.stdout is not None and sys.stdout.isatty():
        text = visible(text)
    print(text, end=end, flush=True)


def print_json(value: Any) -> None:
    """Write one JSON value on a line. What a terminal would obey, and half a character, is escaped as JSON has it."""
    line = json.dumps(value, ensure_ascii=False)
    if not line.isprintable():
        line = "".join(c if is_visible(c) else json.dumps(c)[1:-1] for c in line)
    print(line)
