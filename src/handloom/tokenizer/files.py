"""A byte-level BPE on disk: GPT-2's `vocab.json` and `merges.txt`.

Both write bytes as visible characters: a printable byte as itself, any other as the next character from
U+0100 on (so the space is Ġ). Knows what the files must say about each other, not how text is encoded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from handloom.errors import DataError
from handloom.tokenizer.base import END_OF_TEXT

VOCABULARY = "vocab.json"
MERGES = "merges.txt"
SINGLE = "tokenizer.json"
"""What newer Hugging Face folders have instead of the two."""

_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTE_ORDER = bytes(_VISIBLE + [byte for byte in range(256) if byte not in _VISIBLE])
"""The byte that each of the ids 0..255 stands for."""
ID_OF_BYTE = bytes(BYTE_ORDER.index(byte) for byte in range(256))
"""The other direction, as a table for `bytes.translate`."""
_LETTER_OF_ID = [chr(byte) for byte in _VISIBLE] + [chr(0x100 + n) for n in range(256 - len(_VISIBLE))]

_REMEDY = (
    "Handloom reads folders that it has written itself, and GPT-2's own files. "
    "Copy the folder again from where it came, or learn a new tokenizer."
)


def visible(token: bytes) -> str:
    """`token` as the files spell it: one visible character per byte."""
    return "".join(_LETTER_OF_ID[i] for i in token.translate(ID_OF_BYTE))


def as_text(tokens: Sequence[bytes], merges: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """The contents of `vocab.json` and of `merges.txt`."""
    words = [visible(token) for token in tokens[:-1]]
    vocabulary = {word: token for token, word in enumerate([*words, END_OF_TEXT])}
    lines = ["#version: 0.2", *(f"{words[left]} {words[right]}" for left, right in merges)]
    return json.dumps(vocabulary, ensure_ascii=False), "".join(line + "\n" for line in lines)


def write(folder: Path, tokens: Sequence[bytes], merges: Sequence[tuple[int, int]]) -> None:
    """Write both files, each complete or not at all.

    Raises:
        DataError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in zip((VOCABULARY, MERGES), as_text(tokens, merges), strict=True):
            unfinished = folder / f".{name}.{os.getpid()}"
            try:
                unfinished.write_text(text, encoding="utf-8", newline="\n")
                unfinished.replace(folder / name)
            finally:
                unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"The tokenizer cannot be saved in {folder}: {error.strerror or error}.",
            "Choose a folder that can be written, on a disk with space left.",
        ) from error


