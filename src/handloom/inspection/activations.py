"""Ours against transformers: a model activation by activation, to name the first that differs, and a tokenizer by ids.

The only place that imports transformers, and only when it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from handloom import storage
from handloom.inspection import hooks
from handloom.inspection.check import Outcome
from handloom.model.gpt import GPT
from handloom.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class Difference:
    """How far one activation of ours is from the reference's."""

    name: str
    """For example `blocks.3.attention.out`, or `logits` (`hooks.activation_names`)."""
    worst: float
    """The largest |ours - theirs|."""
    where: tuple[int, ...]
    """The place of that element: batch and token first, or batch, head, query and key in attention patterns."""
    ours: float
    theirs: float
    scale: float
    """The largest |theirs|."""

    def exceeds(self, tolerance: float) -> bool:
        """Whether `worst` is more than that share of the scale, or of 1 where the scale is smaller. NaN always is."""
        return not self.worst <= tolerance * max(1.0, self.scale)


def compare(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[Difference]:
    """Hold activations of the same names against each other, in the order of ours. What only one has is left out."""
    return [_difference(name, ours[name], theirs[name]) for name in ours if name in theirs]


def first_difference(differences: Iterable[Difference], tolerance: float = 1e-5) -> Difference | None:
    """The first that exceeds the tolerance; what comes after it is its consequence."""
    return next((difference for difference in differences if difference.exceeds(tolerance)), None)


@torch.no_grad()
def activations(model: GPT, tokens: Tensor) -> dict[str, Tensor]:
    """Activations of our model for `tokens` (B, T), by their names in `hooks`, in the order a token meets them.

    The patterns come from a pass of their own, with the softmax spelled out; all others from the model as it is.
    """
    names = [name for name in hooks.activation_names(model) if _PART.fullmatch(name)]
    patterns = [name for name in names if name.endswith(".pattern")]
    with hooks.record(model, *patterns) as found:
        model(tokens)
    with hooks.record(model, *(name for name in names if name not in patterns)) as others:
        others["logits"] = model(tokens)
    found.update(others)
    return {name: found[name] for name in names}


@torch.no_grad()
def reference_activations(model: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """The same of a GPT2LMHeadModel of transformers, under our names.

    Attention patterns are there if it was loaded with `attn_implementation="eager"`.
    """
    found: dict[str, Tensor] = {}
    inner: Any = model.transformer
    taps = [_keep(found, "blocks.0.resid_pre", inner.drop)]
    for i, block in enumerate(inner.h):
        taps.append(_keep(found, f"blocks.{i}.attention.pattern", block.attn, 1))
        taps += [_keep(found, f"blocks.{i}.{name}", getattr(block, theirs)) for name, theirs in _THEIRS.items()]
        taps.append(_keep(found, f"blocks.{i}.resid_post", block))
    with hooks.tapped([*taps, _keep(found, "final_norm", inner.ln_f)]):
        found["logits"] = model(tokens).logits
    return found


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one type and shape are the same to the bit: -0.0 is not 0.0, and a NaN is itself."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(one.view(whole[one.element_size()]).equal(other.view(whole[other.element_size()])))


def has_reference() -> bool:
    """Whether transformers is installed."""
    return find_spec("transformers") is not None


def reference(folder: Path) -> nn.Module:
    """transformers' own model of a Hugging Face folder, in float32, with spelled-out attention."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # it reports which tensors of older files it has no use for
    model: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, local_files_only=True
    )
    return model.eval()


def compare_ids(folder: Path, tokenizer: Tokenizer, texts: Iterable[str]) -> Outcome:
    """Hold our tokenizer of a Hugging Face folder against transformers' own, by ids of ordinary texts, and by ends."""
    import transformers

    try:
        theirs: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        stops = transformers.GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    except Exception as error:  # whatever it is, it is transformers' and not ours
        return unreadable(f"the tokenizer of {folder}", error)
    count = 0
    for text in texts:
        count += 1
        for special in (False, True):
            wanted = theirs.encode(text, add_special_tokens=False, split_special_tokens=not special)
            found = tokenizer.encode(text, special=special)
            ours = all(token < tokenizer.vocab_size for token in wanted)  # GPT-2's class adds an <|endoftext|>
            if list(wanted) != found and (ours or not special):
                kind = " with special tokens" if special else ""
                return False, f"{text!r}{kind} has the ids {found} here and {list(wanted)} there"
    paths = [folder / name for name in ("generation_config.json", "config.json")]
    named = [storage.read_json(path).get("eos_token_id") if path.is_file() else None for path in paths]
    if named != [None, None]:  # where no file names an end, transformers takes GPT-2's own, whatever the vocabulary is
        mine, ends = set(tokenizer.eos_token_ids), {end for end in _ids(stops) if end < tokenizer.vocab_size}
        if missing := sorted(ends - mine):
            return False, f"transformers ends a text at {missing[0]}, and Handloom does not"
        if more := sorted(mine - {*ends, theirs.eos_token_id, *_ids(named[1])}):
            return False, f"Handloom ends a text at {more[0]}, and no file names that"
    return True, f"{count} texts have the same ids, with special tokens and without; so have the ends"


def unreadable(what: object, error: Exception) -> Outcome:
    """A check that fails because transformers cannot read something."""
    return False, f"transformers cannot read {what}: {(str(error).strip() or type(error).__name__).splitlines()[0]}"


def _ids(given: Any) -> list[int]:
    return [] if given is None else list(given) if isinstance(given, list) else [given]


_THEIRS = {"attention_norm": "ln_1", "attention.out": "attn", "feedforward_norm": "ln_2", "feedforward.out": "mlp"}
_PART = re.compile(
    r"blocks\.0\.resid_pre|final_norm|logits|"
    r"blocks\.\d+\.(attention_norm|attention\.(pattern|out)|feedforward_norm|feedforward\.out|resid_post)"
)
"""What the two models are compared by: what each part adds, and the stream after each block."""


def _keep(found: dict[str, Tensor], name: str, module: nn.Module, element: int = 0) -> hooks.Tap:
    """Record a module's output, or that element of it if it has several."""

    def keep(output: Any) -> None:
        value = output if isinstance(output, Tensor) else output[element]
        if value is not None:
            found[name] = value

    return hooks.Tap(module, keep)


def _difference(name: str, ours: Tensor, theirs: Tensor) -> Difference:
    distance = (ours - theirs).abs()
    distance = torch.where(distance.isnan(), torch.inf, distance)  # a NaN is the worst of all
    at = tuple(int(i) for i in torch.unravel_index(distance.argmax(), distance.shape))
    values = {"ours": ours[at].item(), "theirs": theirs[at].item(), "scale": theirs.abs().max().item()}
    return Difference(name, distance[at].item(), at, **values)
