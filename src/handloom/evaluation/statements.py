"""What a comparison has to say in sentences: whose models these are, and what a number must not be taken for."""

from __future__ import annotations

from collections.abc import Sequence

from handloom.evaluation.provenance import KINDS
from handloom.evaluation.report import ModelResult

_SUSPICIOUS = 0.5  # held-out text shares a few set phrases with the training text, not half of everything


def provenance(models: Sequence[ModelResult], from_scratch: bool) -> list[str]:
    """Which models are whose, in sentences.

    Args:
        models: all of them.
        from_scratch: whether each of them goes back to one that was trained here from nothing.
    """
    notes = []
    for kind in KINDS:
        some = [f"{model.name} ({model.facts.detail})" for model in models if model.facts.kind == kind]
        if some:
            notes.append(f"{kind.capitalize()}: {', '.join(some)}.")
    if from_scratch:
        notes.append(
            "GPT-2's real weights are absent: every model here goes back to one that Handloom pretrained from nothing."
        )
    elif any(model.facts.kind == "copied by hand" for model in models):
        notes.append("Whose weights a folder holds that was copied by hand, it does not say.")
    return notes


def warnings(models: Sequence[ModelResult]) -> list[str]:
    """What a reader must know before believing a number."""
    notes = []
    if len({model.tokenizer for model in models}) > 1:
        notes.append(
            "These models cut text into tokens in different ways, so their perplexities cannot be compared with each "
            "other; bits per byte can."
        )
    for model in models:
        found = model.memorization
        if found and (found.held_out.share or 0) > _SUSPICIOUS:
            notes.append(
                f"{found.held_out.share:.0%} of the 8-grams of the held-out text stand in what {model.name} learned "
                "from: it is not held out from that model, whose numbers on it are too good."
            )
    return notes
