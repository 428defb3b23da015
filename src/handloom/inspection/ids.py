"""Whether a folder's tokenizer is what transformers makes of that very folder: ids of texts, and ends.

The reference is `AutoTokenizer` and the `generation_config` of the model, not our own reading of their files.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from handloom import storage
from handloom.inspection.check import Check
from handloom.tokenizer.base import Tokenizer

NAME = "ids = transformers"


def compare_ids(folder: Path, tokenizer: Tokenizer, texts: Iterable[str]) -> Check:
    """Hold a tokenizer against transformers' own.

    Args:
        folder: in Hugging Face's format.
        tokenizer: ours of it.
        texts: to encode; all of it is ordinary text in both.
    """
    import transformers

    try:
        theirs: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        stops = transformers.GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    except Exception as error:  # whatever it is, it is transformers' and not ours
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Check(NAME, False, f"transformers cannot read the tokenizer of {folder}: {reason}")
    count = 0
    for text in texts:
        count += 1
        for special in (False, True):
            wanted = theirs.encode(text, add_special_tokens=False, split_special_tokens=not special)
            found = tokenizer.encode(text, special=special)
            ours = all(token < tokenizer.vocab_size for token in wanted)  # GPT-2's class adds an <|endoftext|>
            if list(wanted) != found and (ours or not special):
                kind = " with special tokens" if special else ""
                return Check(NAME, False, f"{text!r}{kind} has the ids {found} here and {list(wanted)} there")
    ends = {end for end in _ids(stops) if end < tokenizer.vocab_size} if _names_ends(folder) else set()
    if missing := sorted(ends - set(tokenizer.eos_token_ids)):
        return Check(NAME, False, f"transformers ends a text at {missing[0]}, and Handloom does not")
    known = {*ends, theirs.eos_token_id, *_ids(storage.read_json(folder / "config.json").get("eos_token_id"))}
    if _names_ends(folder) and (more := sorted(set(tokenizer.eos_token_ids) - known)):
        return Check(NAME, False, f"Handloom ends a text at {more[0]}, and no file names that")
    return Check(NAME, True, f"{count} texts have the same ids, with special tokens and without; so have the ends")


def _names_ends(folder: Path) -> bool:
    """Whether a file names an end; without, transformers takes GPT-2's own, whatever the vocabulary is."""
    paths = (folder / name for name in ("generation_config.json", "config.json"))
    return any(storage.read_json(path).get("eos_token_id") is not None for path in paths if path.is_file())


def _ids(given: Any) -> list[int]:
    return [] if given is None else list(given) if isinstance(given, list) else [given]
