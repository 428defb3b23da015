"""Records and replaces activations of a model by name, through PyTorch's forward hooks.

The only place that handles hooks. Names follow TransformerLens, in our tree of modules; one table has them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from handloom.errors import ConfigError, did_you_mean
from handloom.model.attention import AttentionCore
from handloom.model.gpt import GPT


class Tap(NamedTuple):
    """A module, what to call with a value that passes through it, and which value that is."""

    module: nn.Module
    function: Callable[[Any], Any]
    """Called with the value; anything but None that it returns takes the value's place."""
    argument: int | None = None
    """Which positional argument of the module the value is; None: its output."""


_OF_MODEL = {
    "embed": ("embedding.token_embedding", None),  # (B, T, C)
    "pos_embed": ("embedding.position_embedding", None),  # (T, C) or (B, T, C)
}
_OF_BLOCK = {
    "resid_pre": ("", 0),  # (B, T, C), the residual stream before the block
    "attention_norm": ("attention_norm", None),  # (B, T, C)
    "attention.q": ("attention.core", 0),  # (B, H, T, D)
    "attention.k": ("attention.core", 1),  # (B, H, S, D), with what the cache holds
    "attention.v": ("attention.core", 2),  # (B, H, S, D)
    "attention.scores": ("attention.core.scores", None),  # (B, H, T, S), minus infinity where masked
    "attention.pattern": ("attention.core.pattern", None),  # (B, H, T, S), rows of sum 1
    "attention.z": ("attention.core", None),  # (B, H, T, D)
    "attention.out": ("attention", None),  # (B, T, C)
    "resid_mid": ("residual", None),  # (B, T, C), between attention and MLP
    "feedforward_norm": ("feedforward_norm", None),  # (B, T, C)
    "feedforward.pre": ("feedforward.up", None),  # (B, T, 4C), before the activation
    "feedforward.post": ("feedforward.activation", None),  # (B, T, 4C)
    "feedforward.out": ("feedforward", None),  # (B, T, C)
    "resid_post": ("", None),  # (B, T, C)
}
_AT_THE_END = {"final_norm": ("final_norm", None), "logits": ("lm_head", None)}  # (B, T, C), (B, T, V)


def activation_names(model: GPT) -> dict[str, tuple[str, int | None]]:
    """Every activation in the order a token meets them: name -> its module's path, and which argument (None: output).

    Shapes stand in the table above. Attention is computed with its softmax spelled out while `scores` or `pattern`
    is hooked.
    """
    blocks = {
        f"blocks.{i}.{name}": (f"blocks.{i}.{path}".rstrip("."), argument)
        for i in range(len(model.blocks))
        for name, (path, argument) in _OF_BLOCK.items()
    }
    return {**_OF_MODEL, **blocks, **_AT_THE_END}


@contextmanager
def record(model: GPT, *patterns: str) -> Iterator[dict[str, Tensor]]:
    """Fill a dict with the activations whose names fit the patterns (`blocks.*.resid_post`) in each forward pass.

    Nothing is copied or detached; a later pass replaces what an earlier one left. Raises ConfigError for a pattern that
    fits no activation.
    """
    found: dict[str, Tensor] = {}
    with intervene(model, {name: partial(found.__setitem__, name) for name in _matching(model, patterns)}):
        yield found


@contextmanager
def intervene(model: GPT, functions: Mapping[str, Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
    """Replace activations, by name or pattern, with what a function makes of them; None leaves one as it is.

    Raises ConfigError for a name that fits no activation.
    """
    sites, taps = activation_names(model), []
    with ExitStack() as stack:
        for pattern, function in functions.items():
            for name in _matching(model, [pattern]):
                path, argument = sites[name]
                taps.append(Tap(model.get_submodule(path), function, argument))
                if name.endswith((".scores", ".pattern")):
                    core = model.get_submodule(path.rpartition(".")[0])
                    assert isinstance(core, AttentionCore)
                    stack.callback(setattr, core, "implementation", core.implementation)
                    core.implementation = "eager"
        stack.enter_context(tapped(taps))
        yield


@contextmanager
def tapped(taps: Iterable[Tap]) -> Iterator[None]:
    """Hook any modules; every hook is removed at the end, also after an error."""
    with ExitStack() as stack:
        for tap in taps:
            if tap.argument is None:
                handle = tap.module.register_forward_hook(partial(_output, tap.function))
            else:
                handle = tap.module.register_forward_pre_hook(partial(_argument, tap.function, tap.argument))
            stack.callback(handle.remove)
        yield


def _output(function: Callable[[Any], Any], module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    return function(output)


def _argument(function: Callable[[Any], Any], place: int, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
    value = function(inputs[place])
    return None if value is None else (*inputs[:place], value, *inputs[place + 1 :])


def _matching(model: GPT, patterns: Iterable[str]) -> list[str]:
    names = list(activation_names(model))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"The model does not have an activation {pattern!r}.",
                did_you_mean(pattern, names)
                or f"The names are {', '.join([*_OF_MODEL, *_AT_THE_END])}, and "
                f"blocks.0.NAME with one of {', '.join(_OF_BLOCK)}.",
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
