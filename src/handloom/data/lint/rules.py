"""What can be found in data: each kind with how bad it is and what to do about it; findings, grouped for people.

Knows no files and no tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

ERROR, WARNING, NOTE = SEVERITIES = ("error", "warning", "note")
"""An error makes a run stop, or its validation lie; a warning is learned from, and seldom meant; a note is good to
know."""


@dataclass(frozen=True)
class Rule:
    """One thing that can be found."""

    severity: str
    one: str
    """What one of it is called, behind its number."""
    many: str
    """What several are called; empty where it is not counted."""
    remedy: str


RULES = {
    # A run would stop at these
    "unreadable": Rule(
        ERROR, "file that cannot be read", "files that cannot be read", "Mend the path or the file, or leave it out."
    ),
    "no-data": Rule(ERROR, "nothing to learn from", "", "Add data."),
    "malformed": Rule(ERROR, "malformed line", "malformed lines", "Mend or remove these lines."),
    "encoding": Rule(
        ERROR,
        "line that is not UTF-8",
        "lines that are not UTF-8",
        "Convert the text to UTF-8, or read such bytes as \N{REPLACEMENT CHARACTER} with --encoding-errors replace.",
    ),
    "empty": Rule(
        ERROR, "example with an empty text", "examples with an empty text", "Fill it in, or remove these lines."
    ),
    "no-label": Rule(ERROR, "text without a label", "texts without a label", "Label or remove these texts."),
    "no-assistant": Rule(
        ERROR,
        "conversation in which no assistant speaks",
        "conversations in which no assistant speaks",
        "Add the answers, or remove these lines.",
    ),
    "nothing-learned": Rule(
        ERROR, "example that teaches nothing", "examples that teach nothing", "Remove these lines."
    ),
    "overlong": Rule(
        ERROR,
        "example longer than a row",
        "examples longer than a row",
        "Shorten these examples, choose a larger --context-length if the model has one, or name a policy, here and "
        "for the "
        "run: --overlong truncate or --overlong skip.",
    ),
    "one-label": Rule(ERROR, "all texts have one label", "", "Add texts with another label."),
    "one-side": Rule(ERROR, "a side of the split is too small", "", "Add data."),
    # A run would go through, and its validation lie
    "copy-across": Rule(
        ERROR,
        "copy on the other side of the split",
        "copies on the other side of the split",
        "Keep one of each: validation must not ask what was learned by heart.",
    ),
    # A run would learn from these
    "similar-across": Rule(
        WARNING,
        "text nearly the same as one on the other side of the split",
        "texts nearly the same as one on the other side of the split",
        "Keep one of each if they are variants of one text; validation looks better than it is otherwise.",
    ),
    "question-across": Rule(
        WARNING,
        "question that is asked on both sides of the split",
        "questions that are asked on both sides of the split",
        "Keep one of each, or know that validation asks what was learned.",
    ),
    "copy": Rule(
        WARNING,
        "exact copy of an earlier text",
        "exact copies of an earlier text",
        "Keep one of each, unless it is to count twice.",
    ),
    "near-copy": Rule(
        WARNING,
        "copy but for case and white space",
        "copies but for case and white space",
        "Keep one of each, unless it is to count twice.",
    ),
    "label-conflict": Rule(
        WARNING,
        "text that has another label elsewhere",
        "texts that have another label elsewhere",
        "Decide for one label: both cannot be learned.",
    ),
    "rare-label": Rule(
        WARNING,
        "label that appears once",
        "labels that appear once",
        "Add texts with that label, or leave it out: one text is either learned from or held out.",
    ),
    "label-side": Rule(
        WARNING,
        "label that is missing on a side of the split",
        "labels that are missing on a side of the split",
        "Add texts with that label.",
    ),
    "unbalanced": Rule(
        WARNING, "labels are unbalanced", "", "Add texts with the rare labels, and read F1 rather than accuracy."
    ),
    "blank": Rule(WARNING, "document of white space only", "documents of white space only", "Remove these."),
    "special-token": Rule(
        WARNING,
        "look-alike of a special token",
        "look-alikes of special tokens",
        "These are read as ordinary text and learned as such. Remove them if another template left them behind.",
    ),
    "control": Rule(
        WARNING, "control character", "control characters", "Remove these, unless the model is to write them."
    ),
    "replacement": Rule(
        WARNING,
        "replacement character (U+FFFD)",
        "replacement characters (U+FFFD)",
        "Text was lost here when it was decoded; convert it again from where it came.",
    ),
    "mojibake": Rule(
        WARNING,
        "place that looks wrongly decoded",
        "places that look wrongly decoded",
        "UTF-8 was read as Windows-1252; convert the text again from where it came.",
    ),
    "bidi": Rule(
        WARNING,
        "control of writing direction",
        "controls of writing direction",
        "Remove these: text is shown in another order than it is learned in.",
    ),
    # Good to know
    "similar": Rule(
        NOTE,
        "text nearly the same as an earlier one",
        "texts nearly the same as an earlier one",
        "Nothing, if that is meant.",
    ),
    "invisible": Rule(NOTE, "invisible character", "invisible characters", "Remove these, unless they are meant."),
    "empty-document": Rule(NOTE, "empty document", "empty documents", "Nothing: a run leaves these out."),
    "line-ends": Rule(
        NOTE,
        "file with line ends of several kinds",
        "files with line ends of several kinds",
        "Nothing: all are read as \\n.",
    ),
    "bom": Rule(
        NOTE, "byte order mark", "byte order marks", "Nothing: a run leaves it out at the beginning of a file."
    ),
}
"""Every kind, the worst first."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was found; lines and columns count from 1."""

    file: str
    line: int | None = None
    column: int | None = None
    """In characters; only where a line of the file is a line of the text."""

    def __str__(self) -> str:
        numbers = (number for number in (self.line, self.column) if number is not None)
        return ":".join([self.file, *map(str, numbers)])


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    kind: str
    """A key of `RULES`."""
    detail: str
    """What exactly, without its place."""
    place: Place | None = None
    """None: the data as a whole."""
    other: Place | None = None
    """Of what it is a copy."""
    size: int = 0
    """How bad it is among its kind, where that can be counted."""
    severity: str = ""
    """Empty: that of its kind."""
    remedy: str = ""
    """Empty: that of its kind."""

    def __post_init__(self) -> None:
        for name in ("severity", "remedy"):
            if not getattr(self, name):
                object.__setattr__(self, name, getattr(RULES[self.kind], name))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without what is empty."""
        values: dict[str, Any] = {} if self.place is None else _place(self.place)
        values["detail"] = self.detail
        if self.other is not None:
            values["other"] = _place(self.other)
        return {**values, "remedy": self.remedy}


def _place(place: Place) -> dict[str, Any]:
    return {name: value for name, value in asdict(place).items() if value is not None}


@dataclass
class Group:
    """All findings of one kind and severity: how many, and the first of them."""

    kind: str
    severity: str
    count: int = 0
    first: list[Finding] = field(default_factory=list)
    worst: Finding | None = None
    """The one of largest size, where sizes are known."""

    @property
    def title(self) -> str:
        """Its number, and what it is called."""
        kind = RULES[self.kind]
        if not kind.many:
            return kind.one
        return f"{self.count:,} {kind.one if self.count == 1 else kind.many}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        values = {"kind": self.kind, "severity": self.severity, "count": self.count, "title": self.title}
        return {**values, "places": [finding.to_dict() for finding in self.first]}


def grouped(findings: Iterable[Finding], keep: int | None = 3) -> list[Group]:
    """Findings by kind, the worst kinds first.

    Args:
        findings: taken to their end.
        keep: how many of a kind are kept; None: all of them.
    """
    groups: dict[tuple[str, str], Group] = {}
    for finding in findings:
        key = (finding.kind, finding.severity)
        group = groups.setdefault(key, Group(*key))
        group.count += 1
        if keep is None or len(group.first) < keep:
            group.first.append(finding)
        if finding.size > (group.worst.size if group.worst else 0):
            group.worst = finding
    order = list(RULES)
    return sorted(groups.values(), key=lambda g: (SEVERITIES.index(g.severity), order.index(g.kind)))


def count(groups: Iterable[Group], severity: str) -> int:
    """How many findings of that severity there are."""
    return sum(group.count for group in groups if group.severity == severity)


def counted(groups: Iterable[Group]) -> str:
    """How many errors, warnings and notes, in words."""
    groups = list(groups)
    numbers = {severity: count(groups, severity) for severity in SEVERITIES}
    words = [f"{n:,} {severity}{'' if n == 1 else 's'}" for severity, n in numbers.items() if n]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def summary_line(findings: Iterable[Finding]) -> str | None:
    """One sentence to say before a run; None where there is nothing worse than notes.

    Args:
        findings: taken to their end.
    """
    groups = [group for group in grouped(findings, keep=1) if group.severity != NOTE]
    if not groups:
        return None
    shown = ", ".join(group.title for group in groups[:3])
    more = f" and {len(groups) - 3} more kinds" if len(groups) > 4 else ""
    more = f" and {groups[3].title}" if len(groups) == 4 else more
    return f"A check of the data finds {counted(groups)}: {shown}{more}. `handloom data check` shows where."
