"""What every tokenizer here offers, and how one is loaded.

Special tokens: there is one, the end of a text. It is reached through `tokenizer.end_of_text` and never
by typing it: user text is always ordinary text. Knows no algorithm.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from handloom.errors import DataError
from handloom.runtime import user_path

END_OF_TEXT = "<|endoftext|>"


class Tokenizer(Protocol):
    """Text <-> ids. The hand-written and the fast tokenizer both fit; with one vocabulary they agree."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are, the end of text included."""

    @property
    def end_of_text(self) -> int:
        """The id that ends a document; `encode` never gives it."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over vocabulary, merges and special token: equal for two that encode alike."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. All of it is ordinary text; a lone surrogate counts as U+FFFD."""

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Ids of each text."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of any ids whatever: an unknown id or bytes that are not UTF-8 become U+FFFD."""

    def token_bytes(self, token: int) -> bytes:
        """Bytes that one id stands for (of U+FFFD for an unknown id); they may be part of a character."""

    def save(self, folder: Path) -> None:
        """Write `vocab.json` and `merges.txt`, GPT-2's format, into `folder`."""


def load_tokenizer(source: str | Path, *, fast: bool = True) -> Tokenizer:
    """Load GPT-2's tokenizer or one from disk.

    Args:
        source: "gpt2", or a folder with `vocab.json` and `merges.txt` ("./gpt2" for one of that name).
        fast: encode with tiktoken; otherwise with the hand-written tokenizer. The ids are the same.

    Raises:
        DataError: files missing, torn, or not of this kind.
    """
    from handloom.tokenizer.bpe import BPETokenizer
    from handloom.tokenizer.gpt2 import TiktokenTokenizer, gpt2_bpe

    if source == "gpt2":
        by_hand = gpt2_bpe()
    elif (folder := user_path(source, "the tokenizer")).is_dir():
        by_hand = BPETokenizer.from_folder(folder)
    else:
        raise DataError(
            f"There is no tokenizer folder {str(source)!r}.",
            'Give "gpt2", or a folder with vocab.json and merges.txt.',
        )
    return TiktokenTokenizer(by_hand) if fast else by_hand
