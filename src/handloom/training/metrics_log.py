"""Writes `metrics.jsonl`, and from it `samples.md`, `loss.svg` and TensorBoard files, which can be made again."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

from handloom.packages import import_failure
from handloom.storage import explaining_os_errors, write_output
from handloom.values import parse_json

METRICS = "metrics.jsonl"


class MetricsLogger:
    """The records of one run, in order. Those later than step `keep_until` are removed: a resumed run repeats them."""

    def __init__(self, run: Path, keep_until: int = -1, unit: str = "nats/token", tensorboard: bool = False) -> None:
        self._run, self._unit = run, unit.replace("/", " per ")
        self._file = run / METRICS
        records, damaged = _read(run)
        self.damaged = _copy_damaged(self._file) if damaged else None
        """The copy of the records as they were found, if some of them could not be read."""
        self.records = [record for record in records if record["step"] <= keep_until]
        write_output(self._file, "".join(map(_line, self.records)))
        self._board = _open_tensorboard(run) if tensorboard else None

    def add(self, kind: str, step: int, **values: Any) -> None:
        """Write one record: `train`, `validation`, `sample`, or `screen` for output that was lost."""
        record = {"kind": kind, "step": step, **values}
        self.records.append(record)
        with explaining_os_errors(self._file), self._file.open("a", encoding="utf-8", newline="\n") as file:
            file.write(_line(record))
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, float | int):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """All records of that kind."""
        return [record for record in self.records if record["kind"] == kind]

    def recent_loss(self) -> float | None:
        """Mean training loss over the last twentieth of the steps that are done."""
        losses = [record["loss"] for record in self.of_kind("train")]
        last = losses[-max(10, len(losses) // 20) :]
        return sum(last) / len(last) if last else None

    def write_samples(self) -> None:
        """Make `samples.md`: the generated texts, step by step."""
        lines = ["# Samples\n"]
        for step, records in itertools.groupby(self.of_kind("sample"), key=lambda record: record["step"]):
            lines.append(f"\n## Step {step}\n")
            for record in records:
                text = (record["prompt"] + record["text"]).replace("\n", "\n    ")
                lines.append(f"\n    {text}\n")
        write_output(self._run / "samples.md", "".join(lines))

    def draw_loss(self) -> None:
        """Make `loss.svg`: training and validation loss over the steps."""
        from matplotlib.figure import Figure

        training, validation = self.of_kind("train"), self.of_kind("validation")
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot([r["step"] for r in training], [r["loss"] for r in training], lw=0.8, alpha=0.6, label="training")
        axes.plot([r["step"] for r in validation], [r["loss"] for r in validation], "o-", label="validation")
        axes.set(xlabel="step", ylabel=f"loss ({self._unit})")
        axes.grid(alpha=0.3)
        axes.legend()
        if validation:
            last = {k: v for k, v in validation[-1].items() if k not in ("kind", "step", "loss", "seconds")}
            others = [f", {value:.3f} {name.replace('_', ' ')}" for name, value in last.items()]
            axes.set_title(f"validation {validation[-1]['loss']:.3f} {self._unit}" + "".join(others))
        with explaining_os_errors(self._run / "loss.svg"):
            figure.savefig(self._run / "loss.svg", metadata={"Date": None})

    def close(self) -> None:
        """Make the files that are made from the records."""
        self.write_samples()
        self.draw_loss()
        if self._board is not None:
            self._board.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of a run without damaged lines; a crash may damage the last one."""
    return _read(run)[0]


def _read(run: Path) -> tuple[list[dict[str, Any]], int]:
    """The records of a run, and the number of damaged lines, not counting a last one that a crash cut off."""
    path = run / METRICS
    if not path.exists():
        return [], 0
    *lines, last = path.read_bytes().split(b"\n")  # not splitlines: a sample may hold other line ends, as U+2028
    found = [_record(line) for line in lines]
    return [record for record in (*found, _record(last)) if record is not None], found.count(None)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = parse_json(line.decode("utf-8"))
    except ValueError:
        return None
    complete = isinstance(record, dict) and isinstance(record.get("step"), int) and "kind" in record
    return record if complete else None


def _copy_damaged(path: Path) -> Path:
    copies = (path.with_name(f"{path.stem}-damaged-{number}{path.suffix}") for number in itertools.count(1))
    copy = next(each for each in copies if not each.exists())
    with explaining_os_errors(copy):
        shutil.copyfile(path, copy)
    return copy


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _open_tensorboard(run: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise import_failure(error, "The setting tensorboard") or error from None
    return SummaryWriter(str(run / "tensorboard"))
