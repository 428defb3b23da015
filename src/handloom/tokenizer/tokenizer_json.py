"""`tokenizer.json` of Hugging Face's library tokenizers, where it splits text as GPT-2 does.

Knows the file's form, not the files around it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from handloom.tokenizer import vocab_files
from handloom.tokenizer.hf_config import THE_MODEL, TokenizerSettings, added_token, refused, require_known


def read_tokenizer_json(path: Path, gpt2: bool) -> tuple[dict[str, Any], list[vocab_files.Merge], TokenizerSettings]:
    """Vocabulary, merges and settings; the latter are GPT-2's with `gpt2`, the class that takes no others.

    Raises:
        DataError: it is incomplete, or splits or changes text in another way than GPT-2's tokenizer.
    """
    content = require_known(vocab_files.read_json(path), path, vocab_files.TOKENIZER_JSON)
    model = content.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else model
        raise refused(path, f"the model is {kind!r}", "Handloom reads BPE")
    _require_gpt2(content, require_known(model, path, THE_MODEL), path)
    merges = [_merge(merge, number, path) for number, merge in enumerate(model.get("merges") or [], start=1)]
    settings = TokenizerSettings(tuple(added_token(token, path) for token in content.get("added_tokens") or []))
    if not gpt2:
        settings = TokenizerSettings(
            settings.added,
            add_prefix_space=_byte_level(content["pre_tokenizer"]).get("add_prefix_space", True) is True,
            unk=model["unk_token"] if isinstance(model.get("unk_token"), str) else None,
            fuse_unk=model.get("fuse_unk") is True,
            ignore_merges=model.get("ignore_merges") is True,
        )
    return model["vocab"], merges, settings


def _require_gpt2(content: dict[str, Any], model: dict[str, Any], path: Path) -> None:
    """Refuse by name what splits or changes text in another way than GPT-2's tokenizer."""
    steps = {name: _steps(content.get(name)) for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder")}
    level = _byte_level(content.get("pre_tokenizer"))
    faults = {
        "normalizer": (steps["normalizer"], "Handloom changes no text"),
        "pre_tokenizer": (not level, "Handloom splits text by GPT-2's pattern, ByteLevel"),
        "post_processor": (any(map(_adds_tokens, steps["post_processor"])), "it adds tokens to a text"),
        "decoder": (any(step.get("type") != "ByteLevel" for step in steps["decoder"]), "Handloom reads ByteLevel"),
    }
    found: list[tuple[str, str]] = []
    for name, (wrong, why) in faults.items():
        if wrong:
            kinds = ", ".join(str(step.get("type")) for step in steps[name]) or None
            found.append((f"the {name} is {kinds!r}", why))
    if level.get("use_regex", True) is not True:
        found.append(("use_regex is false", "Handloom splits text by GPT-2's pattern"))
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            found.append((f"{key} is {model[key]!r}", "Handloom does not support it"))
    for problem, why in found:
        raise refused(path, problem, why)


def _steps(part: Any) -> list[dict[str, Any]]:
    """The steps of a part of the pipeline, those of a Sequence one by one."""
    if not isinstance(part, dict):
        return []
    inner = [part[key] for key in ("normalizers", "pretokenizers", "processors", "decoders") if key in part]
    if inner and isinstance(inner[0], list):
        return [step for each in inner[0] for step in _steps(each)]
    return [part]


def _byte_level(part: Any) -> dict[str, Any]:
    """The ByteLevel step, if it is the only one."""
    steps = _steps(part)
    return steps[0] if len(steps) == 1 and steps[0].get("type") == "ByteLevel" else {}


def _adds_tokens(step: dict[str, Any]) -> bool:
    """Whether a post-processor puts special tokens around a text."""
    if step.get("type") == "TemplateProcessing":
        single = step.get("single")
        return not isinstance(single, list) or any(not isinstance(one, dict) or "Sequence" not in one for one in single)
    return step.get("type") != "ByteLevel"


def _merge(merge: Any, number: int, path: Path) -> vocab_files.Merge:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise vocab_files.damaged(f"{path}: merge number {number} is {merge!r}, not a pair of tokens.")
    return parts[0], parts[1]
