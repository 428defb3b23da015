"""AdamW, or Muon for the matrices inside the blocks and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from handloom.errors import CheckpointError


class Muon(torch.optim.Optimizer):
    """Momentum (in Nesterov's form) whose update is orthogonalized: every direction of a matrix learns equally fast.

    The update of an m x n matrix is scaled by 0.2 * sqrt(max(m, n)), AdamW's typical size, so that one learning rate
    serves both. `dtype` is that of the orthogonalization; bfloat16 is enough where the processor is fast at it.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale from
    Liu et al. 2025, "Muon is Scalable for LLM Training".
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every matrix once. Matrices of one shape go through the iteration together, which is faster."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, matrices in by_shape.items():
                momenta = [self._nesterov_momentum(p, group["momentum"]) for p in matrices]
                updates = orthogonalize(torch.stack(momenta))  # (N, m, n)
                scale = 0.2 * max(shape) ** 0.5
                for parameter, update in zip(matrices, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-group["lr"] * scale)

    def _nesterov_momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        """Update the running mean of gradients, and look one step ahead of it: (m, n)."""
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        mean = state["momentum"].lerp_(parameter.grad, 1 - momentum)  # (m, n)
        return parameter.grad.lerp(mean, momentum).to(self.dtype)  # (m, n)


def orthogonalize(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Push all singular values of each matrix to about 1, keeping its directions: (N, m, n) or (m, n) -> the same.

    A quintic Newton-Schulz iteration: f(s) = a s + b s^3 + c s^5 on each singular value, with coefficients chosen for
    a steep start rather than exact convergence (values end in 0.7 to 1.2). Five iterations are enough for values
    above 1e-3 of the largest.
    """
    if matrices.ndim == 2:
        return orthogonalize(matrices[None], iterations)[0]
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices  # the short side first: (N, m, n)
    x = x / (torch.linalg.matrix_norm(x.float(), keepdim=True).to(x.dtype) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT  # (N, m, m)
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # (N, m, m)
        x = torch.baddbmm(x, factor, x, beta=a)  # (N, m, n)
    return x.mT if tall else x


class Optimizer:
    """The trainable parameters of a model in their groups, under one learning rate schedule.

    Tensors of two dimensions (matrices, embeddings) decay; biases and LayerNorms do not. With `muon` the matrices
    inside the blocks go to Muon, everything else to AdamW. Embeddings, and so a tied head, learn at
    `embedding_lr_ratio` times the learning rate. Parameters with requires_grad False are left alone.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        learning_rate: float,
        weight_decay: float,
        betas: tuple[float, float],
        muon_dtype: torch.dtype = torch.float32,
        embedding_lr_ratio: float = 1.0,
    ) -> None:
        self.learning_rate = learning_rate
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        inner = {n: p for n, p in self.parameters.items() if n.startswith("blocks.") and p.ndim == 2}
        by_muon = inner if name == "muon" else {}
        rest = {n: p for n, p in self.parameters.items() if p.ndim == 2 and n not in by_muon}
        embeddings = [p for n, p in rest.items() if n.startswith("embedding.")]
        decayed = [p for n, p in rest.items() if not n.startswith("embedding.")]
        plain = [p for p in self.parameters.values() if p.ndim != 2]
        groups: list[dict[str, Any]] = [
            {"params": embeddings, "weight_decay": weight_decay, "lr_ratio": embedding_lr_ratio},
            {"params": decayed, "weight_decay": weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        self.parts: list[torch.optim.Optimizer] = []
        if by_muon:
            matrices = list(by_muon.values())
            self.parts.append(Muon(matrices, learning_rate, weight_decay=weight_decay, dtype=muon_dtype))
        if groups:
            self.parts.append(torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True))

    def step(self, factor: float) -> None:
        """Take one step at `factor` times the peak learning rates."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.learning_rate * factor * group.get("lr_ratio", 1.0)
            part.step()

    def zero_grad(self) -> None:
        """Set gradients to zero in place: fresh memory would cost page faults every step."""
        for part in self.parts:
            part.zero_grad(set_to_none=False)

    def state_tensors(self) -> dict[str, Tensor]:
        """The state of all parts, as `parameter name/key` -> tensor."""
        return {
            f"{name}/{key}": value
            for name, parameter in self.parameters.items()
            for part in self.parts
            for key, value in part.state.get(parameter, {}).items()
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state_tensors`. Raises CheckpointError for the state of a parameter that is not trained."""
        part_of = {id(p): part for part in self.parts for group in part.param_groups for p in group["params"]}
        for path, value in tensors.items():
            name, _, key = path.rpartition("/")
            if name not in self.parameters:
                raise CheckpointError(
                    f"The optimizer state holds {path}, but the model trains no parameter {name}.",
                    "Resume with the settings that the run began with.",
                )
            parameter = self.parameters[name]
            part_of[id(parameter)].state[parameter][key] = value.clone()
