"""What every tokenizer here offers, and how one is loaded.

Special tokens, such as the end of a text, are reached through `tokenizer.eos_token_id` or a chat template and never
by typing them: user text is always ordinary text. Knows no algorithm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from handloom.errors import DataError
from handloom.runtime import user_path

if TYPE_CHECKING:
    from handloom.tokenizer.hf_config import TokenizerSettings

END_OF_TEXT = "<|endoftext|>"


class Tokenizer(Protocol):
    """Text <-> ids. The hand-written and the fast tokenizer both fit; with one vocabulary they agree."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are, the end of text included."""

    @property
    def eos_token_id(self) -> int:
        """The id that ends a document; `encode` never gives it."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over vocabulary, merges and special token: equal for two that encode alike."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The ids at which writing ends: those that the model's files name, or the end of text."""

    @property
    def unused_ids(self) -> tuple[int, ...]:
        """The ids below `vocab_size` that stand for nothing."""

    @property
    def settings(self) -> TokenizerSettings:
        """What its files say beyond vocabulary and merges."""

    def encode(self, text: str, *, special: bool = False, stand_ins: Mapping[int, str] | None = None) -> list[int]:
        """Ids of `text`, in which special tokens are ordinary text unless `special`; a lone surrogate is U+FFFD."""

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Ids of each text."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of any ids whatever: an unknown id or bytes that are not UTF-8 become U+FFFD."""

    def token_bytes(self, token: int) -> bytes:
        """Bytes that one id stands for (of U+FFFD for an unknown id); they may be part of a character."""

    def save(self, folder: Path, config: Mapping[str, Any] | None = None) -> None:
        """Write `vocab.json` and `merges.txt`, GPT-2's format, into `folder`, and what they cannot hold."""


def load_tokenizer(
    source: str | Path, *, fast: bool = True, rows: int | None = None, templates: bool = True
) -> Tokenizer:
    """Load GPT-2's tokenizer or one from disk.

    Args:
        source: "gpt2", or a folder ("./gpt2" for one of that name) with `tokenizer.json`, or `vocab.json` and
            `merges.txt`.
        fast: encode with tiktoken; otherwise with the hand-written tokenizer. The ids are the same.
        rows: how many ids the model has; special tokens that were added beyond them are left out.
        templates: whether its chat templates are kept; a new model has learned none.

    Raises:
        DataError: files missing, torn, or not of this kind.
    """
    from handloom.tokenizer.bpe import BPETokenizer
    from handloom.tokenizer.gpt2 import TiktokenTokenizer, gpt2_bpe

    if source == "gpt2":
        reference = gpt2_bpe()
    elif (folder := user_path(source, "the tokenizer")).is_dir():
        reference = BPETokenizer.from_folder(folder, rows)
    else:
        raise DataError(
            f"There is no tokenizer folder {str(source)!r}.",
            'Give "gpt2", or a folder with tokenizer.json, or with vocab.json and merges.txt.',
        )
    if not templates:
        reference.settings = replace(reference.settings, chat_template=None, more_templates={})
    return TiktokenTokenizer(reference) if fast else reference
