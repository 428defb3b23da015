"""What a comparison asks of every model: each setting with its default and its meaning, stated once.

Flags and `--help` are made from it. Knows no torch and no model.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from handloom.errors import RequestError
from handloom.inference.generation_config import GenerationConfig
from handloom.settings import setting_names

PROMPTS = ("The", "When you", "If the", "It is not", "In the beginning", "She said that")
"""What models continue when nothing is asked: beginnings that fit many texts."""

LEFT_OUT = ("logprobs", "echo", "num_beams", "length_penalty", "forced_eos", "stop")
"""Settings of writing that have no place in a comparison."""


def _setting(default: Any, meaning: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class ComparisonConfig:
    """What is asked.

    Raises:
        RequestError: for a setting without meaning.
    """

    prompts: tuple[str, ...] = PROMPTS
    request: GenerationConfig = dataclasses.field(default_factory=GenerationConfig)
    data: tuple[str, ...] = _setting(
        (), "Held-out text: a file, folder, glob or built-in corpus; default: what the first run held out."
    )
    general: tuple[str, ...] = _setting(
        (), "Text to see what was forgotten; default: what the base model's run held out, or python-docs."
    )
    training: tuple[str, ...] = _setting(
        (), "Text to search for what was copied; default: what each run itself names as its text."
    )
    n: int = _setting(3, "Texts to each prompt.")
    text_bytes: int = _setting(100_000, "The most bytes of held-out, and of general, text to read.")

    def __post_init__(self) -> None:
        if not self.prompts:
            raise RequestError("There are no prompts.", "Write one a line, or leave --prompts out.")
        for number, prompt in enumerate(self.prompts):
            if prompt in self.prompts[:number]:
                raise RequestError(
                    f"The prompt {prompt!r} comes twice.", "Leave one out; --n asks for several texts to each prompt."
                )
        for name, value, least in (("n", self.n, 1), ("text_bytes", self.text_bytes, 1000)):
            if value < least:
                raise RequestError(f"{name} is {value}; it must be at least {least}.", "Leave it out for the usual.")


def settings_of(request: GenerationConfig) -> dict[str, object]:
    """The settings of writing that have a place in a comparison, by name, as JSON values."""
    values = {name: getattr(request, name) for name in setting_names(GenerationConfig) if name not in LEFT_OUT}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
