"""The `README.md` of an exported model: what it is, how it was trained, how it is used.

Knows no format: each exporter passes what its readers do with the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handloom.model.config import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from handloom.model.gpt import GPT
from handloom.tokenizer.base import Tokenizer

_UNITS = {"dpo": "pair", "classify": "text"}
_CLASSIFIERS = {
    SINGLE_LABEL: "The model gives a text one of these labels",
    MULTI_LABEL: "The model gives a text any number of these labels",
    REGRESSION: "The model predicts values for a text",
}


@dataclass(frozen=True)
class Use:
    """The part of a model card for the readers of one format."""

    header: str
    """Lines of YAML for Hugging Face's hub."""
    how: str
    """How the files are used, in Markdown."""


def write_model_card(
    folder: Path, model: GPT, tokenizer: Tokenizer, *, use: Use, training: dict[str, Any] | None, name: str
) -> None:
    """Write `README.md` into an existing folder.

    Args:
        use: for the readers of the format.
        training: the trainer state of the model's checkpoint; None: unknown.
        name: the title.
    """
    c = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lines = [
        f"---\n{use.header}\n---",
        "",
        f"# {name}",
        "",
        f"A GPT-2 style model with {parameters:,} parameters: {c.layers} layers, {c.heads} heads, embeddings of "
        f"{c.embed_dim}, a context of {c.context_length:,} tokens, and a vocabulary of {tokenizer.vocab_size:,}. "
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
        f"The id {tokenizer.eos_token_id} begins and ends every document. {_purpose(model, training)}",
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def how_it_was_trained(training: dict[str, Any] | None) -> str:
    """One sentence."""
    if training is None:
        return "Not by Handloom; the folder that it was read from does not describe it."
    progress, settings = training["progress"], training["settings"]
    begun = "From random weights"
    if "method" in settings:
        how = " ".join(settings["train_params"]) if settings.get("train_params") else settings["method"]
        begun = f"From the model {settings['model']}, tuned ({settings['task']}) by {how}"
    best, unit = progress.get("best_loss"), _UNITS.get(settings.get("task", "text"), "token")
    loss = f", to a best validation loss of {best:.4f} nats per {unit}" if best is not None else ""
    return f"{begun}, {progress['step']:,} steps over {progress['tokens']:,} tokens{loss}."


def _purpose(model: GPT, training: dict[str, Any] | None) -> str:
    if model.config.label_names:
        return f"{_CLASSIFIERS[model.config.problem_type]}: {', '.join(model.config.label_names)}."
    if template := (training or {}).get("template"):
        return f"The model answers, in the chat template {template}."
    return "The model continues text; it follows no instructions."


def _tables(training: dict[str, Any] | None) -> list[str]:
    if training is None:
        return []
    settings = {key: value for key, value in training["settings"].items() if value is not None}
    lines = []
    for title, values in (("Setting", settings), ("Version of", training["versions"])):
        lines += ["", f"| {title} | Value |", "| --- | --- |"]
        lines += [f"| {key} | {_cell(value)} |" for key, value in values.items()]
    return lines


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return " ".join(text.replace("|", "\\|").split())
