"""handloom demo: from text to a tokenizer, a model and generated text, in about two minutes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from handloom.cli.flags import PathFlag

PROMPTS = ("The", "Return the", "Python is")


def demo(*, run: PathFlag = Path("runs/demo"), minutes: float = 1.5, seed: int = 0) -> None:
    """Train a tokenizer and a GPT on this Python's own documentation, then generate text.

    Parameters
    ----------
    run
        Folder of the run; an earlier demo there is replaced, unless it was trained further.
    minutes
        How long to train.
    seed
        Seed of the weights, the data order, and the texts.
    """
    from rich.text import Text

    from handloom.cli.train import conclude
    from handloom.console import visible
    from handloom.inference.generation_config import GenerationConfig
    from handloom.loading import load
    from handloom.training import run as runs
    from handloom.training.config import TrainConfig
    from handloom.training.progress import TerminalReporter

    config = TrainConfig(minutes=minutes, seed=seed)
    _keep_other_runs(run)
    with TerminalReporter() as terminal:
        terminal.note("Training on the documentation of the Python that runs this. Nothing is downloaded.")
        summary = runs.begin(run, config, terminal, overwrite=True)
    if summary["finished"]:
        lm = load(run)
        terminal.console.print("\nGenerated texts:\n", style="bold")
        request = GenerationConfig(max_new_tokens=60, temperature=0.8, top_p=0.9, seed=seed, overflow="slide")
        for prompt in PROMPTS:
            text = lm.complete(prompt, request).completions[0].text
            terminal.console.print(Text.assemble((prompt, "bold"), visible(text)))
            terminal.console.print()
    conclude(run, summary, terminal)


def _keep_other_runs(run: Path) -> None:
    """Raise ConfigError when the folder holds more than a demo: other settings, or a demo that was trained further."""
    from handloom.errors import ConfigError
    from handloom.training.config import TrainConfig

    settings = run / "config.toml"
    if not settings.is_file():
        return
    found = dataclasses.replace(TrainConfig.merged(settings, {}), minutes=None, seed=0, threads=None, precision="auto")
    if found != TrainConfig():
        raise ConfigError(
            f"{run} holds a run that is not an untouched demo, so it is kept.",
            "Name another folder: `run=runs/demo2`.",
            setting="run",
        )
