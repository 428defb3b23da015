"""Logits processors that depend on the tokens before: pure functions, applied in the order they stand here.

Rows may be of different lengths, so texts are lists of ids. Knows no model and no characters. What depends on the
logits alone comes afterwards: `sampling.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from handloom.errors import HandloomError, ModelError, RequestError
from handloom.inference.generation_config import GenerationConfig

Texts = Sequence[Sequence[int]]
NEVER = float("-inf")


def bias_tokens(logits: Tensor, bias: Iterable[tuple[Any, float]]) -> Tensor:
    """Add to the logits of some tokens: (B, V) -> (B, V)."""
    added = torch.zeros_like(logits[0])  # (V)
    for token, amount in bias:
        added[token] += amount
    return logits + added


def penalize_repetition(logits: Tensor, texts: Texts, penalty: float) -> Tensor:
    """Divide positive logits of tokens that are in the text by `penalty`, and multiply negative ones.

    `logits` is (B, V); `texts` are B texts, prompts included; a penalty of 1 changes nothing.
    Source: Keskar et al. 2019, "CTRL", section 4.1.
    """
    logits = logits.clone()
    for row, text in zip(logits, texts, strict=True):
        seen = _ids(sorted(set(text)), logits)
        row[seen] = torch.where(row[seen] < 0, row[seen] * penalty, row[seen] / penalty)
    return logits


def penalize_frequency(logits: Tensor, new: Texts, frequency: float, presence: float) -> Tensor:
    """Subtract from each token's logit `frequency` for each time it was generated, and `presence` if it was at all.

    `logits` is (B, V); `new` are B texts without their prompts. Either penalty may be negative.
    Source: the definition in OpenAI's API documentation, which counts the tokens that were sampled: the prompt's
    own do not count.
    """
    counts = torch.stack([torch.bincount(_ids(text, logits), minlength=logits.shape[-1]) for text in new])  # (B, V)
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


def ban_words(logits: Tensor, texts: Texts, words: Iterable[Sequence[Any]]) -> Tensor:
    """Forbid the last token of a word wherever the text ends with all of it but that."""
    logits = logits.clone()
    for row, text in zip(logits, texts, strict=True):
        for *before, last in words:
            if len(before) <= len(text) and list(text[len(text) - len(before) :]) == before:
                row[last] = NEVER
    return logits


def hold_off_end(logits: Tensor, new: Texts, ends: Sequence[int], least: int) -> Tensor:
    """Forbid the ends of a text in rows that have fewer than `least` new tokens."""
    early = torch.tensor([len(text) < least for text in new], device=logits.device)  # (B)
    return logits.masked_fill(early[:, None] & _marked(ends, logits), NEVER)


def forced_eos(logits: Tensor, new: Texts, ends: Sequence[int], most: int) -> Tensor:
    """Leave only the ends of a text to rows whose next token is the last of `most`."""
    final = torch.tensor([len(text) == most - 1 for text in new], device=logits.device)[:, None]  # (B, 1)
    return logits.masked_fill(final, NEVER).masked_fill(final & _marked(ends, logits), 0.0)


def mask_padded_vocab(logits: Tensor, config: GenerationConfig) -> Tensor:
    """Forbid the ids that the tokenizer does not use."""
    limit = logits.shape[-1] if config.vocab_size is None else config.vocab_size
    if limit < logits.shape[-1] or config.unused_ids:
        logits = logits.clone()
        logits[..., limit:] = NEVER
        logits[..., list(config.unused_ids)] = NEVER
    return logits


def process_logits(logits: Tensor, texts: Texts, prompts: Sequence[int], config: GenerationConfig) -> Tensor:
    """All of the above that the config asks for, in their order; float32.

    `logits` is (B, V); `texts` are B texts, of each the first `prompts` tokens its prompt. The config has its words in
    ids, and the ends of a text where they are needed (`engine.require_possible`).
    """
    logits = mask_padded_vocab(logits.float(), config)
    new = [text[begin:] for text, begin in zip(texts, prompts, strict=True)]
    if config.logit_bias:
        logits = bias_tokens(logits, config.logit_bias)
    if config.repetition_penalty != 1:
        logits = penalize_repetition(logits, texts, config.repetition_penalty)
    if config.frequency_penalty or config.presence_penalty:
        logits = penalize_frequency(logits, new, config.frequency_penalty, config.presence_penalty)
    if config.no_repeat_ngram_size is not None:
        logits = ban_repeated_ngrams(logits, texts, config.no_repeat_ngram_size)
    if config.bad_words:
        logits = ban_words(logits, texts, config.bad_words)
    if config.min_new_tokens:
        logits = hold_off_end(logits, new, config.eos_token_ids, config.min_new_tokens)
    if config.forced_eos:
        logits = forced_eos(logits, new, config.eos_token_ids, config.max_new_tokens)
    return logits


def no_choice(highest: float) -> HandloomError | None:
    """Why no token can be chosen from processed logits, by the highest of a row; None: one can."""
    if highest == NEVER:
        return RequestError(
            "Every token is forbidden at this place, so the text cannot go on.",
            "Loosen `no_repeat_ngram_size` or `bad_words`, or lower `min_new_tokens`.",
        )
    if math.isfinite(highest):
        return None
    return ModelError(
        "The model's logits are not finite numbers, so no token can be chosen.",
        "Its weights are damaged; use an earlier checkpoint.",
    )


def _ids(ids: Sequence[int], logits: Tensor) -> Tensor:
    return torch.tensor(ids, dtype=torch.int64, device=logits.device)


def _marked(ids: Sequence[int], logits: Tensor) -> Tensor:
    """(V) bool: which ids are among these."""
    return torch.isin(torch.arange(logits.shape[-1], device=logits.device), _ids(ids, logits))
