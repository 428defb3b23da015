"""What rounding the weights costs: perplexity and greedy tokens of a model in another precision, against fp32.

Both read the same tokens, so the difference has a standard error of its own, far below that of a perplexity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from handloom.data.builtin import BUILTIN
from handloom.inference.language_model import LanguageModel
from handloom.inspection.check import Outcome
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.model.loss import score_logits
from handloom.model.summary import parameter_count
from handloom.quantization.precision import QUALITY_BOUNDS
from handloom.tokenizer.base import Tokenizer

TEXT, WINDOW = "python-docs", 256
_TOKENS, _WORK = (2048, 16384), 4e10
_Z_95 = 1.96
SMALLEST = 4_000_000
"""Parameters of the smallest model that the bounds are meant for; a smaller one may be above them."""


@dataclass(frozen=True)
class Quality:
    """A model in one precision against fp32, over N predicted tokens."""

    precision: str
    tokens: int
    perplexity: float
    perplexity_fp32: float
    change: float
    """Of the perplexity, in percent: above 0 it is worse than that of fp32."""
    error: float
    """Of the change: 1.96 standard errors."""
    agreement: float
    """The share of tokens after which both predict the same token as the most probable one."""

    @property
    def within_bound(self) -> bool:
        """Whether the change is not clearly above `QUALITY_BOUNDS`."""
        return self.change - self.error <= QUALITY_BOUNDS[self.precision]


@torch.inference_mode()
def predict(model: GPT, windows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The NLL of every token of the windows, each (T) int64, but the first, (N), and the most probable ones, (N)."""
    nll, best = [], []
    for window in windows:
        scores = score_logits(model(window[None, :-1])[0], window[1:], top=1)
        nll.append(scores.nll.double())
        best.append(scores.top_ids[:, 0])
    return torch.cat(nll), torch.cat(best)


def compare_precision(precision: str, exact: tuple[Tensor, Tensor], rounded: tuple[Tensor, Tensor]) -> Quality:
    """What `predict` gives in float32 and in `precision`, held against each other."""
    differences, tokens = rounded[0] - exact[0], len(exact[0])
    mean, spread = float(differences.mean()), float(differences.std()) if tokens > 1 else 0.0
    return Quality(
        precision=precision,
        tokens=tokens,
        perplexity=float(rounded[0].mean().exp()),
        perplexity_fp32=float(exact[0].mean().exp()),
        change=100 * math.expm1(mean),
        error=100 * _Z_95 * spread / math.sqrt(tokens),
        agreement=float((rounded[1] == exact[1]).double().mean()),
    )


def builtin_windows(tokenizer: Tokenizer, config: GPTConfig) -> list[Tensor]:
    """The first tokens of the built-in text, in windows of at most 256 that overlap by one: each (T) int64.

    2,048 tokens, and up to 16,384 for smaller models: the fewer there are, the less is clear.

    Raises DataError where this Python comes without its documentation.
    """
    tokens = int(min(max(_WORK / parameter_count(config), _TOKENS[0]), _TOKENS[1]))
    ids: list[int] = []
    for _, text in BUILTIN[TEXT]():
        ids += tokenizer.encode(text)
        if len(ids) > tokens:
            break
    size = min(config.context_length, WINDOW)
    starts = range(0, min(tokens, len(ids) - 1), size)
    return [torch.tensor(ids[at : at + size + 1]) for at in starts if at + 1 < len(ids)]


def quality_checks(
    lm: LanguageModel, rounded: Mapping[str, Callable[[], GPT]]
) -> Iterator[tuple[str, Callable[[], Outcome]]]:
    """A check for each precision of `rounded`, which loads the model in it."""
    exact: list[tuple[Tensor, Tensor]] = []
    windows: list[Tensor] = []

    def check(precision: str) -> Outcome:
        if not exact:
            windows.extend(builtin_windows(lm.tokenizer, lm.config))
            exact.append(predict(lm.model, windows))
        found = compare_precision(precision, exact[0], predict(rounded[precision](), windows))
        missed = None if parameter_count(lm.config) < SMALLEST else False
        return found.within_bound or missed, (
            f"perplexity {found.change:+.3f} % ± {found.error:.3f} of {found.perplexity_fp32:,.2f}; "
            f"{found.agreement:.1%} of greedy tokens the same, {found.tokens:,} tokens of {TEXT}"
        )

    for precision in rounded:
        yield f"{precision} within {QUALITY_BOUNDS[precision]:g} %", partial(check, precision)
