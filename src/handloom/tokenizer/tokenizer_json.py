"""`tokenizer.json` of Hugging Face's library tokenizers, as far as it is GPT-2's way of cutting text.

Knows the file's form, not what stands around it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from handloom.errors import DataError
from handloom.tokenizer import vocab_files
from handloom.tokenizer.hf_config import THE_MODEL, TokenizerSettings, added_token, refused, require_known


def read_tokenizer_json(path: Path, gpt2: bool) -> tuple[dict[str, Any], list[vocab_files.Merge], TokenizerSettings]:
    """Vocabulary, merges and settings.

    Args:
        path: of the file.
        gpt2: whether transformers takes vocabulary and merges alone from it, because the folder's class is GPT-2's.

    Raises:
        DataError: it is incomplete, or describes anything but GPT-2's way with another vocabulary.
    """
    content = require_known(vocab_files.read_json(path), path, vocab_files.TOKENIZER_JSON)
    model = content.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else model
        raise refused(path, f"the model is {kind!r}", "Handloom reads BPE")
    _require_gpt2(content, require_known(model, path, THE_MODEL), path)
    merges = [_merge(merge, number, path) for number, merge in enumerate(model.get("merges") or [], start=1)]
    added = tuple(added_token(token, path) for token in content.get("added_tokens") or [])
    if gpt2:
        return model["vocab"], merges, TokenizerSettings(added)
    return (
        model["vocab"],
        merges,
        TokenizerSettings(
            added,
            _byte_level(content["pre_tokenizer"]).get("add_prefix_space", True) is True,
            model["unk_token"] if isinstance(model.get("unk_token"), str) else None,
            model.get("fuse_unk") is True,
            model.get("ignore_merges") is True,
        ),
    )


def _require_gpt2(content: dict[str, Any], model: dict[str, Any], path: Path) -> None:
    """Refuse by name what would cut or change text in another way than GPT-2's."""
    normalizer, before = content.get("normalizer"), content.get("pre_tokenizer")
    after, decoder = content.get("post_processor"), content.get("decoder")
    level = _byte_level(before)
    faults = [
        (f"the normalizer is {_type(normalizer)!r}", _parts(normalizer), "Handloom changes no text"),
        (f"the pre_tokenizer is {_type(before)!r}", not level, "Handloom cuts text by GPT-2's pattern, ByteLevel"),
        ("use_regex is false", level.get("use_regex", True) is not True, "Handloom cuts text by GPT-2's pattern"),
        (f"the post_processor is {_type(after)!r}", any(map(_adds_tokens, _parts(after))), "it adds tokens to a text"),
        (
            f"the decoder is {_type(decoder)!r}",
            any(part.get("type") != "ByteLevel" for part in _parts(decoder)),
            "Handloom knows ByteLevel",
        ),
        *((f"{key} is {model[key]!r}", model.get(key), "Handloom has none") for key in _ABSENT if key in model),
    ]
    for what, wrong, why in faults:
        if wrong:
            raise refused(path, what, why)


_ABSENT = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")


def _parts(part: Any) -> list[dict[str, Any]]:
    """The steps of a pipeline's part, those of a Sequence one by one."""
    if not isinstance(part, dict):
        return []
    inner = [part[key] for key in ("normalizers", "pretokenizers", "processors", "decoders") if key in part]
    if inner and isinstance(inner[0], list):
        return [step for each in inner[0] for step in _parts(each)]
    return [part]


def _type(part: Any) -> str | None:
    return ", ".join(str(step.get("type")) for step in _parts(part)) or None


def _byte_level(part: Any) -> dict[str, Any]:
    """The ByteLevel step, if that is all there is."""
    steps = _parts(part)
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
        raise DataError(f"{path}: merge number {number} is {merge!r}, which is no pair of tokens.", vocab_files.REMEDY)
    return parts[0], parts[1]
