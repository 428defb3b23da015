"""Texts become token bytes: in this process, or as the program of a worker process.

A worker reads frames of pieces from its standard input and writes frames of tokens to its standard
output, until the input ends. It imports the tokenizer and nothing else of ours, no numpy either, so
that many workers stay small.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from array import array
from collections.abc import Sequence
from typing import IO

from handloom.tokenizer import load_tokenizer
from handloom.tokenizer.base import Tokenizer

_LENGTH = struct.Struct("<Q")


def encode_texts(tokenizer: Tokenizer, texts: Sequence[tuple[str, bool]], token_bytes: int) -> tuple[array[int], bytes]:
    """Tokenize pieces.

    Args:
        texts: pairs (text, whether end-of-text follows).
        token_bytes: 2 or 4, the size of a token in the result.
    Returns:
        number of tokens of each piece, and all tokens one after the other, little-endian.
    """
    counts = array("Q")
    tokens = array("H" if token_bytes == 2 else "I")
    for text, ends in texts:
        before = len(tokens)
        tokens.extend(tokenizer.encode(text))
        if ends:
            tokens.append(tokenizer.eos_token_id)
        counts.append(len(tokens) - before)
    if sys.byteorder == "big":
        tokens.byteswap()
    return counts, tokens.tobytes()


def write_frame(stream: IO[bytes], body: bytes) -> None:
    """Send one message: its length, then its bytes."""
    stream.write(_LENGTH.pack(len(body)))
    stream.write(body)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """The next message, or None if the stream ended before a whole one came."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = stream.read(length)
    return body if len(body) == length else None


def main(folder: str, token_bytes: int) -> None:
    """Serve one parent: say the tokenizer's fingerprint, then answer frame by frame."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends our input
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    tokenizer = load_tokenizer(folder)
    write_frame(answers, tokenizer.fingerprint.encode("ascii"))
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        counts, tokens = encode_texts(tokenizer, json.loads(frame), token_bytes)
        write_frame(answers, counts.tobytes())
        write_frame(answers, tokens)
