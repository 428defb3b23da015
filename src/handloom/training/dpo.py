"""DPO: finetuning on preference pairs, without a second model in memory.

Source: Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is Secretly a Reward Model".
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from handloom.model.gpt import GPT
from handloom.model.interface import evaluating
from handloom.model.loss import IGNORE_INDEX, token_nll
from handloom.training.activation_cache import CachedBackbone
from handloom.training.objective import Batch, EvalResult, ExampleObjective, autocast
from handloom.training.sft import answer_hidden_states


def dpo_losses(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta * (chosen - rejected)) of each pair, (B,), (B,) -> (B,), in nats.

    `chosen` and `rejected` are the log-likelihoods of the two answers, each minus its reference log-likelihood.
    """
    return -F.logsigmoid(beta * (chosen - rejected))


def answer_logprobs(model: GPT, batch: Batch, cache: CachedBackbone | None = None) -> Tensor:
    """The log-likelihood of each answer after its prompt: (B, 2, T) -> (B, 2) in nats, at most 0."""
    B, _, T = batch["inputs"].shape
    rows = {name: batch[name].reshape(2 * B, T) for name in ("inputs", "targets")}
    hidden, targets = answer_hidden_states(model, rows, cache)  # (N, C), (N)
    nll = token_nll(hidden[None], model.lm_head, targets[None])[0]  # (N)
    answers = (rows["targets"] != IGNORE_INDEX).nonzero()[:, 0].to(nll.device)  # (N), the answer of each token
    return -nll.new_zeros(2 * B).index_add(0, answers, nll).view(B, 2)


@dataclass
class DPO(ExampleObjective):
    """Make the preferred answer of each pair likelier than the other, with both near the reference.

    The reference is the model before the first step. Its log-likelihoods are computed once for every pair, when the run
    begins or goes on, so that it need not stay in memory. Batches hold `inputs` and `targets`, (B, 2, T) each, the
    preferred answer first.
    """

    beta: float = 0.1
    unit: ClassVar[str] = "nats/pair"
    _reference: dict[tuple[bool, bytes], Tensor] = field(default_factory=dict, init=False)

    @torch.no_grad()
    def compute_reference_logprobs(self, reference: GPT, precision: str) -> None:
        """Compute the reference log-likelihoods of all answers, those of training in the precision of training and
        the held-out ones in float32."""
        with evaluating(reference):
            for step in range(math.ceil(self.steps_per_epoch)):
                self._store_reference(reference, self.batch(step), precision)
            for batch in self.validation:
                self._store_reference(reference, batch, "fp32")

    def _store_reference(self, reference: GPT, batch: Batch, precision: str) -> None:
        with autocast(reference, precision):
            logprobs = answer_logprobs(reference, batch)  # (B, 2)
        for key, pair in zip(_keys(batch), logprobs, strict=True):
            self._reference[precision == "bf16", key] = pair  # (2)

    def num_targets(self, batch: Batch) -> int:
        """Pairs."""
        return len(batch["inputs"])

    def loss(self, model: GPT, batch: Batch, cache: CachedBackbone | None = None) -> Tensor:
        """The summed loss of the pairs."""
        return self._losses(model, batch, cache)[0].sum()

    @torch.no_grad()
    def evaluate(self, model: GPT, cache: CachedBackbone | None = None) -> EvalResult:
        """The mean loss of held-out pairs; how often, and by how much, the preferred answer gained more."""
        with evaluating(model):
            pairs = [self._losses(model, batch, cache) for batch in self.validation]
        losses, margins = (torch.cat(parts) for parts in zip(*pairs, strict=True))  # (N) each
        metrics = {"accuracy": float((margins > 0).float().mean()), "margin": float(margins.mean())}
        return EvalResult(float(losses.mean()), self.unit, metrics)

    def _losses(self, model: GPT, batch: Batch, cache: CachedBackbone | None) -> tuple[Tensor, Tensor]:
        """The loss of each pair, and how much more the preferred answer gained than the other: (B,) each."""
        mixed = torch.is_autocast_enabled(model.device.type)
        stored = [self._reference[mixed, key] for key in _keys(batch)]
        reference = torch.stack(stored).to(model.device)  # (B, 2)
        chosen, rejected = (answer_logprobs(model, batch, cache) - reference).unbind(1)  # (B) each
        return dpo_losses(chosen, rejected, self.beta), self.beta * (chosen - rejected)


def _keys(batch: Batch) -> list[bytes]:
    """A digest of each pair, independent of its padding."""
    keys = []
    for inputs, targets in zip(batch["inputs"].cpu(), batch["targets"].cpu(), strict=True):  # (2, T) each
        digest = hashlib.blake2b(digest_size=16)
        for row, row_targets in zip(inputs, targets, strict=True):
            end = int((row_targets != IGNORE_INDEX).nonzero().max()) + 1
            digest.update(row[:end].numpy().tobytes() + row_targets[:end].numpy().tobytes())
        keys.append(digest.digest())
    return keys
