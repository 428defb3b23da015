"""What the text so far does to the scores of the next token: pure functions, applied in the order they stand here.

Rows may be of different lengths, so texts are lists of ids. Knows no model and no characters. What looks at the
scores alone comes afterwards: `sampling.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from handloom.errors import RequestError
from handloom.inference.generation_config import GenerationConfig

Texts = Sequence[Sequence[int]]
NEVER = float("-inf")


def bias_tokens(logits: Tensor, bias: Iterable[tuple[int, float]]) -> Tensor:
    """Add to the scores of some tokens: (B, V) -> (B, V)."""
    added = torch.zeros_like(logits[0])  # (V)
    for token, amount in bias:
        added[token] += amount
    return logits + added


def penalize_repetition(logits: Tensor, texts: Texts, penalty: float) -> Tensor:
    """Divide positive scores of tokens that are in the text by `penalty`, and multiply negative ones.

    Source: Keskar et al. 2019, "CTRL", section 4.1.

    Args:
        logits: (B, V).
        texts: B texts, prompts included.
        penalty: 1 changes nothing.
    """
    logits = logits.clone()
    for row, text in zip(logits, texts, strict=True):
        seen = torch.tensor(sorted(set(text)), dtype=torch.int64)
        row[seen] = torch.where(row[seen] < 0, row[seen] * penalty, row[seen] / penalty)
    return logits


def penalize_frequency(logits: Tensor, new: Texts, frequency: float, presence: float) -> Tensor:
    """Take from each token's score `frequency` for each time it was written, and `presence` once if it was at all.

    Source: the definition in OpenAI's API documentation, which counts the tokens that were sampled: the prompt's
    own do not count.

    Args:
        logits: (B, V).
        new: B texts, without their prompts.
        frequency: may be negative.
        presence: may be negative.
    """
    counts = torch.stack(
        [torch.bincount(torch.tensor(text, dtype=torch.int64), minlength=logits.shape[-1]) for text in new]
    )  # (B, V)
    return logits - frequency * counts - presence * (counts > 0)


def ban_repeated_ngrams(logits: Tensor, texts: Texts, n: int) -> Tensor:
    """Forbid every token that would end a sequence of n tokens that is in the text already.

    Source: Paulus et al. 2017, "A Deep Reinforced Model for Abstractive Summarization", section 2.5.
    """
    logits = logits.clone()
    for row, text in zip(logits, texts, strict=True):
        end = list(text[len(text) - n + 1 :])  # the n - 1 last tokens
        starts = range(len(text) - n + 1)
        row[[text[at + n - 1] for at in starts if list(text[at : at + n - 1]) == end]] = NEVER
    return logits


def ban_words(logits: Tensor, texts: Texts, words: Iterable[Sequence[int]]) -> Tensor:
    """Forbid the last token of a word wherever the text ends with all of it but that."""
    logits = logits.clone()
    for row, text in zip(logits, texts, strict=True):
        for *before, last in words:
            if len(before) <= len(text) and list(text[len(text) - len(before) :]) == before:
                row[last] = NEVER
    return logits


def hold_off_end(logits: Tensor, new: Texts, ends: Sequence[int], least: int) -> Tensor:
    """Forbid the ends of a text in rows that have fewer than `least` new tokens."""
    early = torch.tensor([len(text) < least for text in new])  # (B)
    logits = logits.clone()
    logits[early[:, None] & _marked(ends, logits)] = NEVER
    return logits


def forced_eos(logits: Tensor, new: Texts, ends: Sequence[int], most: int) -> Tensor:
    """Leave only the ends of a text to rows whose next token is the last of `most`."""
    final = torch.tensor([len(text) == most - 1 for text in new])  # (B)
    logits = logits.clone()
    logits[final] = NEVER
    logits[final[:, None] & _marked(ends, logits)] = 0.0
    return logits


def _marked(ids: Sequence[int], logits: Tensor) -> Tensor:
    """(V) bool: which ids are among these."""
    if not ids:
        raise RequestError("No id ends a text.", "Let LanguageModel fill in the ends of its tokenizer.")
    return torch.isin(torch.arange(logits.shape[-1]), torch.tensor(ids))


def process_logits(logits: Tensor, texts: Texts, prompts: Sequence[int], request: GenerationConfig) -> Tensor:
    """All of the above that the request asks for, in their order.

    Args:
        logits: (B, V).
        texts: B texts so far.
        prompts: how many tokens at the beginning of each text are its prompt.
        request: with its words in ids, and with the ends of a text where they are needed.

    Raises:
        RequestError: when no token is left to choose.
    """
    how, logits = request.sampling, mask_padded_vocab(logits.float(), request)
    new = [text[begin:] for text, begin in zip(texts, prompts, strict=True)]
    if how.logit_bias:
        logits = bias_tokens(logits, [(_id(token), amount) for token, amount in how.logit_bias])
    if how.repetition_penalty != 1:
        logits = penalize_repetition(logits, texts, how.repetition_penalty)
    if how.frequency_penalty or how.presence_penalty:
        logits = penalize_frequency(logits, new, how.frequency_penalty, how.presence_penalty)
    if how.no_repeat_ngram_size is not None:
        logits = ban_repeated_ngrams(logits, texts, how.no_repeat_ngram_size)
    if how.bad_words:
        logits = ban_words(logits, texts, [[_id(token) for token in word] for word in how.bad_words])
    if request.min_new_tokens:
        logits = hold_off_end(logits, new, request.eos_token_ids, request.min_new_tokens)
    if request.forced_eos:
        logits = forced_eos(logits, new, request.eos_token_ids, request.max_new_tokens)
    if (logits == NEVER).all(dim=-1).any():
        raise RequestError(
            "Every token is forbidden at this place, so the text cannot go on.",
            "Relax no_repeat_ngram_size or bad_words, or lower min_new_tokens.",
        )
    return logits


def mask_padded_vocab(logits: Tensor, request: GenerationConfig) -> Tensor:
    """Forbid the ids that stand for nothing."""
    if request.vocab_size is not None and request.vocab_size < logits.shape[-1]:
        logits = logits.masked_fill(torch.arange(logits.shape[-1]) >= request.vocab_size, NEVER)
    return logits.masked_fill(_marked(request.unused_ids, logits), NEVER) if request.unused_ids else logits


def _id(token: object) -> int:
    if isinstance(token, int):
        return token
    raise RequestError(f"{token!r} is no token id.", "Let LanguageModel turn words into ids.")
