"""Learn from pairs of answers which of them people prefer: DPO, without a second model in memory.

Source: Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is Secretly a Reward Model".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from handloom.model.interface import Backbone
from handloom.model.loss import IGNORE_INDEX, token_nll
from handloom.training.objective import Batch, EvalResult
from handloom.training.sft import answer_hidden_states


def dpo_losses(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta * (chosen - rejected)), for each pair.

    Args:
        chosen: (B,) how much more likely the preferred answer is than it was to the reference, in nats.
        rejected: (B,) the same of the other answer.
        beta: how dearly going away from the reference is paid for.

    Returns:
        (B,) in nats.
    """
    return -F.logsigmoid(beta * (chosen - rejected))


def answer_log_likelihoods(reader: Backbone, part: Batch) -> Tensor:
    """How likely each answer is after its prompt: (B, 2, T) -> (B, 2) in nats, at most 0."""
    B, _, T = part["inputs"].shape
    both = {name: part[name].reshape(2 * B, T) for name in ("inputs", "targets")}
    hidden, targets = answer_hidden_states(reader, both)  # (N, C), (N)
    losses = token_nll(hidden[None], reader.lm_head, targets[None])[0]  # (N)
    texts = (both["targets"] != IGNORE_INDEX).nonzero()[:, 0]  # (N), which answer each token is of
    return -losses.new_zeros(2 * B).index_add(0, texts, losses).view(B, 2)


class DPO:
    """Make the preferred answer of each pair likelier against the other, and both not too far from what they were.

    The reference is the model as it was before the first step. Its likelihoods are asked once for every pair,
    when the run begins or goes on, so that it need not stay in memory.

    Args:
        batch: the training pairs of a step: `inputs` and `targets`, (B, 2, T) each, the preferred answer first.
        steps_per_epoch: of the training pairs.
        validation: the held-out pairs, in batches.
        key: of the data.
        beta: as in `dpo_losses`.
        template: how conversations are laid out in tokens; None where pairs are plain texts.
    """

    unit = "nats/pair"

    def __init__(
        self,
        batch: Callable[[int], Batch],
        steps_per_epoch: float,
        validation: Iterable[Batch],
        data_hash: str,
        beta: float,
        template: str | None = None,
    ) -> None:
        self.batch, self.steps_per_epoch, self.data_hash, self.beta = batch, steps_per_epoch, data_hash, beta
        self.template = template
        self._validation = list(validation)
        self._reference: dict[tuple[bool, bytes], Tensor] = {}

    @torch.no_grad()
    def compute_reference_logprobs(self, reference: Backbone, precision: str) -> None:
        """Ask the model that training begins with for its likelihoods of all answers.

        Args:
            reference: that model.
            precision: of the training steps; the held-out pairs are computed in float32.
        """
        reference.eval()
        for step in range(int(-(-self.steps_per_epoch // 1))):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                self._ask(reference, self.batch(step))
        for part in self._validation:
            self._ask(reference, part)

    def _ask(self, reference: Backbone, part: Batch) -> None:
        mixed = torch.is_autocast_enabled("cpu")
        for key, found in zip(_keys(part), answer_log_likelihoods(reference, part), strict=True):
            self._reference[mixed, key] = found  # (2)

    def num_targets(self, batch: Batch) -> int:
        """Pairs."""
        return len(batch["inputs"])

    def tokens(self, batch: Batch) -> int:
        """Those of both answers, padding included."""
        return batch["inputs"].numel()

    def loss(self, reader: Backbone, part: Batch) -> Tensor:
        """The summed DPO loss of the pairs."""
        return self._losses(reader, part)[0].sum()

    @torch.no_grad()
    def evaluate(self, reader: Backbone) -> EvalResult:
        """The mean loss on held-out pairs; how often, and by how much, the preferred answer gained more."""
        was_training = reader.training
        reader.eval()
        losses, margins = (torch.cat(x) for x in zip(*(self._losses(reader, p) for p in self._validation), strict=True))
        reader.train(was_training)
        figures = {"accuracy": float((margins > 0).float().mean()), "margin": float(margins.mean())}
        return EvalResult(float(losses.mean()), self.unit, figures)

    def _losses(self, reader: Backbone, part: Batch) -> tuple[Tensor, Tensor]:
        """Of each pair the loss, and how much more the preferred answer gained than the other: (B,) each."""
        mixed = torch.is_autocast_enabled("cpu")
        reference = torch.stack([self._reference[mixed, key] for key in _keys(part)])  # (B, 2)
        chosen, rejected = (answer_log_likelihoods(reader, part) - reference).unbind(1)  # (B) each
        return dpo_losses(chosen, rejected, self.beta), self.beta * (chosen - rejected)


def _keys(part: Batch) -> list[bytes]:
    """What stands for each pair, however much padding is behind it."""
    keys = []
    for inputs, targets in zip(part["inputs"], part["targets"], strict=True):  # (2, T) each
        digest = hashlib.blake2b(digest_size=16)
        for row, wanted in zip(inputs, targets, strict=True):
            end = int((wanted != IGNORE_INDEX).nonzero().max()) + 1
            digest.update(row[:end].numpy().tobytes() + wanted[:end].numpy().tobytes())
        keys.append(digest.digest())
    return keys
