"""What of the user's data does not reach the model, counted by reason.

Whatever finds, reads, splits or truncates data fills one `Omissions`; a run prints it once and keeps it in
`data.json`, and `handloom data check` shows the same.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_NAMES_KEPT = 3
_KINDS_SHOWN = 6


class Reason(NamedTuple):
    """The words behind the number, for one and for many, and the remedy; empty where nothing has to be done."""

    one: str
    many: str
    remedy: str = ""


REASONS = {
    # Files and folders
    "own-folder": Reason(
        "folder of a run, a model or prepared data was left out",
        "folders of runs, models or prepared data were left out",
        "Name the files in them one by one if they are meant.",
    ),
    "hidden": Reason("hidden file or folder was left out", "hidden files or folders were left out"),
    "link-loop": Reason(
        "linked folder was not followed, since it leads back to where it lies",
        "linked folders were not followed, since they lead back to where they lie",
    ),
    "no-file": Reason(
        "entry of a folder was left out, since it is not a file (a pipe, a socket, a broken link)",
        "entries of folders were left out, since they are not files (pipes, sockets, broken links)",
    ),
    "suffix": Reason(
        "file in a folder was left out for its suffix",
        "files in folders were left out for their suffix",
        'Name such files themselves to have them read as text, for example "FOLDER/**/*.rst".',
    ),
    # Records
    "field": Reason("field of a record was left out", "fields of records were left out"),
    "context": Reason(
        "answer in a history or a prompt is read as context, and not learned",
        "answers in histories or prompts are read as context, and not learned",
        "Write such conversations as messages if all their answers are to be learned.",
    ),
    # Documents
    "empty": Reason("empty document was left out", "empty documents were left out"),
    "duplicate": Reason("exact copy of another document was left out", "exact copies of other documents were left out"),
    # Examples
    "truncated": Reason("example was longer than a row and truncated", "examples were longer than a row and truncated"),
    "overlong": Reason("example was longer than a row and left out", "examples were longer than a row and left out"),
    # Rows
    "unreached": Reason(
        "row of the data is not reached in the steps of this run",
        "rows of the data are not reached in the steps of this run",
    ),
}
"""Every reason, in the order in which data is read."""


@dataclass
class _Count:
    number: int = 0
    by: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        by = {"by": dict(self.by.most_common())} if self.by else {}
        return {"count": self.number} | by | ({"first": list(self.first)} if self.first else {})

    def sentence(self, reason: Reason) -> str:
        kinds = self.by.most_common()
        by = ", ".join(f"{number:,} {name}" for name, number in kinds[:_KINDS_SHOWN])
        by += f" and {len(kinds) - _KINDS_SHOWN} more kinds" if len(kinds) > _KINDS_SHOWN else ""
        text = f"{self.number:,} {reason.one if self.number == 1 else reason.many}" + (f" ({by})" if by else "")
        if self.first:
            text += f": {', '.join(self.first)}" + (" and others" if self.number > len(self.first) else "")
        return f"{text}."


class Omissions:
    """How much was left out for which reason, with the names of the first few."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}

    def add(self, reason: str, name: str = "", *, by: str = "", number: int = 1) -> None:
        """Count `number` more for a key of `REASONS`.

        `name` is that of the file, document or place; `by` is counted separately within the reason: a suffix, a field.
        """
        assert reason in REASONS, reason
        count = self._counts.setdefault(reason, _Count())
        count.number += number
        if by:
            count.by[by] += number
        if name and len(count.first) < _NAMES_KEPT:
            count.first.append(name)

    def update(self, other: Omissions) -> None:
        """Add everything that `other` has counted."""
        for reason, theirs in other._counts.items():
            ours = self._counts.setdefault(reason, _Count())
            ours.number += theirs.number
            ours.by.update(theirs.by)
            ours.first = (ours.first + theirs.first)[:_NAMES_KEPT]

    def __getitem__(self, reason: str) -> int:
        """How many were left out for that reason."""
        assert reason in REASONS, reason
        return self._counts[reason].number if reason in self._counts else 0

    def to_dict(self) -> dict[str, Any]:
        """By reason: `count`, `by` where it was counted separately, and the `first` names."""
        return {reason: self._counts[reason].to_dict() for reason in REASONS if reason in self._counts}

    def problems(self) -> list[str]:
        """One sentence for each reason, without the remedy."""
        return [self._counts[key].sentence(reason) for key, reason in REASONS.items() if key in self._counts]

    def sentences(self) -> list[tuple[str, bool]]:
        """One sentence for each reason with its remedy, and whether it has one."""
        remedies = [reason.remedy for key, reason in REASONS.items() if key in self._counts]
        both = zip(self.problems(), remedies, strict=True)
        return [(f"{text} {remedy}".rstrip(), bool(remedy)) for text, remedy in both]
