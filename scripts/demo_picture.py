"""Draws docs/demo.svg from a run: the loss curve with three of its samples.

    python scripts/demo_picture.py runs/demo docs/demo.svg

Reads metrics.jsonl only. The picture has its own colors for light and dark pages.
"""

from __future__ import annotations

import json
import math
import sys
from html import escape
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 860, 430
LEFT, RIGHT, TOP, BOTTOM = 56, 844, 24, 386
SHOWN = 66
"""Characters of a sample that are shown."""

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.small { font-size: 12px; fill: #59636e; }
.sample { font-family: ui-monospace, monospace; font-size: 12px; }
.axis { stroke: #d1d9e0; }
.train { fill: none; stroke: #8cb4e8; stroke-width: 1.5; }
.validation { fill: none; stroke: #0550ae; stroke-width: 2; }
.dot { fill: #0550ae; }
.pin { stroke: #59636e; stroke-dasharray: 3 3; fill: none; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; } .small { fill: #9198a1; } .axis { stroke: #3d444d; }
  .train { stroke: #3a5f94; } .validation { stroke: #79b8ff; } .dot { fill: #79b8ff; } .pin { stroke: #9198a1; }
}
"""


def read(run: Path) -> dict[str, list[dict[str, Any]]]:
    """The records of a run's metrics.jsonl, by kind: train, validation, sample, ..."""
    records: dict[str, list[dict[str, Any]]] = {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        records.setdefault(record["kind"], []).append(record)
    return records


def draw(records: dict[str, list[dict[str, Any]]]) -> str:
    """The picture as SVG."""
    train, validations, samples = (records[kind] for kind in ("train", "validation", "sample"))
    last = max(record["step"] for record in train)
    high = math.ceil(max(record["loss"] for record in validations))
    low = math.floor(min(record["loss"] for record in train))

    def x(step: float) -> float:
        return LEFT + (RIGHT - LEFT) * step / last

    def y(loss: float) -> float:
        return TOP + (BOTTOM - TOP) * (high - loss) / (high - low)

    def path(points: list[tuple[float, float]]) -> str:
        return "M" + " L".join(f"{x(step):.1f} {y(loss):.1f}" for step, loss in points)

    parts = [f"<title>Loss of a run of {last:,} steps, with three of its samples</title>", f"<style>{STYLE}</style>"]
    for loss in range(low, high + 1):
        parts.append(f'<path class="axis" d="M{LEFT} {y(loss):.1f} H{RIGHT}"/>')
        parts.append(f'<text class="small" text-anchor="end" x="{LEFT - 8}" y="{y(loss) + 4:.1f}">{loss}</text>')
    for share in range(5):
        step = round(last * share / 4)
        anchor = "end" if share == 4 else "middle" if share else "start"
        label = f"{step:,}" + (" steps" if share == 4 else "")
        parts.append(f'<text class="small" text-anchor="{anchor}" x="{x(step):.1f}" y="{BOTTOM + 20}">{label}</text>')
    parts.append(f'<text class="small" x="{LEFT}" y="{HEIGHT - 4}">Loss in nats per token: training (light), ')
    parts.append("validation on documents that were held out (dark, with bits per byte).</text>")
    width = max(1, last // 150)
    smooth = [
        (group[-1]["step"], sum(record["loss"] for record in group) / len(group))
        for group in (train[start : start + width] for start in range(0, len(train), width))
    ]
    parts.append(f'<path class="train" d="{path(smooth)}"/>')
    parts.append(f'<path class="validation" d="{path([(record["step"], record["loss"]) for record in validations])}"/>')
    for record in validations:
        parts.append(f'<circle class="dot" cx="{x(record["step"]):.1f}" cy="{y(record["loss"]):.1f}" r="3.5"/>')
    chosen = [validations[0], validations[1], validations[-1]]
    for number, record in enumerate(chosen):
        written = [one for one in samples if one["step"] == record["step"]][-1]
        text = escape(" ".join("".join(c if c.isprintable() else " " for c in written["text"]).split())[:SHOWN])
        last_one = number == len(chosen) - 1
        left, top = RIGHT if last_one else 150 + 70 * number, 42 + 50 * number
        end, anchor = (f"V{top + 26}", "end") if last_one else (f"L{left - 8} {top}", "start")
        parts.append(f'<path class="pin" d="M{x(record["step"]):.1f} {y(record["loss"]):.1f} {end}"/>')
        said = f"step {record['step']:,}: {record['bits_per_byte']:.2f} bits per byte"
        parts.append(f'<text class="small" text-anchor="{anchor}" x="{left}" y="{top}">{said}</text>')
        sample = f"{escape(written['prompt'])} {text}…"
        parts.append(f'<text class="sample" text-anchor="{anchor}" x="{left}" y="{top + 18}">{sample}</text>')
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">\n{body}\n</svg>\n'


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(draw(read(Path(sys.argv[1]))), encoding="utf-8")
