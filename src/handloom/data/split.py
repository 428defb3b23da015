"""Which document goes where: a first walk over the corpus assigns each to training, validation or neither.

The split of a document depends on its own text alone (SHA-256), so that adding files never moves a document across.
Knows no tokens; memory is a few bytes a document.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, groupby, pairwise

from handloom.data.chunking import PIECE, SAFE, Separation, chunk_text, split_tail
from handloom.data.corpus import Corpus, Document
from handloom.data.omissions import Omissions
from handloom.errors import ConfigError, DataError
from handloom.tokenizer.base import END_OF_TEXT

TRAIN, VALIDATION, DUPLICATE, EMPTY = range(4)
SPLITS = ("train", "validation")
_POLICIES = ("auto", "documents", "tail")
_TOLERANCE = 4.0  # of "auto": how far the fraction of validation may be from the one requested, as a factor


@dataclass(frozen=True)
class Piece:
    """Some text of one document, small enough to tokenize at once, with the tokens of the whole."""

    split: int  # TRAIN or VALIDATION
    name: str
    text: str
    ends: bool  # the last of its document in this split: end-of-text follows


@dataclass
class SplitPlan:
    """The result of the first walk. `digest` stands for the texts kept, in their order."""

    policy: str  # "documents", "tail" or "none": what was used
    fraction: float
    digest: str = ""
    assignments: bytearray = field(default_factory=bytearray)  # one of TRAIN .. EMPTY for each document
    sizes: array[int] = field(default_factory=lambda: array("q"))  # UTF-8 bytes of each document
    omissions: Omissions = field(default_factory=Omissions)  # files and documents left out
    separation: Separation = field(default_factory=Separation)

    def count(self, assignment: int) -> int:
        """Number of documents with that assignment."""
        return self.assignments.count(assignment)

    def bytes_of(self, *assignments: int) -> int:
        """UTF-8 bytes in the documents with those assignments."""
        return sum(size for size, one in zip(self.sizes, self.assignments, strict=True) if one in assignments)


def assign_splits(corpus: Corpus, *, validation_fraction: float = 0.1, split: str = "auto") -> SplitPlan:
    """Walk the corpus once and assign each document.

    `validation_fraction` of the text is held out, from 0 (nothing) to below 1. `split` is "documents", which holds out
    whole documents, chosen by the SHA-256 of their text; "tail", which holds out the last part of each document, cut at
    the start of a line; or "auto": documents if both splits get one and validation gets between a quarter and four
    times the bytes requested, else the tail (one long file, say).

    Raises DataError where there is no text at all, and for `split="documents"` where one split stays empty; ConfigError
    for a setting outside its limits.
    """
    if split not in _POLICIES:
        problem = f'split is "{split}", but must be one of {", ".join(_POLICIES)}.'
        raise ConfigError(problem, "Choose one of these.", setting="split")
    if not 0 <= validation_fraction < 1:
        problem = f"validation_fraction is {validation_fraction}, but must be at least 0 and less than 1."
        raise ConfigError(problem, "0.1 holds out a tenth of the text.", setting="validation_fraction")
    plan = SplitPlan("none" if validation_fraction == 0 else "documents", validation_fraction)
    plan.omissions.update(corpus.omissions)
    plan.separation.separator = corpus.document_separator
    total = hashlib.sha256()
    seen: set[bytes] = set()
    for document in corpus.documents():
        for reason, by in document.omitted:
            plan.omissions.add(reason, by=by)
        text_hash, size, end_of_text = _hash_of(document)
        kept = size > 0 and text_hash[:16] not in seen  # 128 bits never collide by accident, and take half the memory
        if kept:
            # The first 64 bits are a number drawn evenly from [0, 1), the same on every machine.
            held_out = int.from_bytes(text_hash[:8], "big") / 2**64 < validation_fraction
            plan.assignments.append(VALIDATION if held_out else TRAIN)
            seen.add(text_hash[:16])
            total.update(text_hash)
        else:
            plan.assignments.append(DUPLICATE if size else EMPTY)
            plan.omissions.add("duplicate" if size else "empty", document.name)
        plan.separation.add(document.name, document.file, document.part, end_of_text if kept else 0)
        plan.sizes.append(size)
    plan.digest = total.hexdigest()
    _settle_policy(plan, split, corpus)
    return plan


def pieces(corpus: Corpus, plan: SplitPlan, before: str = SAFE) -> Iterator[Piece]:
    """Walk the corpus again and give its text in pieces, in order, without duplicates.

    A text may be cut before the characters `before`, see `chunk_text`. Raises DataError, at the end of the walk at the
    latest, if the corpus is not the one that `plan` was made from.
    """
    total = hashlib.sha256()
    assigned = iter(zip(plan.assignments, plan.sizes, strict=True))
    for document in corpus.documents():
        assignment, size = next(assigned, (None, 0))
        if assignment is None:
            raise _changed(corpus)
        if assignment in (DUPLICATE, EMPTY):
            continue
        text_hash = hashlib.sha256()
        chunks = _hashing(document.pieces(), text_hash)
        if plan.policy == "tail":
            parts = split_tail(chunks, int(size * (1 - plan.fraction)))  # whose False is TRAIN, and True VALIDATION
        else:
            parts = ((assignment == VALIDATION, text) for text in chunks)
        for split, group in groupby(parts, key=lambda part: int(part[0])):
            texts = chunk_text((text for _, text in group), before=before)
            for text, after in pairwise(chain(texts, ("",))):  # no text is empty
                yield Piece(split, document.name, text, ends=not after)
        total.update(text_hash.digest())
    if next(assigned, None) is not None or total.hexdigest() != plan.digest:
        raise _changed(corpus)


def batched(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Pieces of one split together, about `PIECE` characters, so that short documents are encoded many at once."""
    held: list[list[Piece]] = [[] for _ in SPLITS]
    sizes = [0] * len(held)
    for piece in pieces:
        held[piece.split].append(piece)
        sizes[piece.split] += len(piece.text)
        if sizes[piece.split] >= PIECE:
            yield held[piece.split]
            held[piece.split], sizes[piece.split] = [], 0
    yield from filter(None, held)


