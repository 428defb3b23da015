"""Which parameters of a model learn: a method by name, or patterns; and what that costs.

Knows no files, no optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from handloom.errors import ConfigError, did_you_mean
from handloom.finetuning.lora import ADAPTER_PARAMETERS, LORA_PARAMETERS
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT

TIED = "embedding.token_embedding.weight"
"""The token embedding, which is the head as well where the head is tied."""


def patterns_of(method: str, config: GPTConfig) -> tuple[str, ...]:
    """Patterns of the parameters that a method trains; a new head for labels learns with every one.

    `config` is that of the model as it is trained; without labels, if it is not trained on them. Raises ConfigError for
    last:N with more blocks than there are.
    """
    labels = ("classifier.*",) if config.label_names else ()
    head = labels or ((TIED,) if config.tie_embeddings else ("lm_head.*",))
    norms = ("*_norm.*",)
    if method.startswith("last:"):
        number = int(method.partition(":")[2])
        if number > config.layers:
            raise ConfigError(
                f"The method {method} trains {number} blocks, and the model has {config.layers}.",
                f"Use last:{config.layers} at most, or full.",
            )
        last = range(config.layers - number, config.layers)
        return (*(f"blocks.{i}.*" for i in last), "final_norm.*", *labels)
    known = {
        "full": ("*",),
        "lora": (*ADAPTER_PARAMETERS, *labels),
        "norms": (*norms, *labels),
        "norms+head": (*norms, *head),
        "head": head,
        "bias": ("*.bias", *labels),
    }
    return known[method]


def require_fits(model: GPT, patterns: Sequence[str]) -> None:
    """Raise ConfigError for a pattern that fits no parameter; names the nearest."""
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"The pattern {pattern!r} fits no parameter of the model.",
                did_you_mean(pattern, names) or f"They are called {names[0]}, {names[2]} and so on.",
            )


def set_trainable(model: GPT, patterns: Sequence[str]) -> None:
    """Let the parameters whose names fit a pattern learn, and no others."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in patterns))


def require_matches(model: GPT, loss: Tensor, task: str) -> list[str]:
    """Freeze what learns by its name but is not reached by the loss of the task, so that it would have no gradient.

    Returns the names of the parameters that were frozen. Raises ConfigError when nothing is left.
    """
    reached, seen, waiting = set(), set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            reached.add(id(getattr(node, "variable", None)))
            waiting += [before for before, _ in node.next_functions]
    chosen = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    apart = [name for name, parameter in chosen.items() if id(parameter) not in reached]
    if len(apart) == len(chosen):
        raise ConfigError(
            f"Nothing would learn: the loss of the task {task} does not depend on {', '.join(apart[:3])}"
            f"{' and so on' if len(apart) > 3 else ''}.",
            "Choose a method or patterns that train part of the blocks, such as `method=lora`. A classifier learns "
            "with `task=classify`, an lm_head with the other tasks.",
        )
    for name in apart:
        chosen[name].requires_grad_(False)
    return apart


def first_trainable_layer(model: GPT) -> int | None:
    """The lowest block in or above which something learns; None where an embedding does, so that nothing is frozen.

    The number of blocks stands for what is above all of them.
    """
    if any(p.requires_grad for p in model.embedding.parameters()):
        return None
    for i, block in enumerate(model.blocks):
        if any(p.requires_grad for p in block.parameters()):
            return i
    return len(model.blocks)


@dataclass(frozen=True)
class Cost:
    """What a choice of parameters costs."""

    tensors: int
    parameters: int
    """Numbers that learn."""
    share: float
    """Of all numbers of the model."""
    gradient_bytes: int
    optimizer_bytes: int
    """What AdamW remembers: two numbers for each that learns."""


def cost(model: nn.Module) -> Cost:
    """What the parameters cost that learn at present."""
    chosen = [p for p in model.parameters() if p.requires_grad]
    count = sum(p.numel() for p in chosen)
    everything = sum(p.numel() for p in model.parameters())
    return Cost(len(chosen), count, count / everything, gradient_bytes=4 * count, optimizer_bytes=8 * count)


def groups(model: GPT) -> Iterator[tuple[str, int, int]]:
    """What learns, in groups as a person would name them: name, tensors, numbers."""
    found: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found.setdefault(_group(name, model.config), []).append(parameter.numel())
    for name, sizes in found.items():
        yield name, len(sizes), sum(sizes)


_GROUPS = {
    TIED: "token embedding",
    "*.token_deltas.*": "rows of the token embedding",
    "embedding.*": "position embedding",
    "classifier*": "head for labels",
    "lm_head*": "output head",
    **dict.fromkeys(LORA_PARAMETERS, "LoRA adapters"),
    "*norm.*": "LayerNorms",
    "*.attention.*.bias": "attention biases",
    "*.attention.*": "attention matrices",
    "*.bias": "feed-forward biases",
    "*": "feed-forward matrices",
}
"""The group of a parameter: that of the first pattern that its name fits."""


def _group(name: str, config: GPTConfig) -> str:
    group = next(group for pattern, group in _GROUPS.items() if fnmatchcase(name, pattern))
    return group + (", which is the output head too" if name == TIED and config.tie_embeddings else "")
