"""A byte-level BPE on disk: GPT-2's `vocab.json` and `merges.txt`, or both in one `tokenizer.json`.

Both write bytes as visible characters: a printable byte as itself, any other as the next character from U+0100 on (so
the space is Ġ). Checks the files against each other; does not encode text.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from handloom import storage
from handloom.errors import CheckpointError, DataError
from handloom.runtime import user_path
from handloom.storage import write_output
from handloom.tokenizer.base import END_OF_TEXT
from handloom.values import parse_json

VOCABULARY = "vocab.json"
MERGES = "merges.txt"
TOKENIZER_JSON = "tokenizer.json"  # what newer Hugging Face folders have instead of the two

_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTE_ORDER = bytes(_VISIBLE + [byte for byte in range(256) if byte not in _VISIBLE])
"""The byte that each of GPT-2's ids 0..255 stands for."""
ID_OF_BYTE = bytes(BYTE_ORDER.index(byte) for byte in range(256))
"""The other direction, as a table for `bytes.translate`."""
LETTERS = [chr(byte) for byte in _VISIBLE] + [chr(0x100 + n) for n in range(256 - len(_VISIBLE))]
"""How the bytes of `BYTE_ORDER` are spelled."""
_BYTE_OF_LETTER = dict(zip(LETTERS, BYTE_ORDER, strict=True))
_IDS = 1 << 24
_NEVER_IN_UTF8 = {LETTERS[ID_OF_BYTE[byte]] for byte in (0xC0, 0xC1, *range(0xF5, 0x100))}

Merge = tuple[str, str]  # two tokens, as the files spell them, that become one


def damaged(problem: str) -> DataError:
    """The error for files that are missing, incomplete or contradict each other."""
    return DataError(
        problem,
        "Handloom reads folders that it has written itself, GPT-2's own files, and byte-level BPE of Hugging Face's "
        "tokenizers. Copy the folder again from its source.",
    )


def visible(token: bytes) -> str:
    """`token` as the files spell it: one visible character per byte."""
    return "".join(LETTERS[i] for i in token.translate(ID_OF_BYTE))


def bytes_of(word: str) -> bytes:
    """The inverse of `visible`; a word that spells no bytes, such as an added token with a space, stays."""
    try:
        return bytes([_BYTE_OF_LETTER[letter] for letter in word])
    except KeyError:
        return word.encode("utf-8", "surrogatepass")


def as_text(vocabulary: Mapping[str, int], merges: Iterable[Merge]) -> tuple[str, str]:
    """The contents of `vocab.json` and of `merges.txt`."""
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    return json.dumps(vocabulary, ensure_ascii=False), "".join(line + "\n" for line in lines)


def write(folder: Path, contents: Mapping[str, str]) -> None:
    """Write files by name, each completely or not at all; raises DataError where the folder cannot be written."""
    folder = user_path(folder, "the tokenizer")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            write_output(folder / name, text)
    except (OSError, CheckpointError) as error:
        why = error.problem if isinstance(error, CheckpointError) else f"{error.strerror or error}."
        raise DataError(
            f"The tokenizer cannot be saved in {folder}: {why}", "Choose a writable folder on a disk with free space."
        ) from error


def read_pair(vocabulary: Path, merges: Path) -> tuple[dict[str, Any], list[Merge]]:
    """The contents of `vocab.json` and of `merges.txt`, not yet checked against each other."""
    pairs = []
    for number, line in enumerate(read_text(merges).split("\n"), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, _, right = line.partition(" ")
        if not right or " " in right:
            raise damaged(f"{merges}, line {number}: {line!r} is not a pair of tokens.")
        pairs.append((left, right))
    return read_json(vocabulary), pairs


def check(
    vocabulary: Mapping[str, Any],
    merges: Sequence[Merge],
    *,
    paths: tuple[Path, Path],
    added: Collection[str],
    unk: bool,
) -> None:
    """Raise DataError for the first fault of a vocabulary and merges (read from `paths`) as one byte-level BPE.

    `added` are contents of added tokens, which no merge has to make. `unk`: a token stands for bytes without one.
    """
    path, where = paths
    owners: dict[object, str] = {}
    for token, number in vocabulary.items():
        if type(number) is not int or not 0 <= number < _IDS:
            raise damaged(f"{path}: the id of {token!r} is {number!r}; it must be a whole number below {_IDS:,}.")
        if number in owners:
            raise damaged(f"{path}: {owners[number]!r} and {token!r} share the id {number}.")
        owners[number] = token
    made, seen = set(LETTERS), set[Merge]()
    for number, (left, right) in enumerate(merges, start=1):
        name = f"merge number {number}, {left!r} + {right!r}"
        for token in (left, right, left + right):
            if token not in vocabulary:
                raise damaged(f"{path} lacks the token {token!r} of {where}'s {name}.")
        if (left, right) in seen:
            raise damaged(f"{where}: {name}, is there twice.")
        seen.add((left, right))
        made.add(left + right)
    for token in vocabulary:
        # A word that nothing makes is what is left when merges are lost; special tokens look like <pad> or [PAD].
        if token not in made and token not in added and (token[:1] + token[-1:]) not in ("<>", "[]"):
            raise damaged(f"{path}: {token!r} is neither a byte, nor made by a merge in {where}, nor an added token.")
    for letter in LETTERS if not unk else ():
        if letter not in vocabulary and letter not in _NEVER_IN_UTF8:
            raise damaged(f"{path} lacks the byte {letter!r} and an unk_token: it would vanish from every text.")


def always_reached(pairs: Sequence[tuple[int, int]]) -> bool:
    """Whether each token that merges make is what its own bytes encode to; pair number n makes the token 256 + n.

    Where that holds, three ways to encode agree: applying the merges in order, joining the neighbours whose union has
    the lowest number (tiktoken), and looking whole pieces up first. Elsewhere they may differ.

    A token is reached if nothing merges across the seam between its halves before they are complete. So both halves
    are taken apart again, the one that was made last first (of two equal ones the right one).
    """
    made = {pair: token for token, pair in enumerate(pairs, start=256)}
    never = len(made) + 256
    for left, right in pairs:
        while max(left, right) >= 256:
            if right >= left:
                since, right = right, pairs[right - 256][0]
                reached = made.get((left, right), never) > since
            else:
                since, left = left, pairs[left - 256][1]
                reached = made.get((left, right), never) >= since  # if equal, the leftmost goes first
            if not reached:
                return False
    return True


def read_text(path: Path) -> str:
    """A UTF-8 file; CheckpointError if Git LFS has not fetched it, DataError if it is missing or not readable."""
    storage.require_content(path)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise damaged(f"There is no tokenizer file {path}.") from error
    except OSError as error:
        raise damaged(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise damaged(f"{path} is not UTF-8 text: byte {error.start} is wrong.") from error


def read_json(path: Path) -> dict[str, Any]:
    """A file with a JSON object; raises as `read_text`, and DataError for other content."""
    try:
        found = parse_json(read_text(path))
    except ValueError as error:
        raise damaged(f"{path} is not complete JSON: {error}.") from error
    if not isinstance(found, dict):
        raise damaged(f"{path} holds a JSON {type(found).__name__}, not an object with names.")
    return found


def plain_vocabulary(pairs: Sequence[tuple[int, int]]) -> dict[str, int]:
    """GPT-2's order: the bytes, a token per merge (`pairs` as in `always_reached`), and last the end of text."""
    words = list(LETTERS)
    for left, right in pairs:
        words.append(words[left] + words[right])
    return {word: token for token, word in enumerate([*words, END_OF_TEXT])}
