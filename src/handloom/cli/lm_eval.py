"""handloom lm-eval"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from handloom.cli.arguments import Precision


def lm_eval(
    model: str,
    /,
    *flags: Annotated[str, Parameter(allow_leading_hyphen=True, show_default=False)],
    precision: Precision = "fp32",
) -> None:
    """Measure a model with EleutherAI's lm-evaluation-harness (the extra `eval`).

    For example: handloom lm-eval runs/demo --tasks lambada_openai --limit 100

    Parameters
    ----------
    model
        Run folder, checkpoint folder, Hugging Face folder, GGUF file, nanoGPT's ckpt.pt, or the name of a pulled model.
    flags
        Flags of the harness's own command `lm-eval run`, such as --tasks. Its benchmarks come from
        Hugging Face's hub.
    precision
        Of the weights: fp32 is exact; auto is the fastest one, see docs/quantization.md.
    """
    from handloom.evaluation.lm_eval_adapter import command_line
    from handloom.loading import find_model, load

    find_model(model, lambda note: None)  # an error for a missing one before the harness starts
    command_line(flags, model, lambda name: load(name, precision=precision))
