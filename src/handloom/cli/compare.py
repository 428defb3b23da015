"""handloom compare"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from handloom.cli.arguments import Precision, note_labels, read_lines, require_positive
from handloom.cli.flags import PathFlag, flags_of, given
from handloom.errors import RequestError, worded
from handloom.evaluation.comparison_config import LEFT_OUT, PROMPTS, ComparisonConfig
from handloom.inference.generation_config import GenerationConfig

if TYPE_CHECKING:
    from handloom.evaluation.provenance import ModelEntry
    from handloom.evaluation.report import ModelResult, Report

    Cell = Callable[[ModelResult], str]

ComparisonFlags: Any = flags_of(ComparisonConfig, several=False)
RequestFlags: Any = flags_of(GenerationConfig, several=False, without=LEFT_OUT)
_WIDTH, _AT_ONCE = 80, 4  # of the table: characters, and models side by side
_NARROW = 12  # characters in a column where there are four; longer names are broken where a folder ends


def compare(
    *models: str,
    prompts: PathFlag | None = None,
    out: PathFlag = Path("compare.html"),
    json: PathFlag | None = None,
    precision: Precision = "fp32",
    threads: int | None = None,
    config: Annotated[ComparisonFlags, Parameter(name="*")] = ComparisonFlags(),  # noqa: B008 - cyclopts wants one
    request: Annotated[RequestFlags, Parameter(name="*")] = RequestFlags(),  # noqa: B008
) -> None:
    """Compare models: the same prompts, seeds, sampling and texts for each.

    Prints a table and writes a page that needs no network: samples shaded by NLL, perplexity with its error,
    calibration, diversity, copies of the training text, forgetting of a tuned model, speed and size.

    Parameters
    ----------
    models
        Two or more: run folders, checkpoint folders, Hugging Face folders, names of pulled models.
    prompts
        File with a prompt on each line [default: some of ours].
    out
        The page.
    json
        Also write all numbers and texts to this file.
    precision
        Of the weights of all models: fp32 is exact; auto is the fastest one, see docs/quantization.md.
    threads
        Threads for the matrix products [default: $OMP_NUM_THREADS, or the cores available].
    """
    from json import dumps

    from handloom import runtime, storage
    from handloom.console import write

    require_positive(threads=threads)
    how = ComparisonConfig(
        prompts=tuple(read_lines(prompts)) if prompts else PROMPTS,
        request=GenerationConfig().changed(**given(request)),
        **given(config),
    )
    texts = [*how.data, *how.general, *how.training]
    inputs = [*models, *texts, *(file for name in texts for file in glob(name)), *([str(prompts)] if prompts else [])]
    for file in (out, *([json] if json else [])):  # better now than after minutes of measuring
        storage.require_not_input(file, inputs)
        if not file.parent.is_dir():
            raise RequestError(f"There is no folder {file.parent} to write {file.name} to.", "Make it first.")
    if json and json.resolve() == out.resolve():
        raise RequestError(f"`out` and `json` both name {out}.", "Give each a file of its own.")

    from handloom.evaluation import compare, html_report

    runtime.set_num_threads(threads)
    report = compare.compare(models, how, partial(_find, precision=precision), _say)
    storage.write_output(out, html_report.render(report), inputs)
    if json:
        text = dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        storage.write_output(json, text + "\n", inputs)
    print_report(report)
    write(f"The page: {out}" + (f"  The numbers: {json}" if json else ""))


def _find(name: str, run: Path | None, precision: str) -> ModelEntry:
    """The model of a name; one that a run names may be named from a folder above the run."""
    from handloom.console import note
    from handloom.evaluation.provenance import ModelEntry
    from handloom.loading import AdaptedModel, find_model, load
    from handloom.runtime import found_from

    there = found_from(name, () if run is None else run.absolute().parents)
    source = find_model(there, note if run is None else (lambda note: None))
    if run is None:
        note_labels(name, source.config)
    return ModelEntry(
        name=name,
        folder=source.folder,
        context_length=source.config.context_length,
        open=lambda: load(there, on_note=lambda note: None, precision=precision),  # it was printed before
        load_tokenizer=source.load_tokenizer,
        training=getattr(source, "training", {}),
        adapter_base=source.base.folder if isinstance(source, AdaptedModel) else None,
    )


def _say(step: str) -> None:
    from handloom.console import visible

    if sys.stderr.isatty():
        print(f"  {visible(step)}", file=sys.stderr)


def print_report(report: Report) -> None:
    """Print the notes and the numbers of a comparison: measures down, models across, four models at a time."""
    from handloom.console import new_console, table
    from handloom.evaluation.scoring import Z_95

    console = new_console(width=_WIDTH)
    for at in range(0, len(report.models), _AT_ONCE):
        models = report.models[at : at + _AT_ONCE]
        names = [m.name if len(m.name) <= _NARROW else m.name.replace("/", "/\n") for m in models]
        columns = ("", *(f">{name}" for name in names))
        made = table(columns, ((label, *map(cell, models)) for label, cell in _rows(report)), padding=(0, 1))
        made.columns[0].no_wrap = True
        console.print(made)
    for each in report.forgetting:
        error = each.difference.standard_error
        spread = f" ± {Z_95 * error:.3f}" if error is not None else ""
        console.print(
            f"{each.model} against {each.base} on general text: {each.verdict} "
            f"({each.difference.value:+.3f}{spread} bits per byte)."
        )
    console.print("± is 1.96 standard errors.")
    for note in report.notes:
        console.print(f"Note: {worded(note)}")


def _rows(report: Report) -> list[tuple[str, Cell]]:
    from handloom.console import number
    from handloom.evaluation.scoring import Z_95

    def spread(model: ModelResult) -> str:
        error = model.held_out.bits_per_byte.standard_error
        return number(None if error is None else Z_95 * error)

    speeds, several = report.times.speeds, not report.one_tokenizer
    rows: list[tuple[str, Cell]] = [
        ("origin", lambda m: m.provenance.kind.removesuffix(" here")),
        ("precision", lambda m: m.precision),
        ("parameters", lambda m: number(m.parameters, 0)),
        ("trained share", lambda m: _share(m.provenance.trained_share, 2)),
        ("weights MB", lambda m: number(m.weight_bytes / 1e6, 1)),
        ("cache MB", lambda m: number(m.cache_bytes / 1e6, 1)),
        ("bits/byte held-out", lambda m: f"{m.held_out.bits_per_byte.value:.3f}"),
        ("  ±", spread),
        (
            "perplexity (tokenizer)" if several else "perplexity",
            lambda m: number(m.held_out.perplexity, 1) + (f" {m.tokenizer}" if several else ""),
        ),
        ("calibration error", lambda m: _share(m.calibration.error)),
        ("distinct 1-grams", lambda m: _share(m.diversity.distinct_1)),
        ("distinct 2-grams", lambda m: _share(m.diversity.distinct_2)),
        ("distinct 3-grams", lambda m: _share(m.diversity.distinct_3)),
        ("repeated 4-grams", lambda m: _share(m.diversity.repeated_4)),
        ("8-grams copied", lambda m: _share(m.memorization.texts.share if m.memorization else None)),
        ("  of held-out text", lambda m: _share(m.memorization.held_out.share if m.memorization else None)),
        ("longest overlap", _longest),
        ("tokens/s", lambda m: number(speeds[m.name].tokens_per_second, 0)),
        ("first token ms", lambda m: number(1000 * speeds[m.name].first_token_seconds, 1)),
    ]
    if report.general and report.general.source != report.held_out.source:
        rows.insert(8, ("bits/byte general", lambda m: number(m.general.bits_per_byte.value if m.general else None)))
    return rows


def _longest(model: ModelResult) -> str:
    if model.memorization is None:
        return "-"
    longest = model.memorization.texts.longest
    return f"{longest.characters if longest else 0:,} chars"


def _share(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"
