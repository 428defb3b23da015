"""handloom verify"""

from __future__ import annotations

import sys
from pathlib import Path

from handloom.cli.flags import ModelPath, PathFlag
from handloom.inspection.check import TOLERANCE


def verify(
    model: ModelPath = Path("runs/demo"),
    *,
    against: str | None = None,
    text: str | None = None,
    text_file: PathFlag | None = None,
    tolerance: float = TOLERANCE,
    json: bool = False,
    threads: int | None = None,
) -> None:
    """Check that a model is computed as it should be. Needs no network; the exit code is 0 or 1.

    Parameters
    ----------
    model
        Run folder, checkpoint folder, Hugging Face folder, GGUF file, nanoGPT's ckpt.pt, or the name of a pulled model.
    against
        Find the first activation that differs in another model of the same shape, or in the same one in
        another precision: fp32, bf16 (matrix products), bf16-weights or fp16-weights (rounded weights).
    text
        What both read with --against, instead of a sentence about a fox.
    text_file
        Read that text from this file.
    tolerance
        The largest difference allowed, as a share of the largest number there is (or of 1).
    json
        Print one JSON object a line instead of a table.
    threads
        Threads for the matrix products [default: $OMP_NUM_THREADS, or the cores granted].
    """
    from handloom.cli.verify_view import chosen_text, require_tolerance

    require_tolerance(tolerance)
    text = chosen_text(text, text_file, against)

    from handloom import runtime
    from handloom.cli.verify_view import print_checks, print_comparison
    from handloom.console import note
    from handloom.inspection.diff import compare_models, is_precision
    from handloom.inspection.verify import verify as checks_of
    from handloom.loading import load

    runtime.set_num_threads(threads)
    if against is None:
        passed = print_checks(str(model), checks_of(load(model, note), tolerance), json)
    else:
        other = against if is_precision(against) else load(against, note)
        compared = compare_models(load(model, note), other, text, tolerance)
        passed = print_comparison(str(model), against, compared, tolerance=tolerance, as_json=json)
    if not passed:
        sys.exit(1)