def read_merges(vocabulary: Path, merges: Path) -> list[tuple[int, int]]:
    """Merges as pairs of ids, after both files have been held against each other.

    Raises:
        DataError: a file is missing or torn, or the two do not describe one byte-level BPE with the ids
            0..255 for the bytes, then one per merge, then the end of text.
    """
    spelled = []
    for number, line in enumerate(_read(merges).split("\n"), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, _, right = line.partition(" ")
        spelled.append((f"{merges}, line {number}", left, right))
    pairs, ids = _pairs(spelled)
    _compare(vocabulary, _read_json(vocabulary), merges, ids)
    return pairs


def read_single(path: Path) -> list[tuple[int, int]]:
    """The same from the `tokenizer.json` of Hugging Face's tokenizers, which holds both.

    Raises:
        DataError: it is missing or torn, or describes anything but GPT-2's way with another vocabulary.
    """
    content = _read_json(path)
    model: Any = content.get("model")
    before: Any = content.get("pre_tokenizer")
    plain = isinstance(model, dict) and isinstance(before, dict)
    if plain:
        plain = model.get("type") == "BPE" and before.get("type") == "ByteLevel"
        plain = plain and not before.get("add_prefix_space") and before.get("use_regex", True) is True
        plain = plain and not any(model.get(key) for key in _NOT_GPT2) and content.get("normalizer") is None
    if not plain or not isinstance(model.get("vocab"), dict) or not isinstance(model.get("merges"), list):
        raise DataError(f"{path} describes no byte-level BPE that cuts text as GPT-2's does.", _REMEDY)
    spelled = []
    for number, merge in enumerate(model["merges"], start=1):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise DataError(
                f"{path}: merge number {number} is {merge!r}, which is no pair of tokens.", _REMEDY
            )
        spelled.append((f"{path}, merge number {number}", parts[0], parts[1]))
    pairs, ids = _pairs(spelled)
    _compare(path, model["vocab"], path, ids)
    return pairs


_NOT_GPT2 = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")


def _pairs(spelled: Iterable[tuple[str, str, str]]) -> tuple[list[tuple[int, int]], dict[str, int]]:
    """Merges as pairs of ids, and the id of every token that they make.

    Args:
        spelled: for each merge where it stands, for messages, and its two tokens.
    """
    ids = {letter: token for token, letter in enumerate(_LETTER_OF_ID)}
    pairs = []
    for where, left, right in spelled:
        if left not in ids or right not in ids:
            unknown = right if left in ids else left
            raise DataError(f"{where}: {unknown!r} is no byte and no earlier merge.", _REMEDY)
        if left + right in ids:
            raise DataError(f"{where}: the token {left + right!r} exists already.", _REMEDY)
        pairs.append((ids[left], ids[right]))
        ids[left + right] = len(ids)
    ids[END_OF_TEXT] = len(ids)
    return pairs, ids


def check_reachable(merges: Sequence[tuple[int, int]], path: Path) -> None:
    """Refuse merges that learning cannot have given: each token must be what its own bytes encode to.

    Where that holds, three ways to encode agree: applying the merges in order, joining the neighbours whose
    union has the lowest id (tiktoken), and looking whole pieces up first. Elsewhere they may differ.

    A token is reached if nothing merges across the seam between its halves before they are complete. So
    both halves are taken apart again, the one that was made last first (of two equal ones the right one).

    Raises:
        DataError: naming the first merge that never happens.
    """
    made = {pair: token for token, pair in enumerate(merges, start=256)}
    never = len(made) + 256
    for token, (left, right) in enumerate(merges, start=256):
        reached = True
        while reached and max(left, right) >= 256:
            if right >= left:
                since, right = right, merges[right - 256][0]
                reached = made.get((left, right), never) > since
            else:
                since, left = left, merges[left - 256][1]
                reached = made.get((left, right), never) >= since  # if equal, the leftmost goes first
        if not reached:
            problem = (
                f"{path}: merge number {token - 255} never happens: an earlier one takes its parts away."
            )
            raise DataError(problem, _REMEDY)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"There is no tokenizer file {path}.", _REMEDY) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", _REMEDY) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: byte {error.start} is wrong.", _REMEDY) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not complete JSON: {error}.", _REMEDY) from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds a JSON {type(found).__name__}, not tokens with their ids.", _REMEDY)
    return found


def _compare(path: Path, found: dict[str, int], merges: Path, expected: dict[str, int]) -> None:
    """Raise for the first place where the vocabulary is not the one that the merges make."""
    if END_OF_TEXT not in found:
        raise DataError(f"{path} has no {END_OF_TEXT}.", _REMEDY)
    owners: dict[object, str] = {}
    for token, number in found.items():
        if type(number) is not int:
            raise DataError(f"{path}: the id of {token!r} is {number!r}, which is no whole number.", _REMEDY)
        if number in owners:
            raise DataError(f"{path}: {owners[number]!r} and {token!r} share the id {number}.", _REMEDY)
        owners[number] = token
        if token not in expected:
            raise DataError(f"{path}: {token!r} is no byte and no merge in {merges}.", _REMEDY)
    for token, number in expected.items():
        if token not in found:
            raise DataError(f"{path} lacks the token {token!r}, which {merges} makes.", _REMEDY)
        if found[token] != number:
            raise DataError(
                f"{path}: {token!r} has the id {found[token]}; by {merges} it is {number}.", _REMEDY
            )
