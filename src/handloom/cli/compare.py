"""handloom compare"""

from __future__ import annotations

import sys
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from handloom.cli.flags import PathFlag, flags_of, given
from handloom.cli.model_argument import note_labels
from handloom.errors import RequestError
from handloom.evaluation.comparison_config import LEFT_OUT, PROMPTS, ComparisonConfig
from handloom.inference.generation_config import GenerationConfig

if TYPE_CHECKING:
    from handloom.evaluation.provenance import ModelEntry

ComparisonFlags: Any = flags_of(ComparisonConfig, several=False)
RequestFlags: Any = flags_of(GenerationConfig, several=False, without=LEFT_OUT)


def compare(
    *models: str,
    prompts: PathFlag | None = None,
    out: PathFlag = Path("compare.html"),
    json: PathFlag | None = None,
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
    threads
        Threads for the matrix products [default: $OMP_NUM_THREADS, or the cores available].
    """
    from handloom.cli.inputs import read_lines

    if threads is not None and threads < 1:
        raise RequestError(f"`threads` is {threads}; it must be at least 1.", "Leave it out.", setting="threads")
    how = ComparisonConfig(
        prompts=tuple(read_lines(prompts)) if prompts else PROMPTS,
        request=GenerationConfig().changed(**given(request)),
        **given(config),
    )
    texts = [*how.data, *how.general, *how.training]
    inputs = [*models, *texts, *(file for name in texts for file in glob(name)), *([str(prompts)] if prompts else [])]
    for file in (out, *([json] if json else [])):
        _require_writable(file, inputs)
    if json and json.resolve() == out.resolve():
        raise RequestError(f"`out` and `json` both name {out}.", "Give each a file of its own.")
    _compare_and_write(models, how, inputs, out, json=json, threads=threads)


def _compare_and_write(
    models: tuple[str, ...],
    how: ComparisonConfig,
    inputs: list[str],
    out: Path,
    *,
    json: Path | None,
    threads: int | None,
) -> None:
    from json import dumps

    from handloom import runtime, storage
    from handloom.cli.compare_table import print_report
    from handloom.console import write
    from handloom.evaluation.compare import compare
    from handloom.evaluation.html_report import render

    runtime.set_num_threads(threads)
    report = compare(models, how, _find, _say)
    storage.write_output(out, render(report), inputs)
    if json:
        text = dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        storage.write_output(json, text + "\n", inputs)
    print_report(report)
    write(f"The page: {out}" + (f"  The numbers: {json}" if json else ""))


def _require_writable(file: Path, inputs: list[str]) -> None:
    """Better now than after minutes of measuring."""
    from handloom.storage import require_not_input

    require_not_input(file, inputs)
    if not file.parent.is_dir():
        raise RequestError(f"There is no folder {file.parent} to write {file.name} to.", "Make it first.")


def _find(name: str, run: Path | None) -> ModelEntry:
    """The model of a name; one that a run names may be named from a folder above the run."""
    from handloom.console import note
    from handloom.evaluation.provenance import ModelEntry
    from handloom.loading import AdaptedModel, find_model, load
    from handloom.runtime import found_from

    there = found_from(name, () if run is None else run.absolute().parents)
    source = find_model(there, note if run is None else _ignore)
    if run is None:
        note_labels(name, source.config)
    return ModelEntry(
        name=name,
        folder=source.folder,
        context_length=source.config.context_length,
        open=lambda: load(there, on_note=_ignore),
        load_tokenizer=source.load_tokenizer,
        training=getattr(source, "training", {}),
        adapter_base=source.base.folder if isinstance(source, AdaptedModel) else None,
    )


def _ignore(note: str) -> None:
    """A note that was printed before."""


def _say(step: str) -> None:
    from handloom.console import visible

    if sys.stderr.isatty():
        print(f"  {visible(step)}", file=sys.stderr)
