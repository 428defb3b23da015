"""`handloom tune`: the fastest settings for a model on this machine."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from handloom.cli.flags import ModelPath
from handloom.console import activity, new_console, note, number, percent, pluralize, print_json, table

if TYPE_CHECKING:
    from handloom.hardware.profiles import Profile


def tune(model: ModelPath, *, json: bool = False) -> None:
    """Measure precisions and numbers of threads for a model, and use the fastest from now on.

    The profile is used where neither threads nor a precision are given, and discarded when the machine or the
    versions of Handloom, PyTorch or the C kernels change. Only a precision that keeps the model's perplexity within
    its bound is chosen (fp16 0.001 %, int8 0.05 %, bf16 0.5 % above that of fp32). Takes one to five minutes for a
    model of GPT-2's size.

    Parameters
    ----------
    model
        A model on disk, as for generate, or a preset, whose profile is used for training it from scratch.
    json
        Print one JSON object.
    """
    from handloom.bench.tune import tune as measure

    with activity() as say:
        profile = measure(str(model), note, say)
    if json:
        print_json(dataclasses.asdict(profile))
    else:
        print_profile(profile)


def print_profile(profile: Profile) -> None:
    """What was measured, and what was chosen."""
    console = new_console()
    shown = table(("work", "precision", ">threads", ">tokens/s", ">of best", ">ppl"), padding=(0, 1, 0, 0))
    best: dict[str, float] = {}
    for row in profile.measured:
        best[row["kind"]] = max(best.get(row["kind"], 0.0), row["tokens_per_second"])
    for row in profile.measured:
        difference = (row["agreement"] or {}).get("relative_perplexity")
        shown.add_row(
            *(row["kind"], row["precision"], str(row["threads"]), number(row["tokens_per_second"], 1)),
            *(percent(row["tokens_per_second"] / best[row["kind"]], 0), percent(difference, 3)),
        )
    console.print(shown)
    busy = sum(row["busy_rounds"] for row in profile.measured)
    if busy:
        rounds = pluralize(busy, "round")
        console.print(f"Other processes used the machine in {rounds} that count: repeat it when they are done.")
    training = f"; training: {profile.training_precision}, {pluralize(profile.training_threads or 0, 'thread')}"
    console.print(f"Used from now on for {profile.model}: {profile}{training if profile.training_threads else ''}.")
