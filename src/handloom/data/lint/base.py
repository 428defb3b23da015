"""What both linters stand on: settings, reading to the end whatever is faulty, and findings on copies."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handloom.data.chunking import check_separator
from handloom.data.examples import KINDS
from handloom.data.lint.rules import NOTE, WARNING, Finding
from handloom.data.lint.stats import DataStats
from handloom.data.text_io import TEXT_FIELD, Origin, ReadOptions, form_of, read_raw
from handloom.errors import ConfigError, DataError
from handloom.settings import Settings, setting
from handloom.tokenizer.base import END_OF_TEXT, Tokenizer

if TYPE_CHECKING:
    from handloom.data.lint.near_duplicates import NearDuplicates


@dataclass(frozen=True)
class LintSettings(Settings):
    """The settings of a run that decide about data; an unknown `split` is refused while the text is split."""

    task: str = setting(
        "text",
        "Running text, sft (conversations), dpo (pairs of answers) or classify (texts with labels).",
        choices=("text", *KINDS),
    )
    context_length: int = setting(1024, "Tokens in a row.", at_least=1, remedy="Name the context length of the model.")
    overlong: str = setting(
        "error", "What the run is to do with examples longer than a row.", choices=("error", "truncate", "skip")
    )
    text_field: str = setting(TEXT_FIELD, "Field of a record (.jsonl, .json, .csv, ...) that holds its text.")
    json_as_text: bool = setting(False, "Take JSON as the text it is, with its braces and field names.")
    encoding_errors: str = setting(
        "strict", "What to do about bytes that are not UTF-8: refuse or replace them.", choices=("strict", "replace")
    )
    document_separator: str = setting(END_OF_TEXT, 'Line between two documents of a text file; "" for none.')
    validation_fraction: float = setting(
        0.1, "Share of the data held out for validation.", above=0, below=1, remedy="0.1 holds out a tenth of the data."
    )
    split: str = setting("auto", "How to hold out: documents, tail (the end of each document), or auto.")

    def check_together(self) -> None:
        """Refuse settings of running text for another task."""
        check_separator(self.document_separator)
        if self.task != "text" and (self.text_field != TEXT_FIELD or self.json_as_text):
            name = "json_as_text" if self.json_as_text else "text_field"
            problem = f"The setting {name} is for running text, but the task is {self.task}."
            raise ConfigError(problem, f"Leave `{name}` out.", setting=name)


@dataclass
class Job:
    """What is to be checked, and how; faults that readers report become findings, and reading goes on."""

    sources: list[str | Path]
    tokenizer: Tokenizer
    settings: LintSettings
    stats: DataStats
    on_progress: Callable[[int], None]
    muted: bool = False  # whether faults are left out, since they were reported before
    _faults: list[Finding] = field(default_factory=list)
    _opened: set[str] = field(default_factory=set)

    def count_text(self, language: str | None) -> None:
        """Count one more text, in a language unless it is blank."""
        self.stats.texts += 1
        if language is not None:
            self.stats.languages[language] += 1
        self.on_progress(self.stats.texts)

    def options(self) -> ReadOptions:
        """The options of a run, tolerant."""
        names = ("text_field", "json_as_text", "document_separator")
        return ReadOptions(**{name: getattr(self.settings, name) for name in names}, on_error=self._on_error)

    def faults(self) -> list[Finding]:
        """Those that were reported since the last call."""
        faults, self._faults = self._faults, []
        return faults

    def _on_error(self, error: DataError, origin: Origin) -> None:
        rule, detail = getattr(error, "rule", "malformed"), error.problem.removeprefix(f"{origin}: ").rstrip(".")
        if self.muted:
            return
        if rule != "encoding":
            self._faults.append(Finding(rule, detail, origin, remedy=error.remedy))
        elif origin.line or form_of(Path(origin.file)) != "text":  # of a text file, `bytes_of` finds each line
            self._faults.append(self._not_utf8(detail, origin))

    def _not_utf8(self, detail: str, place: Origin) -> Finding:
        if self.settings.encoding_errors == "strict":
            return Finding("encoding", detail, place)
        return Finding("encoding", detail, place, severity=WARNING, remedy="Convert the text to UTF-8.")

    def start_of(self, path: Path, name: str) -> Iterator[Finding]:
        """A byte order mark at the beginning of a file, once a file."""
        if name not in self._opened:
            self._opened.add(name)
            if next(read_raw(path, name), b"").startswith(codecs.BOM_UTF8):
                yield Finding("bom", "at the beginning of the file", Origin(name))

    def bytes_of(self, path: Path, name: str) -> Iterator[Finding]:
        """The lines of a text file that are not UTF-8, and mixed line ends; none of a file that cannot be read."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        line, ends = 1, {"\\n": 0, "\\r\\n": 0, "\\r": 0}
        try:
            for raw in read_raw(path, name):
                try:
                    decoder.decode(raw)
                except UnicodeDecodeError as error:
                    decoder.reset()
                    detail = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
                    yield self._not_utf8(detail, Origin(name, line + error.object.count(b"\r", 0, error.start)))
                both = raw.endswith(b"\r\n")
                ends["\\r\\n"] += both
                ends["\\n"] += raw.endswith(b"\n") and not both
                ends["\\r"] += raw.count(b"\r") - both
                line += raw.endswith(b"\n") + raw.count(b"\r") - both
        except DataError:
            return
        there = [f"{number:,} of {end}" for end, number in ends.items() if number]
        if len(there) > 1:
            yield Finding("line-ends", ", ".join(there), Origin(name))


def finding_of(kind: str, error: DataError, place: Origin | None = None, prefix: str = "") -> Finding:
    """A finding with the words of an error."""
    return Finding(kind, error.problem.removeprefix(prefix).rstrip("."), place, remedy=error.remedy)


def copy_findings(
    copies: NearDuplicates,
    places: Sequence[Origin],
    apart: Callable[[int, int], bool],
    *,
    removed: bool = False,
    conflicts: Collection[int] = (),
    questions: Iterable[tuple[int, int, str]] = (),
) -> Iterator[Finding]:
    """Texts that repeat an earlier one: exactly, but for case and white space, in their question, or nearly.

    `apart` tells whether two texts are on different sides of the split. `removed`: a run leaves exact copies out.
    `conflicts` are texts whose copy has another label. Each text is named once.
    """
    named = set[int]()

    def finding(kind: str, detail: str, pair: tuple[int, int], **more: Any) -> Finding:
        number, earlier = pair
        return Finding(kind, detail.format(places[earlier].short), places[number], places[earlier], **more)

    pairs = [(pair, "copy") for pair in copies.exact] + [(pair, "near-copy") for pair in copies.loose]
    for pair, kind in sorted(pairs):
        named.add(pair[0])
        if kind == "copy" and removed:
            yield finding(kind, "of {}", pair, severity=NOTE, remedy="Nothing: a run leaves them out.")
        elif apart(*pair):
            suffix = ", but for case and white space" if kind == "near-copy" else ""
            yield finding("copy-across", "of {}" + suffix, pair)
        elif pair[0] not in conflicts:
            yield finding(kind, "of {}", pair)
    for number, earlier, how in questions:
        if number not in named and apart(number, earlier):
            named.add(number)
            yield finding("question-across", f"as at {{}}, with {how}", (number, earlier))
    for number, earlier, common in copies.similar():
        if number not in named:
            kind = "similar-across" if apart(number, earlier) else "similar"
            detail = f"about {common:.0%} in common with {{}}"
            yield finding(kind, detail, (number, earlier), size=round(common * 100))
