"""What every check is told, and what it remembers beside its findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from handloom.data.examples import KINDS
from handloom.data.lint.lengths import Lengths
from handloom.data.lint.rules import Finding
from handloom.data.omissions import Omissions
from handloom.data.separator import Separation
from handloom.data.text_io import TEXT_FIELD, ReadOptions
from handloom.errors import ConfigError, did_you_mean
from handloom.tokenizer.base import END_OF_TEXT

TASKS = ("text", *KINDS)
SPLITS = ("train", "validation")
OVERLONG = ("error", "truncate", "skip")


@dataclass(frozen=True)
class LintSettings:
    """The settings of the run that the data is meant for, as far as they decide about data.

    Raises:
        ConfigError: one outside its limits; a `split` that does not exist is refused while the text is parted.
    """

    task: str = "text"
    context_length: int = 1024
    text_field: str = TEXT_FIELD
    encoding_errors: str = "strict"
    json_as_text: bool = False
    document_separator: str = END_OF_TEXT
    validation_fraction: float = 0.1
    split: str = "auto"
    overlong: str = "error"

    def __post_init__(self) -> None:
        ReadOptions(encoding_errors=self.encoding_errors, document_separator=self.document_separator)
        for name, known in (("task", TASKS), ("overlong", OVERLONG)):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(
                    f"{name} is {value!r}, but must be one of {', '.join(known)}.",
                    did_you_mean(value, known) or "Choose one of these.",
                )
        if self.task != "text" and (self.text_field != TEXT_FIELD or self.json_as_text):
            name = "json_as_text" if self.json_as_text else "text_field"
            raise ConfigError(
                f"The setting {name} is for running text, but the task is {self.task}.",
                f"Leave --{name.replace('_', '-')} out.",
            )
        if self.context_length < 1:
            raise ConfigError(
                f"context is {self.context_length}, but must be at least 1.", "Name the context of the model."
            )
        if not 0 < self.validation_fraction < 1:
            raise ConfigError(
                f"validation_fraction is {self.validation_fraction}, but must be above 0 and below 1.",
                "0.1 holds out a tenth of the data.",
            )


@dataclass
class DataStats:
    """What a check saw on its way, filled while its findings are taken."""

    texts: int = 0
    """Documents or examples that could be read."""
    policy: str = ""
    """How text is parted; examples are parted one by one."""
    sides: list[int] = field(default_factory=lambda: [0, 0])
    """Documents or examples to learn from, and held out."""
    tokens: list[int] = field(default_factory=lambda: [0, 0])
    """Of running text, to learn from and held out."""
    lengths: Lengths = field(default_factory=Lengths)
    """Of each in tokens; of a pair that of its longer text."""
    languages: Counter[str] = field(default_factory=Counter)
    labels: dict[str, list[int]] = field(default_factory=dict)
    """Of each label the texts to learn from, and held out."""
    separation: Separation | None = None
    """Of documents within text files."""
    omissions: Omissions = field(default_factory=Omissions)
    """What a run would leave out."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        values: dict[str, Any] = {"texts": self.texts, "split": dict(zip(SPLITS, self.sides, strict=True))}
        if self.policy:
            values["split"] |= {"policy": self.policy, "tokens": dict(zip(SPLITS, self.tokens, strict=True))}
        values |= {"lengths": self.lengths.to_dict(), "languages": dict(self.languages.most_common())}
        values["omitted"] = self.omissions.to_dict()
        if self.separation is not None:
            values["separation"] = self.separation.to_dict()
        if self.labels:
            values["labels"] = {
                label: dict(zip(SPLITS, numbers, strict=True)) for label, numbers in self.labels.items()
            }
        return values


class Notes:
    """Findings that come up while reading, until they are asked for."""

    def __init__(self) -> None:
        self.listening = True
        self._findings: list[Finding] = []

    def __call__(self, finding: Finding) -> None:
        if self.listening:
            self._findings.append(finding)

    def drain(self) -> Iterator[Finding]:
        """Those since the last time."""
        findings, self._findings = self._findings, []
        yield from findings
