"""Reports the events of a run: to nobody, or to a terminal. Writes no files."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from rich import box
from rich.progress import BarColumn, TaskID
from rich.table import Table
from rich.text import Text

from handloom import runtime
from handloom.console import Console, column, megabytes, new_console, progress, visible
from handloom.errors import worded
from handloom.finetuning.memory_estimate import MemoryEstimate
from handloom.screen import NAMES, shielded
from handloom.training.config import FEW_STEPS
from handloom.training.objective import EvalResult
from handloom.training.time_budget import StepTimer


class Reporter:
    """Receives the events of a run; this one ignores them."""

    def note(self, text: str) -> None:
        """Information; may come from another thread than the rest."""

    def warning(self, text: str) -> None:
        """Something that deserves attention."""

    def memory_estimate(self, estimate: MemoryEstimate) -> None:
        """What each finetuning method would train, and its memory."""

    def planned(self, steps: int, step_seconds: float, minutes: float) -> None:
        """The number of steps was chosen from the minutes."""

    def step(self, step: int, total: int | None, loss: float, speed: float | None, timer: StepTimer) -> None:
        """A step is done, of `total` if that is known; `speed` in tokens per second."""

    def validation(self, step: int, result: EvalResult, training_loss: float | None) -> None:
        """A validation is done."""

    def sample(self, step: int, prompt: str, text: str) -> None:
        """The model generated `text` after `prompt`."""


def report_sentences(sentences: Iterable[tuple[str, bool]], reporter: Reporter) -> None:
    """Report sentences about the data: a warning if the second value says that something can be done about it."""
    for sentence, actionable in sentences:
        (reporter.warning if actionable else reporter.note)(sentence)


class TerminalReporter(Reporter):
    """A live line of progress, with losses and samples above it. Use as a context manager.

    Where the output is not a terminal, the live line is left out; each validation still prints a line. Within the
    context, output that cannot be shown is lost without an error.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or new_console()
        columns = column("{task.fields[where]}"), BarColumn(bar_width=None), column("{task.fields[what]}")
        self._bar = progress(*columns, console=self.console)
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
        """In a dim style."""
        self.console.print(worded(text), style="dim")

    def warning(self, text: str) -> None:
        """In yellow."""
        self.console.print(worded(text), style="yellow")

    def memory_estimate(self, estimate: MemoryEstimate) -> None:
        """A table of the methods, the chosen one first and in bold."""
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for heading in ("method", "tensors", "trained", "share", "gradients", "AdamW", "peak memory"):
            table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
        for entry in sorted(estimate.entries, key=lambda entry: not entry.chosen):
            cost = entry.cost
            table.add_row(
                ("→ " if entry.chosen else "  ") + entry.method + ("*" if entry.remark else ""),
                *(f"{cost.tensors:,}", f"{cost.parameters:,}", f"{cost.share:.2%}"),
                *map(megabytes, (cost.gradient_bytes, cost.optimizer_bytes, entry.peak_bytes)),
                style="bold" if entry.chosen else "",
            )
        self.console.print(table)
        for remark in dict.fromkeys(entry.remark for entry in estimate.entries if entry.remark):
            report = self.warning if estimate.chosen.remark else self.note
            report(f"* {remark}. `untie_embeddings=true` gives the head weights of its own.")
        self.note(f"Trained: {', '.join(f'{name} ({numbers:,})' for name, _, numbers in estimate.groups)}.")

    def planned(self, steps: int, step_seconds: float, minutes: float) -> None:
        """A note, or a warning where the steps are few."""
        text = f"{step_seconds * 1000:,.0f} ms per step: {steps:,} steps fit into {minutes:g} minutes."
        if steps < FEW_STEPS:
            self.warning(f"{text} That is few to learn from: raise `minutes`, or lower `batch_size`.")
        else:
            self.note(text)

    def step(self, step: int, total: int | None, loss: float, speed: float | None, timer: StepTimer) -> None:
        """Redraw the live line."""
        parts = [f"loss {loss:.3f}"]
        if self._validation is not None:
            parts.append(f"val {self._validation:.3f}")
        if speed is not None:
            parts.append(f"{speed:,.0f} tokens/s")
        if total is not None and speed is not None:
            parts.append(f"{clock((total - step) * timer.step_seconds())} left")
        parts.append(f"{runtime.peak_memory_bytes() / 1e6:,.0f} MB")
        where, what = f"{step:,}/{total:,}" if total else f"{step:,}/…", "  ".join(parts)
        if self._task is None:
            self._task = self._bar.add_task("", total=total, where=where, what=what)
        self._bar.update(self._task, completed=step, total=total, where=where, what=what)

    def validation(self, step: int, result: EvalResult, training_loss: float | None) -> None:
        """A line that stays; its loss is repeated in the live line until the next."""
        self._validation = result.loss
        line = Text(f"step {step:>6,}  ", style="bold")
        if training_loss is not None:
            line.append(f"training {training_loss:.3f}  ", style="not bold")
        line.append(f"validation {result.loss:.3f} {result.unit}", style="not bold")
        metrics = "".join(f"  {metric_text(name, value)}" for name, value in result.metrics.items())
        if line.cell_len + len(metrics) > self.console.width:
            line.append("\n")
        self.console.print(line.append(metrics, style="bold cyan"))

    def sample(self, step: int, prompt: str, text: str) -> None:
        """The prompt and the text, on one line."""
        begun, whole = (visible(" ".join(part.split())) for part in (prompt, prompt + text))
        line = Text.assemble("  ", (whole[: len(begun)], "bold"), (whole[len(begun) :], "italic"))
        line.truncate(self.console.width, overflow="ellipsis")
        self.console.print(line)


def metric_text(name: str, value: float) -> str:
    """A metric for people: `bits_per_byte` -> `1.734 bits/byte`, `token_accuracy` -> `94.3% token accuracy`."""
    number = f"{value:.1%}" if name.endswith("accuracy") else f"{value:.3f}"
    return f"{number} {name.replace('_per_', '/').replace('_', ' ')}"


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
