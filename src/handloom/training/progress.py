"""What a person sees while a model trains: a line of progress, losses, samples. Writes no files."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Protocol, runtime_checkable

from rich import box
from rich.progress import BarColumn, TaskID
from rich.table import Table
from rich.text import Text

from handloom import runtime
from handloom.console import Console, column, new_console, progress, visible
from handloom.errors import worded
from handloom.finetuning.memory_estimate import MemoryEstimate
from handloom.screen import NAMES, shielded
from handloom.training.objective import EvalResult
from handloom.training.sizes import FEW_STEPS
from handloom.training.time_budget import StepTimer


@runtime_checkable
class Reporter(Protocol):
    """Who is told what happens in a run."""

    def note(self, text: str) -> None:
        """Something worth saying once; may come from another thread than the rest."""

    def warning(self, text: str) -> None:
        """Something that deserves attention."""

    def ledger(self, ledger: MemoryEstimate) -> None:
        """What will learn, and what that costs."""

    def planned(self, steps: int, step_seconds: float, minutes: float) -> None:
        """The number of steps was chosen from the minutes."""

    def step(self, step: int, total: int | None, loss: float, speed: float | None, pace: StepTimer) -> None:
        """A step was done; `speed` in tokens per second."""

    def validation(self, step: int, found: EvalResult, training_loss: float | None) -> None:
        """A validation was done."""

    def sample(self, step: int, prompt: str, text: str) -> None:
        """The model wrote `text` after `prompt`."""


class NullReporter:
    """Tells nobody."""

    def note(self, text: str) -> None: ...
    def warning(self, text: str) -> None: ...
    def ledger(self, ledger: MemoryEstimate) -> None: ...
    def planned(self, steps: int, step_seconds: float, minutes: float) -> None: ...
    def step(self, step: int, total: int | None, loss: float, speed: float | None, pace: StepTimer) -> None: ...
    def validation(self, step: int, found: EvalResult, training_loss: float | None) -> None: ...
    def sample(self, step: int, prompt: str, text: str) -> None: ...


class TerminalReporter:
    """A live line of progress, with losses and samples above it.

    Use as a context manager. Where the output is no terminal, the live line is left out and a plain
    line is written with each validation instead. Within it, what cannot be shown is lost without an error.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or new_console()
        self._bar = progress(
            column("{task.fields[where]}"),
            BarColumn(bar_width=None),
            column("{task.fields[what]}"),
            console=self.console,
        )
        self._task: TaskID | None = None
        self._validation: float | None = None
        self._shield = ExitStack()

    def __enter__(self) -> TerminalReporter:
        self._shield.enter_context(shielded(*NAMES))
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        self._shield.close()

    def note(self, text: str) -> None:
        """Something worth saying once."""
        self.console.print(worded(text), style="dim")

    def warning(self, text: str) -> None:
        """Something that deserves attention."""
        self.console.print(worded(text), style="yellow")

    def ledger(self, ledger: MemoryEstimate) -> None:
        """A table of the ways to tune the model, the chosen one first and in bold."""
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("method", no_wrap=True)
        for heading in ("tensors", "trained", "share", "gradients", "AdamW", "peak memory"):
            table.add_column(heading, justify="right", no_wrap=True)
        for entry in sorted(ledger.entries, key=lambda entry: not entry.chosen):
            cost = entry.cost
            table.add_row(
                ("→ " if entry.chosen else "  ") + entry.method + ("*" if entry.remark else ""),
                f"{cost.tensors:,}",
                f"{cost.parameters:,}",
                f"{cost.share:.2%}",
                megabytes(cost.gradient_bytes),
                megabytes(cost.optimizer_bytes),
                megabytes(entry.peak_bytes),
                style="bold" if entry.chosen else "",
            )
        self.console.print(table)
        for remark in dict.fromkeys(entry.remark for entry in ledger.entries if entry.remark):
            tell = self.warning if ledger.chosen.remark else self.note
            tell(f"* {remark}. With --untie-embeddings the head gets weights of its own.")
        parts = [f"{name} ({numbers:,})" for name, _, numbers in ledger.groups]
        self.note(f"What learns: {', '.join(parts)}.")

    def planned(self, steps: int, step_seconds: float, minutes: float) -> None:
        """The number of steps was chosen from the minutes."""
        said = f"{step_seconds * 1000:,.0f} ms a step: {steps:,} steps fit into {minutes:g} minutes."
        if steps < FEW_STEPS:
            self.warning(f"{said} That is few to learn from: give more --minutes, or a smaller --batch-size.")
        else:
            self.note(said)

    def step(self, step: int, total: int | None, loss: float, speed: float | None, pace: StepTimer) -> None:
        """Redraw the live line."""
        parts = [f"loss {loss:.3f}"]
        if self._validation is not None:
            parts.append(f"val {self._validation:.3f}")
        if speed is not None:
            parts.append(f"{speed:,.0f} tokens/s")
        if total is not None and speed is not None:
            parts.append(f"{clock((total - step) * pace.step_seconds())} left")
        parts.append(f"{runtime.peak_memory_bytes() / 1e6:,.0f} MB")
        where, what = f"{step:,}/{total:,}" if total else f"{step:,}/…", "  ".join(parts)
        if self._task is None:
            self._task = self._bar.add_task("", total=total, where=where, what=what)
        self._bar.update(self._task, completed=step, total=total, where=where, what=what)

    def validation(self, step: int, found: EvalResult, training_loss: float | None) -> None:
        """A line that stays; its loss is repeated in the live line until the next."""
        self._validation = found.loss
        line = Text(f"step {step:>6,}  ", style="bold")
        if training_loss is not None:
            line.append(f"training {training_loss:.3f}  ", style="not bold")
        line.append(f"validation {found.loss:.3f} {found.unit}", style="not bold")
        figures = "".join(f"  {shown(name, value)}" for name, value in found.figures.items())
        if line.cell_len + len(figures) > self.console.width:
            line.append("\n")
        self.console.print(line.append(figures, style="bold cyan"))

    def sample(self, step: int, prompt: str, text: str) -> None:
        """What the model wrote, on one line."""
        begun, whole = (visible(" ".join(part.split())) for part in (prompt, prompt + text))
        line = Text.assemble("  ", (whole[: len(begun)], "bold"), (whole[len(begun) :], "italic"))
        line.truncate(self.console.width, overflow="ellipsis")
        self.console.print(line)


def shown(figure: str, value: float) -> str:
    """A figure for people: `bits_per_byte` -> `1.734 bits/byte`, `token_accuracy` -> `94.3% token accuracy`."""
    number = f"{value:.1%}" if figure.endswith("accuracy") else f"{value:.3f}"
    return f"{number} {figure.replace('_per_', '/').replace('_', ' ')}"


def megabytes(count: int) -> str:
    """Bytes for people: `18 kB`, `3.2 MB`, `1,530 MB`."""
    if count < 1e6:
        return f"{count / 1e3:,.0f} kB"
    return f"{count / 1e6:,.1f} MB" if count < 1e7 else f"{count / 1e6:,.0f} MB"


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
