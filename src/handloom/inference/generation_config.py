"""How to continue a text: every setting with its default and its meaning, stated once.

Flags, `--help`, arguments and the commands of a chat are made from these two dataclasses. Knows no torch, no
model and no tokenizer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from handloom.errors import RequestError, did_you_mean
from handloom.values import plain, plain_fields

INFINITE = float("inf")


def _setting(default: Any, meaning: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class SamplingParams:
    """How to choose the next token.

    The order is fixed. First what looks at the text so far: logit_bias, repetition_penalty, frequency_penalty and
    presence_penalty, no_repeat_ngram_size, bad_words, then the two that rule the end (min_new_tokens,
    forced_eos). Then what looks at the scores alone: temperature, top_k, top_p, min_p, typical_p. Then a draw.
    """

    temperature: float = _setting(0.8, "0 takes the likeliest token always; higher is livelier.")
    top_k: int | None = _setting(None, "Choose among the k likeliest tokens only.")
    top_p: float | None = _setting(
        None, "Choose among the fewest likeliest tokens that hold this probability together."
    )
    min_p: float | None = _setting(None, "Choose among tokens at least this share as probable as the likeliest.")
    typical_p: float | None = _setting(
        None, "Choose among the most typical tokens (surprise nearest to the mean) that hold this probability."
    )
    repetition_penalty: float = _setting(
        1.0, "Above 1 makes tokens that are in the text, prompt included, less likely."
    )
    frequency_penalty: float = _setting(0.0, "Taken from a token's score for each time it is in the new text.")
    presence_penalty: float = _setting(0.0, "Taken from a token's score once if it is in the new text at all.")
    no_repeat_ngram_size: int | None = _setting(None, "Never write the same sequence of this many tokens twice.")
    logit_bias: tuple[tuple[int | str, float], ...] = _setting(
        (), "TOKEN=BIAS: add BIAS to the score of a token, given by its id or its text."
    )
    bad_words: tuple[str | tuple[int, ...], ...] = _setting(
        (), "Never write this word's tokens, with a space before it or without."
    )

    def __post_init__(self) -> None:
        plain_fields(self)
        object.__setattr__(self, "logit_bias", _biases(self.logit_bias))
        object.__setattr__(self, "bad_words", _words(self.bad_words))
        for name in ("temperature", "repetition_penalty", "frequency_penalty", "presence_penalty"):
            require_number(name, getattr(self, name))
        for name in ("top_p", "min_p", "typical_p"):
            require_number(name, getattr(self, name), optional=True)
        for name in ("top_k", "no_repeat_ngram_size"):
            require_number(name, getattr(self, name), whole=True, optional=True)
        share = "above 0 and at most 1", "Leave it out to keep all tokens."
        within = "from -100 to 100", "0 changes nothing; OpenAI's own range is -2 to 2."
        _require(
            (
                "The temperature",
                self.temperature,
                0 <= self.temperature < INFINITE,
                "a finite number of at least 0",
                "Use 0 for the likeliest text, around 0.8 for lively text.",
            ),
            ("top_k", self.top_k, self.top_k is None or self.top_k >= 1, "at least 1", share[1]),
            ("top_p", self.top_p, self.top_p is None or 0 < self.top_p <= 1, *share),
            ("min_p", self.min_p, self.min_p is None or 0 < self.min_p <= 1, *share),
            ("typical_p", self.typical_p, self.typical_p is None or 0 < self.typical_p <= 1, *share),
            (
                "repetition_penalty",
                self.repetition_penalty,
                0.01 <= self.repetition_penalty <= 100,
                "from 0.01 to 100",
                "1 changes nothing; 1.1 to 1.3 is usual.",
            ),
            ("frequency_penalty", self.frequency_penalty, abs(self.frequency_penalty) <= 100, *within),
            ("presence_penalty", self.presence_penalty, abs(self.presence_penalty) <= 100, *within),
            (
                "no_repeat_ngram_size",
                self.no_repeat_ngram_size,
                self.no_repeat_ngram_size is None or self.no_repeat_ngram_size >= 1,
                "at least 1",
                "Leave it out to allow repetitions.",
            ),
        )


@dataclass(frozen=True)
class GenerationConfig:
    """How to continue: how far, how to choose, and what to do at the edge of the context."""

    max_new_tokens: int = _setting(100, "The most tokens to add.")
    sampling: SamplingParams = dataclasses.field(default_factory=SamplingParams)
    seed: int = _setting(0, "The same seed gives the same text, whatever is written beside it.")
    overflow: Literal["error", "slide"] = _setting(
        "error", "Text beyond the context: refuse it, or slide: go on from the context's last half."
    )
    min_new_tokens: int = _setting(0, "The model may not end the text before this many tokens.")
    forced_eos: bool = _setting(False, "The last of max_new_tokens is the end of text, whatever the scores.")
    num_beams: int = _setting(
        1, "Above 1: beam search, the likeliest whole text of this many tried side by side; nothing is drawn."
    )
    length_penalty: float = _setting(1.0, "Of beam search: above 0 favours longer texts, below 0 shorter ones.")
    logprobs: int | None = _setting(
        None, "Also give each new token's log probability, and this many likeliest alternatives."
    )
    echo: bool = _setting(False, "Also give the prompt's tokens, with their own log probabilities.")
    eos_token_ids: tuple[int, ...] = ()
    """Tokens that end a text; known to the tokenizer, and filled in by `LanguageModel`."""
    vocab_size: int | None = None
    """How many ids stand for something, filled in likewise. A model may have more, so that its size is a round
    number; those are never chosen, though they have a probability. None: all stand for something."""
    unused_ids: tuple[int, ...] = ()
    """Ids below that which stand for nothing either, filled in likewise."""

    def __post_init__(self) -> None:
        plain_fields(self)
        for name in ("max_new_tokens", "seed", "min_new_tokens", "num_beams"):
            require_number(name, getattr(self, name), whole=True)
        require_number("length_penalty", self.length_penalty)
        require_number("logprobs", self.logprobs, whole=True, optional=True)
        for name in ("forced_eos", "echo"):
            if not isinstance(getattr(self, name), bool):
                raise RequestError(f"{name} is {getattr(self, name)!r}; it must be True or False.", "Give one.")
        _require(
            (
                "max_new_tokens",
                self.max_new_tokens,
                self.max_new_tokens >= 1,
                "at least 1",
                "Ask for one token or more.",
            ),
            (
                "The seed",
                self.seed,
                0 <= self.seed < 2**64,
                "at least 0 and below 2^64",
                "Use any whole number from 0 up.",
            ),
            (
                "min_new_tokens",
                self.min_new_tokens,
                0 <= self.min_new_tokens <= self.max_new_tokens,
                f"from 0 to max_new_tokens, which is {self.max_new_tokens}",
                "Lower it, or raise max_new_tokens.",
            ),
            ("num_beams", self.num_beams, 1 <= self.num_beams <= 1000, "from 1 to 1000", "Use 1 for no beam search."),
            (
                "length_penalty",
                self.length_penalty,
                abs(self.length_penalty) <= 10,
                "from -10 to 10",
                "1 weighs a text by the mean of its tokens.",
            ),
            (
                "logprobs",
                self.logprobs,
                self.logprobs is None or self.logprobs >= 0,
                "at least 0",
                "Use 0 for the chosen tokens alone.",
            ),
        )
        if self.overflow not in ("error", "slide"):
            raise RequestError(f"There is no overflow policy {self.overflow!r}.", "The policies are error and slide.")
        drawn = [name for name in ("top_k", "top_p", "min_p", "typical_p") if getattr(self.sampling, name)]
        if self.num_beams > 1 and drawn:
            raise RequestError(
                f"Beam search draws nothing, so {drawn[0]} has no meaning with beams {self.num_beams}.",
                "Leave one of them out.",
            )

    @classmethod
    def of(cls, **settings: Any) -> GenerationConfig:
        """A request from settings of both dataclasses, by name.

        Raises:
            RequestError: for a setting that does not exist (the nearest that does is named), or has no meaning.
        """
        return cls().changed(**settings)

    def changed(self, **settings: Any) -> GenerationConfig:
        """The same request with other settings, of either dataclass.

        Raises:
            RequestError: as `of`.
        """
        choosing = setting_names(SamplingParams)
        known = [*setting_names(GenerationConfig), *choosing]
        for name in settings:
            if name not in known:
                raise RequestError(
                    f"There is no setting {name!r}.", did_you_mean(name, known) or f"There are: {', '.join(known)}."
                )
        how = {name: value for name, value in settings.items() if name in choosing}
        rest = {name: value for name, value in settings.items() if name not in choosing}
        return dataclasses.replace(self, sampling=dataclasses.replace(self.sampling, **how), **rest)


def setting_names(settings: type) -> list[str]:
    """The fields that a user may set."""
    return [field.name for field in dataclasses.fields(settings) if "help" in field.metadata]


def require_number(name: str, value: object, *, whole: bool = False, optional: bool = False) -> None:
    """Raise RequestError unless `value` is a number (or None, where that is allowed)."""
    if value is None and optional:
        return
    kinds = (int,) if whole else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool):
        kind = "a whole number" if whole else "a number"
        raise RequestError(f"{name} is {value!r}; it must be {kind}.", f"Give {name} as {kind}.")


def require_count(n: object) -> int:
    """How many texts are asked for: `n` as Python's own number.

    Raises:
        RequestError: it is no whole number, or below 1.
    """
    n = plain(n)
    require_number("n", n, whole=True)
    assert isinstance(n, int)
    if n < 1:
        raise RequestError(f"n is {n}; it must be at least 1.", "Ask for one text or more.")
    return n


def require_streamable(request: GenerationConfig) -> None:
    """Raise RequestError for a request whose text is known only as a whole."""
    if request.num_beams > 1:
        raise RequestError(
            "Beam search chooses a text when it is whole, so it cannot be streamed.",
            "Leave out --stream, or --num-beams.",
        )


def _require(*rules: tuple[str, object, bool, str, str]) -> None:
    for name, value, holds, limit, remedy in rules:
        if not holds:
            raise RequestError(f"{name} is {value}; it must be {limit}.", remedy)


def _biases(given: Any) -> tuple[tuple[int | str, float], ...]:
    """Pairs of a token (id, or text) and a bias, from a mapping, from pairs, or from texts TOKEN=BIAS."""
    wanted = "Write TOKEN=BIAS, for example 50256=-5, or in Python {50256: -5.0}."
    if isinstance(given, str) or not isinstance(given, Mapping | Iterable):
        raise RequestError(f"logit_bias is {given!r}; it must be pairs of a token and a number.", wanted)
    pairs: list[tuple[int | str, float]] = []
    for item in given.items() if isinstance(given, Mapping) else given:
        try:
            if isinstance(item, str):
                token, _, bias = item.rpartition("=")
                pair = (int(token) if token.isdecimal() else token, float(bias))
            else:
                pair = (plain(item[0]), plain(item[1]))
        except (ValueError, TypeError, IndexError):
            raise RequestError(f"{item!r} is no logit bias.", wanted) from None
        if not isinstance(pair[0], int | str) or isinstance(pair[0], bool) or pair[0] == "":
            raise RequestError(f"The logit bias {item!r} names no token.", wanted)
        require_number("A logit bias", pair[1])
        if not abs(pair[1]) <= 100:
            raise RequestError(
                f"The logit bias of {pair[0]!r} is {pair[1]}; it must be from -100 to 100.",
                "-100 all but forbids a token, 100 all but demands it.",
            )
        pairs.append(pair)
    return tuple(pairs)


def _words(given: Any) -> tuple[str | tuple[int, ...], ...]:
    words = (given,) if isinstance(given, str) else given
    if not isinstance(words, Sequence):
        raise RequestError(f"bad_words is {given!r}; it must be a list.", "Give words, or lists of token ids.")
    made = tuple(word if isinstance(word, str) else _ids(word) for word in words)
    if any(len(word) == 0 for word in made):
        raise RequestError("A bad word is empty, which would forbid everything.", "Leave it out.")
    return made


def _ids(word: Any) -> tuple[int, ...]:
    if not isinstance(word, Sequence) or any(not isinstance(i, int) or isinstance(i, bool) for i in word):
        raise RequestError(f"The bad word {word!r} is neither text nor a list of token ids.", "Give one of them.")
    return tuple(word)
