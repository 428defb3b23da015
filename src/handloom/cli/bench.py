"""`handloom bench`: the speed of this machine's work, as a table or as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import App

from handloom.bench import kinds
from handloom.cli.flags import OPTIONS, flags_of, given
from handloom.console import activity, megabytes, new_console, note, number, percent, pluralize, print_json, table
from handloom.settings import setting_names

app = App(
    name="bench",
    help="Measure speed in each precision, with its share of the machine's limit and its agreement with fp32.",
    help_format="plaintext",
)
DecodeFlags: Any = flags_of(kinds.Decode)
PrefillFlags: Any = flags_of(kinds.Prefill)
BatchFlags: Any = flags_of(kinds.Batch)
TrainFlags: Any = flags_of(kinds.Train)
LoRAFlags: Any = flags_of(kinds.LoRA)
StartFlags: Any = flags_of(kinds.Start, without=("least_seconds",))
TokenizeFlags: Any = flags_of(kinds.Tokenize)
SpeedrunFlags: Any = flags_of(kinds.Speedrun)
_SHARED = setting_names(kinds.BenchSettings)


@app.command
def decode(*, flags: DecodeFlags = None, json: bool = False) -> None:
    """Generate one text, greedily: the speed of the tokens after the first.

    Each precision has a process of its own; rounds take turns, and one in which other processes used the machine is
    repeated. The share is that of the read bandwidth, measured in the same run, at which a token reads all weights.
    """
    _run(kinds.Decode(**given(flags)), json)


@app.command
def prefill(*, flags: PrefillFlags = None, json: bool = False) -> None:
    """Read a prompt, until the logits of its last token."""
    _run(kinds.Prefill(**given(flags)), json)


@app.command
def batch(*, flags: BatchFlags = None, json: bool = False) -> None:
    """Generate several texts together, greedily: the tokens of all, with the time of their prompts."""
    _run(kinds.Batch(**given(flags)), json)


@app.command
def train(*, flags: TrainFlags = None, json: bool = False) -> None:
    """Train all parameters: the steps of the training loop, on random tokens."""
    _run(kinds.Train(**given(flags)), json)


@app.command
def lora(*, flags: LoRAFlags = None, json: bool = False) -> None:
    """Train a LoRA adapter of attention's queries, keys and values, on random tokens."""
    _run(kinds.LoRA(**given(flags)), json)


@app.command
def start(*, flags: StartFlags = None, json: bool = False) -> None:
    """Start new processes: seconds to the first token, with PyTorch's import, loading and the prompt."""
    from handloom.bench.processes import start as measure

    found = _measured(measure, kinds.Start(**given(flags)))
    if json:
        print_json(found)
        return
    _print_title(found)
    parts = ("import_torch_seconds", "load_seconds", "first_token_seconds")
    rows = [
        (row["precision"], *(number(row[name], 2) for name in ("seconds", *parts)), megabytes(row["peak_memory_bytes"]))
        for row in found["rows"]
    ]
    columns = ("precision", ">seconds", ">import torch", ">load", ">first token", ">memory")
    new_console().print(table(columns, rows, padding=(0, 1, 0, 0)))
    new_console().print(_rounds(found["rows"]))


@app.command
def tokenize(*, flags: TokenizeFlags = None, json: bool = False) -> None:
    """Encode text with the model's tokenizer, by hand and through tiktoken, and decode it; one thread."""
    from handloom.bench.processes import tokenize as measure

    found = _measured(measure, kinds.Tokenize(**given(flags)))
    if json:
        print_json(found)
        return
    _print_title(found)
    rows = [(row["way"], number(row["bytes_per_second"] / 1e6, 1)) for row in found["rows"]]
    new_console().print(table(("way", ">MB/s"), rows, padding=(0, 1, 0, 0)))
    same = f"Texts with the same ids both ways: {percent(found['same_ids'])}."
    new_console().print(f"{_rounds(found['rows'])} {found['tokens']:,} tokens. {same}")


def _measured(measure: Callable[..., dict[str, Any]], settings: Any) -> dict[str, Any]:
    """A measurement, with a line that names what is measured."""
    with activity() as say:
        return measure(settings, note, lambda name: say(f"{settings.kind}: {name}"))