def _hash_of(document: Document) -> tuple[bytes, int, int]:
    """SHA-256 and size in bytes of a text, and how often `<|endoftext|>` stands in it."""
    text_hash, size, marks, before, reach = hashlib.sha256(), 0, 0, "", len(END_OF_TEXT) - 1
    for text in document.pieces():
        raw = text.encode("utf-8")
        text_hash.update(raw)
        size += len(raw)
        marks += text.count(END_OF_TEXT) + (before + text[:reach]).count(END_OF_TEXT)
        before = (before + text[-reach:])[-reach:]
    return text_hash.digest(), size, marks


def _hashing(chunks: Iterable[str], text_hash: hashlib._Hash) -> Iterator[str]:
    for text in chunks:
        text_hash.update(text.encode("utf-8"))
        yield text


def _settle_policy(plan: SplitPlan, split: str, corpus: Corpus) -> None:
    held_out, kept = plan.bytes_of(VALIDATION), plan.bytes_of(TRAIN, VALIDATION)
    if not kept:
        why = "every document is empty" if plan.assignments else "no document could be read"
        raise DataError(f"No text in {', '.join(corpus.sources)}: {why}.", "Name files that hold text.")
    if plan.policy == "none":
        return
    both = plan.count(TRAIN) > 0 and plan.count(VALIDATION) > 0
    near = plan.fraction / _TOLERANCE <= held_out / kept <= plan.fraction * _TOLERANCE
    if split == "tail" or (split == "auto" and not (both and near)):
        plan.policy = "tail"
        plan.assignments = plan.assignments.replace(bytes([VALIDATION]), bytes([TRAIN]))
    elif not both:
        empty = SPLITS[VALIDATION if plan.count(TRAIN) else TRAIN]
        raise DataError(
            f"Split by documents leaves {empty} without any: there are only {len(plan.assignments)}, and "
            f"validation_fraction is {plan.fraction}.",
            "Use `split=tail`, which holds out the last part of each document, or add documents.",
        )


def _changed(corpus: Corpus) -> DataError:
    return DataError(
        f"The text of {', '.join(corpus.sources)} changed while it was being read.",
        "Wait until nothing writes to it any more, and begin again.",
    )
