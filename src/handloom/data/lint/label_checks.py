"""Checks the labels of a classification: one for all, rare ones, ones that a side lacks, ones that contradict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from handloom.data.lint.base import SPLITS
from handloom.data.lint.rules import Finding, Place

UNBALANCED = 10
"""How many times as frequent as another a label may be."""


class LabelChecks:
    """The label of each text so far, numbered as they come."""

    def __init__(self) -> None:
        self._of: list[str] = []
        self._seen: dict[bytes, int] = {}
        self.conflicts: set[int] = set()
        """Numbers of the texts that have another label elsewhere."""

    def add(self, text: bytes, label: str, place: Place, places: Sequence[Place]) -> Iterator[Finding]:
        """One more text, by its print; found are earlier ones that say the same with another label."""
        number = len(self._of)
        self._of.append(label)
        earlier = self._seen.setdefault(text, number)
        if self._of[earlier] != label:
            self.conflicts.add(number)
            detail = f"{label!r}, but {self._of[earlier]!r} at {places[earlier]}"
            yield Finding("label-conflict", detail, place, places[earlier])

    def __getitem__(self, number: int) -> str:
        return self._of[number]

    def count(self, sides: Sequence[int | None]) -> dict[str, list[int]]:
        """Of each label the texts to learn from, and held out; the most frequent label first."""
        counts: dict[str, list[int]] = {}
        for label, side in zip(self._of, sides, strict=True):
            numbers = counts.setdefault(label, [0, 0])
            if side is not None:
                numbers[side] += 1
        return dict(sorted(counts.items(), key=lambda item: (-sum(item[1]), item[0])))

    def check(self, counts: dict[str, list[int]], places: Sequence[Place]) -> Iterator[Finding]:
        """What is wrong with the labels as a whole."""
        totals = {label: sum(numbers) for label, numbers in counts.items() if sum(numbers)}
        if len(totals) == 1:
            yield Finding("one-label", f"{next(iter(totals))!r}")
            return
        for label, total in totals.items():
            if total == 1:
                yield Finding("rare-label", repr(label), places[self._of.index(label)])
                continue
            for side, name in enumerate(SPLITS):
                if not counts[label][side]:
                    yield Finding("label-side", f"{label!r} is not in {name} ({total:,} texts)")
        if totals and max(totals.values()) >= UNBALANCED * min(totals.values()):
            (most, many), (least, few) = next(iter(totals.items())), list(totals.items())[-1]
            yield Finding("unbalanced", f"{most!r} {many:,} times, {least!r} {few:,}")
