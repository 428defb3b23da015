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

QuestionFlags: Any = flags_of(ComparisonConfig, several=False)
RequestFlags: Any = flags_of(GenerationConfig, several=False, without=LEFT_OUT)


def compare(
    *models: str,
    prompts: PathFlag | None = None,
    out: PathFlag = Path("compare.html"),
    json: PathFlag | None = None,
    threads: int | None = None,
    question: Annotated[QuestionFlags, Parameter(name="*")] = QuestionFlags(),  # noqa: B008 - cyclopts wants one
    request: Annotated[RequestFlags, Parameter(name="*")] = RequestFlags(),  # noqa: B008
) -> None:
    """Set models side by side: the same prompts, seeds, sampling and texts for each.

    Prints a table and writes a page that needs no network: texts shaded by surprise, perplexity with its error,
    calibration, diversity, what was copied from the training text, what a tuned model forgot, speed and size.

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
        Threads for the matrix products [default: $OMP_NUM_THREADS, or the cores granted].
    """
    from handloom.cli.inputs import read_lines

    texts: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given(question).items()
    }
    asked = ComparisonConfig(
        prompts=tuple(read_lines(prompts)) if prompts else PROMPTS,
        request=GenerationConfig().changed(**given(request)),
        **texts,
    )
    if threads is not None and threads < 1:
        raise RequestError(f"--threads is {threads}; it must be at least 1.", "Leave it out for the usual.")
    texts_read = [*asked.data, *asked.general, *asked.training]
    inputs = [*models, *texts_read, *(file for name in texts_read for file in glob(name))]
    inputs += [str(prompts)] if prompts else []
    for file in (out, *([json] if json else [])):
        _require_writable(file, inputs)
    if json and json.resolve() == out.resolve():
        raise RequestError(f"--out and --json both name {out}.", "Give each a file of its own.")

    from handloom import runtime, storage
    from handloom.cli.compare_table import print_report
    from handloom.console import write
    from handloom.evaluation import compare as comparison
    from handloom.evaluation.html_report import render

    runtime.set_num_threads(threads)
    report = comparison.compare(models, asked, _find, _say)
    storage.write_output(out, render(report), inputs)
    if json:
        import json as encoder

        text = encoder.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
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
    """The model that a name stands for; one that a run names may be named from a folder above the run."""
    from handloom.console import note
    from handloom.evaluation.provenance import ModelEntry
    from handloom.loading import AdaptedModel, find_model, load
    from handloom.runtime import found_from

    there = found_from(name, () if run is None else run.absolute().parents)
    stored = find_model(there, note if run is None else _hush)
    if run is None:
        note_labels(name, stored.config)
    training = getattr(stored, "training", {})
    return ModelEntry(
        name,
        stored.folder,
        stored.config.context_length,
        lambda: load(there, on_note=_hush),
        stored.load_tokenizer,
        training,
        stored.base.folder if isinstance(stored, AdaptedModel) else None,
    )


def _hush(note: str) -> None:
    """What was said once already."""


def _say(step: str) -> None:
    from handloom.console import visible

    if sys.stderr.isatty():
        print(f"  {visible(step)}", file=sys.stderr)
