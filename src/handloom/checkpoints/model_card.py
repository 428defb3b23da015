"""The `README.md` of an exported model: what it is, how it was trained, how it is used.

Knows no format: whoever exports hands in what its readers do with the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handloom.model.config import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from handloom.model.gpt import GPT
from handloom.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class Use:
    """What one format's readers need to be told."""

    header: str
    """Lines of YAML for Hugging Face's hub."""
    how: str
    """How the files are used, in Markdown."""


def write_model_card(
    folder: Path, name: str, model: GPT, tokenizer: Tokenizer, training: dict[str, Any] | None, use: Use
) -> None:
    """Write `README.md` into `folder`.

    Args:
        folder: it must be there.
        name: the title.
        model: its shape is described.
        tokenizer: the model's.
        training: what its checkpoint tells about its training; None: nothing is known.
        use: what its readers do with it.
    """
    c = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lines = [
        f"---\n{use.header}\n---",
        "",
        f"# {name}",
        "",
        f"A GPT-2 style model with {parameters:,} parameters: {c.layers} layers, {c.heads} heads, {c.embed_dim} wide, "
        f"a context of {c.context_length:,} tokens, and a vocabulary of {tokenizer.vocab_size:,} tokens. "
        "Exported by Handloom.",
        "",
        "## How it was trained",
        "",
        how_it_was_trained(training),
        *_tables(training),
        "",
        "## How to use it",
        "",
        use.how,
        "",
        f"The id {tokenizer.eos_token_id} begins and ends every document. {_what_it_does(model, training)}",
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def how_it_was_trained(training: dict[str, Any] | None) -> str:
    """One sentence."""
    if training is None:
        return "Not by Handloom, and the folder that it was read from does not say how."
    progress, settings = training["progress"], training["settings"]
    begun = "From random weights"
    if "method" in settings:
        how = " ".join(settings["train"]) if settings.get("train") else settings["method"]
        begun = f"From the model {settings['model']}, tuned ({settings['task']}) by {how}"
    best, unit = progress.get("best_loss"), _UNITS.get(settings.get("task", "text"), "token")
    return f"{begun}, {progress['step']:,} steps over {progress['tokens']:,} tokens" + (
        f", to a best validation loss of {best:.4f} nats per {unit}." if best is not None else "."
    )


_UNITS = {"dpo": "pair", "classify": "text"}
_LABELS = {
    SINGLE_LABEL: "The model tells texts apart",
    MULTI_LABEL: "The model says which of several labels a text has, any number of them",
    REGRESSION: "The model gives values to texts",
}


def _what_it_does(model: GPT, training: dict[str, Any] | None) -> str:
    if model.config.label_names:
        return f"{_LABELS[model.config.problem_type]}: {', '.join(model.config.label_names)}."
    if template := (training or {}).get("template"):
        return f"The model answers, in the template {template}."
    return "The model continues text; it follows no instructions."


def _tables(training: dict[str, Any] | None) -> list[str]:
    if training is None:
        return []
    return [
        "",
        "| Setting | Value |",
        "| --- | --- |",
        *(f"| {key} | {_cell(value)} |" for key, value in training["settings"].items() if value is not None),
        "",
        "| Version of | Value |",
        "| --- | --- |",
        *(f"| {key} | {_cell(value)} |" for key, value in training["versions"].items()),
    ]


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return " ".join(text.replace("|", "\\|").split())
