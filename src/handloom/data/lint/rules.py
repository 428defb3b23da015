"""The rules of the linter, each with its severity and remedy; findings, and findings grouped for people.

Knows no files and no tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from handloom.data.text_io import Origin

ERROR, WARNING, NOTE = SEVERITIES = ("error", "warning", "note")
"""An error stops a run, or falsifies its validation; a warning is learned, and rarely intended."""


@dataclass(frozen=True)
class Rule:
    """One thing that can be found."""

    severity: str
    name: str  # in words; "copy|copies" stands for its singular and plural, and a name without either is not counted
    remedy: str

    def title(self, count: int) -> str:
        """The name after a number."""
        shown = " ".join(word.split("|")[count != 1 and "|" in word] for word in self.name.split(" "))
        return f"{count:,} {shown}" if "|" in self.name else shown


RULES = {
    # A run would stop at these
    "unreadable": Rule(ERROR, "file|files that cannot be read", "Fix the path or the file, or leave it out."),
    "no-data": Rule(ERROR, "nothing to learn from", "Add data."),
    "malformed": Rule(ERROR, "malformed line|lines", "Fix or remove these lines."),
    "encoding": Rule(
        ERROR,
        "line|lines that is|are not UTF-8",
        "Convert the text to UTF-8, or read such bytes as \N{REPLACEMENT CHARACTER}: `encoding_errors=replace`.",
    ),
    "empty": Rule(ERROR, "example|examples with an empty text", "Fill it in, or remove these lines."),
    "no-label": Rule(ERROR, "text|texts without a label", "Label or remove these texts."),
    "no-assistant": Rule(
        ERROR, "conversation|conversations without an assistant's message", "Add the answers, or remove these lines."
    ),
    "nothing-learned": Rule(ERROR, "example|examples without a training target", "Remove these lines."),
    "overlong": Rule(
        ERROR,
        "example|examples longer than a row",
        "Shorten these examples, choose a larger `context_length` if the model has one, or name a policy, here and "
        "for the run: `overlong=truncate` or `overlong=skip`.",
    ),
    "one-label": Rule(ERROR, "all texts have one label", "Add texts with another label."),
    "one-side": Rule(ERROR, "one part of the split is too small", "Add data."),
    # A run would finish, and its validation be false
    "copy-across": Rule(
        ERROR,
        "copy|copies on the other side of the split",
        "Keep one of each: validation must not contain training data.",
    ),
    # A run would learn from these
    "similar-across": Rule(
        WARNING,
        "text|texts nearly the same as one on the other side of the split",
        "Keep one of each if they are variants of one text; otherwise validation looks better than it is.",
    ),
    "question-across": Rule(
        WARNING,
        "question|questions on both sides of the split",
        "Keep one of each, or expect validation to contain questions of the training data.",
    ),
    "copy": Rule(WARNING, "exact copy|copies of an earlier text", "Keep one of each, unless it is to count twice."),
    "near-copy": Rule(
        WARNING, "copy|copies but for case and white space", "Keep one of each, unless it is to count twice."
    ),
    "label-conflict": Rule(
        WARNING, "text|texts with another label elsewhere", "Decide for one label: both cannot be learned."
    ),
    "rare-label": Rule(
        WARNING,
        "label|labels that occurs|occur once",
        "Add texts with that label, or leave it out: one text is either learned from or held out.",
    ),
    "label-side": Rule(WARNING, "label|labels missing on a side of the split", "Add texts with that label."),
    "unbalanced": Rule(WARNING, "labels are unbalanced", "Add texts with the rare labels, and read F1, not accuracy."),
    "blank": Rule(WARNING, "document|documents of white space only", "Remove these."),
    "special-token": Rule(
        WARNING,
        "look-alike|look-alikes of special tokens",
        "These are read as ordinary text and learned as such. Remove them if another template left them behind.",
    ),
    "control": Rule(WARNING, "control character|characters", "Remove these, unless the model is to write them."),
    "replacement": Rule(
        WARNING,
        "replacement character|characters (U+FFFD)",
        "Text was lost here when it was decoded; convert it again from its source.",
    ),
    "mojibake": Rule(
        WARNING,
        "place|places that looks|look wrongly decoded",
        "UTF-8 was read as Windows-1252; convert the text again from its source.",
    ),
    "bidi": Rule(
        WARNING,
        "control|controls of writing direction",
        "Remove these: text is shown in another order than it is learned in.",
    ),
    # Good to know
    "similar": Rule(NOTE, "text|texts nearly the same as an earlier one", "Nothing, if that is intended."),
    "invisible": Rule(NOTE, "invisible character|characters", "Remove these, unless they are intended."),
    "empty-document": Rule(NOTE, "empty document|documents", "Nothing: a run leaves these out."),
    "line-ends": Rule(NOTE, "file|files with line ends of several kinds", "Nothing: all are read as \\n."),
    "bom": Rule(NOTE, "byte order mark|marks", "Nothing: a run leaves it out at the beginning of a file."),
}
"""Every rule, the worst first."""


@dataclass(frozen=True)
class Finding:
    """One violation of a rule; severity and remedy are the rule's unless they are given."""

    kind: str  # a key of `RULES`
    detail: str  # what exactly, without its place
    place: Origin | None = None  # None: the data as a whole
    other: Origin | None = None  # of what it is a copy
    size: int = 0  # how bad it is among its kind, where that can be counted
    severity: str = ""
    remedy: str = ""

    def __post_init__(self) -> None:
        for name in ("severity", "remedy"):
            object.__setattr__(self, name, getattr(self, name) or getattr(RULES[self.kind], name))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without what is empty."""
        other = {"other": _numbered(self.other)} if self.other else {}
        return {**_numbered(self.place), "detail": self.detail, **other, "remedy": self.remedy}


def _numbered(place: Origin | None) -> dict[str, Any]:
    """The parts of a place that are known."""
    parts = {name: getattr(place, name, 0) for name in ("file", "line", "column")}
    return {name: value for name, value in parts.items() if value}


@dataclass
class Group:
    """All findings of one kind and severity: their number, and the first of them."""

    kind: str
    severity: str
    count: int = 0
    first: list[Finding] = field(default_factory=list)
    worst: Finding | None = None  # the one of largest size, where sizes are known

    @property
    def title(self) -> str:
        """Number and name."""
        return RULES[self.kind].title(self.count)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        values = {"kind": self.kind, "severity": self.severity, "count": self.count, "title": self.title}
        return {**values, "places": [finding.to_dict() for finding in self.first]}


def grouped(findings: Iterable[Finding], keep: int | None = 3) -> list[Group]:
    """Findings by kind, the worst kinds first; of each kind the first `keep` (None: all) are kept."""
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
    """The number of findings of that severity."""
    return sum(group.count for group in groups if group.severity == severity)


def counted(groups: Iterable[Group]) -> str:
    """The number of errors, warnings and notes, in words."""
    groups = list(groups)
    numbers = {severity: count(groups, severity) for severity in SEVERITIES}
    words = [f"{n:,} {severity}{'' if n == 1 else 's'}" for severity, n in numbers.items() if n]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
