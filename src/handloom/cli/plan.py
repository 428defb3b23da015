"""`handloom plan`: a run that suits this machine, with what it is expected to come to; `train --plan` runs it."""

from __future__ import annotations

import dataclasses
import re
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from handloom.cli.flags import flags_of, given
from handloom.console import megabytes, new_console, table
from handloom.errors import ConfigError
from handloom.settings import Settings, read_toml, setting
from handloom.training.config import TrainConfig

SHORT_RUN: dict[str, Any] = {"layers": 2, "batch_size": 8, "embedding_lr_ratio": 2.5}
"""Settings of short runs that differ from the defaults of `train`: they learn most in a given time (`docs/LOG.md`)."""
_option = partial(setting, group="Options")
_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class PlanOptions(Settings):
    """What a plan is made for."""

    minutes: float = _option(20.0, "How long to train, validation and samples included.", above=0)
    memory: str | None = _option(
        None, "The most memory that the run may take, as 8GB or 500MB; None: half of this machine's."
    )
    data: tuple[str, ...] = _option(("python-docs",), "Text, as `handloom train` takes it.", path=True)
    output: str = _option("plan.toml", "File to write.", path=True)


PlanFlags: Any = flags_of(PlanOptions)


def plan(*, flags: PlanFlags = None) -> None:
    """Measure this processor for some seconds, and propose a run: model, batch, context, steps, and what to expect.

    The file holds settings of `handloom train` and the prediction; `handloom train --plan FILE` runs it and compares.
    """
    from handloom import runtime, storage
    from handloom.training import plan as plans
    from handloom.training.progress import TerminalReporter
    from handloom.training.setup import make_tokenizer, open_text, prepare_text

    options = PlanOptions(**given(flags))
    limit = bytes_of(options.memory) if options.memory is not None else runtime.memory_bytes() // 2
    config = TrainConfig.merged(None, {**SHORT_RUN, "minutes": options.minutes, "data": options.data})
    config = dataclasses.replace(
        config, threads=runtime.set_num_threads(None), precision=runtime.choose_precision("auto")
    )
    with TerminalReporter() as terminal:
        corpus = open_text(config)
        tokenizer = make_tokenizer(config, corpus, terminal)
        tokens = prepare_text(config, corpus, tokenizer, terminal)
        terminal.note("Timing steps of models of several sizes.")
        found = plans.propose(config, limit, tokens, tokenizer, meter=plans.step_seconds)
    shape, expected = found.config.model_config(tokenizer.vocab_size), found.prediction
    lines = "".join(f"{name} = {value}\n" for name, value in dataclasses.asdict(expected).items())
    storage.write_output(Path(options.output), f"{found.config.to_toml()}\n[prediction]\n{lines}")
    console = new_console()
    console.print(
        f"\nModel: {found.parameters:,} parameters, {shape.layers} layers, embed_dim {shape.embed_dim}, context_length "
        f"{shape.context_length}; batch_size {config.batch_size}, about {found.steps:,} steps at "
        f"{found.tokens_per_second:,.0f} tokens/s."
    )
    console.print(
        f"Expected: {expected.seconds / 60:g} minutes, {megabytes(expected.memory_bytes)}, "
        f"{expected.bits_per_byte:.2f} bits per byte on held-out text."
    )
    console.print(f"\n    handloom train --plan {shlex.quote(options.output)}\n", style="bold", soft_wrap=True)


def bytes_of(text: str) -> int:
    """Bytes of 8GB, 500MB, 2e9. Raises ConfigError for anything else."""
    match = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([KMG]?)i?B?\s*", text, re.IGNORECASE)
    try:
        assert match is not None
        size = int(float(match[1]) * _UNITS[match[2].upper()])
        assert size > 0
    except (AssertionError, ValueError):
        problem = f"The memory {text!r} is not a size."
        raise ConfigError(problem, "Write it as 8GB or 500MB.", setting="memory") from None
    return size


def read_plan(file: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """The settings of a plan, and its prediction. Raises ConfigError for a file that is none."""
    values = read_toml(file)
    prediction = values.pop("prediction", None)
    names = ("seconds", "memory_bytes", "bits_per_byte")
    if not isinstance(prediction, dict) or not all(isinstance(prediction.get(n), int | float) for n in names):
        problem = f"{file} holds no prediction, so it is not a plan."
        raise ConfigError(problem, f"Make one with `handloom plan`, or use `config={file}`.", setting="plan")
    return values, prediction


def print_score(prediction: dict[str, float], summary: dict[str, Any]) -> None:
    """What was predicted next to what was measured."""
    rows = []
    for label, name, actual, shown in (
        ("time", "seconds", summary["train_seconds"], lambda value: f"{value:,.0f} s"),
        ("peak memory", "memory_bytes", summary["peak_memory_bytes"], megabytes),
        ("bits per byte", "bits_per_byte", summary["val_bits_per_byte"], lambda value: f"{value:.3f}"),
    ):
        off = f"{actual / prediction[name] - 1:+.1%}"
        rows.append((label, shown(prediction[name]), shown(actual), off))
    new_console().print(table(("", ">predicted", ">measured", ">difference"), rows))
