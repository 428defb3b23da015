"""The settings of a comparison, stated once; flags and their help are made from them. Knows no torch and no model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from handloom.errors import RequestError
from handloom.inference.generation_config import GenerationConfig
from handloom.settings import Settings, setting, setting_names

PROMPTS = ("The", "When you", "If the", "It is not", "In the beginning", "She said that")
"""The default prompts: beginnings that fit many texts."""

LEFT_OUT = ("logprobs", "echo", "num_beams", "length_penalty", "forced_eos", "stop")
"""Settings of generation that do not apply to a comparison."""


@dataclass(frozen=True)
class ComparisonConfig(Settings):
    """What is measured of every model. Raises RequestError for a setting outside its limits."""

    error = RequestError

    prompts: tuple[str, ...] = PROMPTS
    request: GenerationConfig = dataclasses.field(default_factory=GenerationConfig)
    data: tuple[str, ...] = setting(
        (),
        "Held-out text: a file, folder, glob or built-in corpus; default: the validation text of the first run.",
        group="Data",
    )
    general: tuple[str, ...] = setting(
        (),
        "Text to measure forgetting on; default: the validation text of the base model's run, or python-docs.",
        group="Data",
    )
    training: tuple[str, ...] = setting(
        (), "Text to search for copies; default: the training text of each run.", group="Data"
    )
    n: int = setting(3, "Samples of each prompt.", at_least=1)
    text_bytes: int = setting(
        100_000, "The most bytes of held-out, and of general, text to read.", at_least=1000, group="Data"
    )

    def check_together(self) -> None:
        """The prompts, which come from a file."""
        if not self.prompts:
            raise RequestError("There are no prompts.", "Write one a line, or leave `prompts` out.", setting="prompts")
        for number, prompt in enumerate(self.prompts):
            if prompt in self.prompts[:number]:
                raise RequestError(
                    f"The prompt {prompt!r} comes twice.",
                    "Leave one out; `n` sets how many samples a prompt gets.",
                    setting="prompts",
                )


def settings_of(request: GenerationConfig) -> dict[str, Any]:
    """The settings of generation that apply to a comparison, by name, as JSON values."""
    values = {name: getattr(request, name) for name in setting_names(GenerationConfig) if name not in LEFT_OUT}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