@app.command
def speedrun(*, flags: SpeedrunFlags = None, json: Annotated[bool, OPTIONS] = False) -> None:
    """Train on the characters of a text until a validation loss, by our recipe and by nanoGPT's for processors.

    The time is that of optimizer steps; validations are left out for both, and nothing is compiled. The last tenth of
    the text is held out, and windows have 64 characters.
    """
    from handloom.bench.speedrun import race

    with activity() as say:
        found = race(kinds.Speedrun(**given(flags)), lambda name: say(f"speedrun: {name}"))
    if json:
        print_json(found)
        return
    console, rows = new_console(), [result for results in found["rounds"].values() for result in results]
    headings = ("recipe", ">parameters", ">steps", ">tokens", ">loss", ">seconds")
    console.print(
        table(
            headings,
            (
                (
                    r["name"],
                    f"{r['parameters']:,}",
                    f"{r['steps']:,}",
                    f"{r['tokens']:,}",
                    f"{r['loss']:.3f}",
                    number(r["seconds"], 1),
                )
                for r in rows
            ),
        )
    )
    target = f"the validation loss {found['target']:g}"
    if found["speedup"] is None:
        console.print(f"Not every recipe reached {target}, so there is no ratio of their times.")
    else:
        console.print(f"Our recipe reached {target} {found['speedup']:.1f} times as fast. Time: {found['clock']}.")


def _run(settings: kinds.BenchSettings, as_json: bool) -> None:
    from handloom.bench.report import run

    found = _measured(run, settings)
    if as_json:
        print_json(found)
    else:
        print_report(found)


def print_report(found: dict[str, Any]) -> None:
    """The measurement for people."""
    console = new_console()
    _print_title(found)
    console.print(_limits(found))
    rows = found["rows"]
    agreements = list(dict.fromkeys(name for row in rows for name in row["agreement"] or {}))
    columns = ("precision", ">tokens/s", ">p95 ms", ">limit", ">memory", *(_AGREEMENT[name][0] for name in agreements))
    shown = table(columns, padding=(0, 1, 0, 0))
    for row in rows:
        agreement = row["agreement"] or {}
        shown.add_row(
            *(row["precision"], number(row["tokens_per_second"], 1), number(row["p95_ms"], 2)),
            *(percent(row["share_of_limit"], 0), megabytes(row["peak_memory_bytes"])),
            *(_agreement(name, agreement.get(name)) for name in agreements),
        )
    console.print(shown)
    backends = "; ".join(f"{row['precision']}: {row['backend']}" for row in rows)
    console.print(f"{_rounds(rows)} Computed by {backends}.")
    console.print(" ".join(f"{_AGREEMENT[n][0][1:]}: {_AGREEMENT[n][1]}." for n in agreements))


def _print_title(found: dict[str, Any]) -> None:
    console, settings, machine = new_console(), found["settings"], found["machine"]
    parts = [f"{found['kind']}: {settings['model']}"]
    if "parameters" in found:
        weights = "random weights" if found["weights"] == "random" else "weights from disk"
        parts[0] += f", {weights}, {found['parameters'] / 1e6:,.1f} M parameters"
    parts += [f"{name.replace('_', ' ')} {value:,}" if isinstance(value, int) else f"{name.replace('_', ' ')} {value}"
              for name, value in settings.items() if name not in _SHARED]  # fmt: skip
    console.print(f"{'; '.join([*parts, pluralize(settings['threads'], 'thread')])}.", style="bold")
    console.print(f"{machine['processor']}, {machine['instructions_of_torch']}.")


_AGREEMENT = {
    "same_token": (">same", "positions whose likeliest token is that of fp32"),
    "relative_perplexity": (">ppl", "how much the perplexity grows, on text as fp32 predicts it"),
    "mean_logprob_difference": (">mean", "difference of that token's log-probability, in nats"),
    "largest_logprob_difference": (">largest", "the largest of these"),
    "largest_loss_difference": (">loss", "largest relative difference from the losses of fp32"),
}
"""What differs from fp32: heading of the column, meaning."""


def _agreement(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name == "relative_perplexity":
        return percent(value, 3)
    return percent(value) if name == "same_token" else f"{value:.2g}"


def _limits(found: dict[str, Any]) -> str:
    shown = [
        f"read bandwidth {value / 1e9:.1f} GB/s"
        if name == "read_bandwidth"
        else f"{name.rpartition('_')[2]} matrices {value / 1e9:,.0f} GFLOP/s"
        for name, value in found["limits"].items()
    ]
    return f"Limit, measured in the same run: {', '.join(shown)}."


def _rounds(rows: list[dict[str, Any]]) -> str:
    repeated, busy = (sum(row[name] for row in rows) for name in ("repeated_rounds", "busy_rounds"))
    text = f"Medians of {pluralize(rows[0]['rounds'], 'round')}."
    if repeated:
        text += f" Repeated, since other processes used the machine: {repeated}."
    if busy:
        text += f" Counted although they did, since no quiet moment came: {busy}; these speeds are too low."
    return text
