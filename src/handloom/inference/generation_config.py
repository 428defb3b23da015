"""How to continue a text: every setting with its default and its help, stated once.

Flags, help, keyword arguments and the commands of a chat are made from these fields. Knows no torch, no model and
no tokenizer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from handloom.errors import HandloomError, RequestError
from handloom.settings import Settings, require_known, setting, setting_names
from handloom.values import plain

NOT_IN_CHAT = ("overflow", "num_beams", "length_penalty", "logprobs", "echo")
"""Settings that a chat fixes."""

_BIAS = "Write TOKEN=BIAS, for example 50256=-5, or in Python {50256: -5.0}."
_KEEP_ALL = "Leave it out to keep all tokens."


def _biases(given: Any) -> tuple[tuple[int | str, float], ...]:
    """Pairs of a token (id or text) and a bias, from a mapping, from pairs, or from texts TOKEN=BIAS."""
    if isinstance(given, str) or not isinstance(given, Mapping | Iterable):
        raise _refused("logit_bias", f"logit_bias is {given!r}; it must be pairs of a token and a number.", _BIAS)
    return tuple(_bias(item) for item in (given.items() if isinstance(given, Mapping) else given))


def _bias(item: Any) -> tuple[int | str, float]:
    try:
        if isinstance(item, str):
            name, _, amount = item.rpartition("=")
            token, bias = int(name) if name.isdecimal() else name, float(amount)
        else:
            token, bias = plain(item[0]), plain(item[1])
    except (ValueError, TypeError, IndexError):
        raise _refused("logit_bias", f"{item!r} is not a logit bias.", _BIAS) from None
    if not isinstance(token, int | str) or isinstance(token, bool) or token == "":
        raise _refused("logit_bias", f"The logit bias {item!r} does not name a token.", _BIAS)
    if not isinstance(bias, int | float) or isinstance(bias, bool) or not abs(bias) <= 100:
        raise _refused(
            "logit_bias",
            f"The logit bias of {token!r} is {bias!r}; it must be a number from -100 to 100.",
            "-100 all but forbids a token, 100 all but forces it.",
        )
    return token, bias


def _words(given: Any) -> tuple[str | tuple[int, ...], ...]:
    """Words, each a text or its token ids."""
    words = (given,) if isinstance(given, str) else given
    if not isinstance(words, Sequence):
        raise _refused("bad_words", f"bad_words is {given!r}; it must be a list.", "Give words, or lists of token ids.")
    for word in words:
        ids = isinstance(word, Sequence) and all(isinstance(i, int) and not isinstance(i, bool) for i in word)
        if not isinstance(word, str) and not ids:
            raise _refused("bad_words", f"The bad word {word!r} is neither text nor a list of token ids.", "Give one.")
        if not word:
            raise _refused("bad_words", "A bad word is empty, which would forbid every token.", "Leave it out.")
    return tuple(word if isinstance(word, str) else tuple(word) for word in words)


def _stops(given: Any) -> tuple[str, ...]:
    """Stop strings, from one, from several, or from None."""
    if given is None:
        return ()
    strings = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    if any(not isinstance(string, str) for string in strings):
        raise _refused("stop", "A stop string is not text.", "Pass a str, or several.")
    if not all(strings):
        raise _refused("stop", "A stop string is empty, which would end every text at once.", "Leave it out.")
    return strings


def _refused(name: str, problem: str, remedy: str) -> HandloomError:
    return RequestError(problem, remedy, setting=name)


_sampling = partial(setting, group="Sampling")
_fraction = partial(_sampling, None, above=0, at_most=1, remedy=_KEEP_ALL)
_penalty = partial(
    _sampling, 0.0, at_least=-100, at_most=100, remedy="0 changes nothing; OpenAI's own range is -2 to 2."
)
_extent = partial(setting, group="Search and length")


@dataclass(frozen=True, kw_only=True)
class SamplingParams(Settings):
    """How to choose the next token.

    The order is fixed. First what depends on the tokens generated before: logit_bias, repetition_penalty,
    frequency_penalty and presence_penalty, no_repeat_ngram_size, bad_words, then min_new_tokens and forced_eos of
    `GenerationConfig`. Then what depends on the logits alone: temperature, top_k, top_p, min_p, typical_p. Then a draw.
    """

    error: ClassVar[type[HandloomError]] = RequestError

    temperature: float = _sampling(
        0.8,
        "0 is greedy; higher is more random.",
        at_least=0,
        remedy="Use 0 for the likeliest text, around 0.8 for varied text.",
    )
    top_k: int | None = _sampling(None, "Choose among the k likeliest tokens only.", at_least=1, remedy=_KEEP_ALL)
    top_p: float | None = _fraction(
        "Choose among the fewest likeliest tokens whose probabilities sum to at least this."
    )
    min_p: float | None = _fraction("Choose among tokens at least this fraction as probable as the likeliest.")
    typical_p: float | None = _fraction(
        "Choose among the tokens whose NLL is nearest to the entropy, the fewest that hold this probability."
    )
    repetition_penalty: float = _sampling(
        1.0,
        "Above 1 makes tokens that are in the text, prompt included, less likely.",
        at_least=0.01,
        at_most=100,
        remedy="1 changes nothing; 1.1 to 1.3 is usual.",
    )
    frequency_penalty: float = _penalty("Subtracted from a token's logit for each time it is in the new text.")
    presence_penalty: float = _penalty("Subtracted from a token's logit once if it is in the new text at all.")
    no_repeat_ngram_size: int | None = _sampling(
        None,
        "Never write the same sequence of this many tokens twice.",
        at_least=1,
        remedy="Leave it out to allow repetitions.",
    )
    logit_bias: tuple[tuple[int | str, float], ...] = _sampling(
        (), "TOKEN=BIAS: add BIAS to the logit of a token, given by its id or its text.", convert=_biases
    )
    bad_words: tuple[str | tuple[int, ...], ...] = _sampling(
        (), "Never write this word's tokens, with a space before it or without.", convert=_words
    )


@dataclass(frozen=True, kw_only=True)
class GenerationConfig(SamplingParams):
    """How to continue: how far, how to choose, and what to do at the edge of the context."""

    max_new_tokens: int = _extent(100, "The most tokens to add.", at_least=1, remedy="Ask for one token or more.")
    min_new_tokens: int = _extent(0, "The model may not end the text before this many tokens.", at_least=0)
    stop: tuple[str, ...] = _extent(
        (), r"End the text where this string appears (\n: line break); may be given several times.", convert=_stops
    )
    seed: int = _extent(
        0,
        "The same seed gives the same text, whatever else is in its batch.",
        at_least=0,
        below=2**64,
        remedy="Use any whole number from 0 up.",
    )
    overflow: Literal["error", "slide"] = _extent(
        "error",
        "Text beyond the context: refuse it, or slide: go on from the context's last half.",
        choices=("error", "slide"),
    )
    forced_eos: bool = _extent(False, "The last of max_new_tokens is the end of text, whatever its logit.")
    num_beams: int = _extent(
        1,
        "Above 1: beam search for the likeliest whole text with this many hypotheses; nothing is drawn.",
        at_least=1,
        at_most=1000,
        remedy="Use 1 for sampling.",
    )
    length_penalty: float = _extent(
        1.0,
        "For beam search: above 0 favours longer texts, below 0 shorter ones.",
        at_least=-10,
        at_most=10,
        remedy="1 divides a text's log probability by its number of tokens.",
    )
    prompt_lookup_num_tokens: int | None = _extent(
        None,
        "Speculation for one text at a time: verify up to this many tokens at once, copied from where the last ones "
        "stood before. The text stays the same; slower passes are left out.",
        at_least=1,
        at_most=64,
        remedy="3 to 8 suits text that copies from its prompt.",
    )
    logprobs: int | None = setting(
        None,
        "Also give each new token's log probability, and this many likeliest alternatives.",
        at_least=0,
        remedy="Use 0 for the chosen tokens alone.",
        group="Output",
    )
    echo: bool = setting(False, "Also give the prompt's tokens, with their own log probabilities.", group="Output")
    eos_token_ids: tuple[int, ...] = ()
    """Tokens that end a text. `LanguageModel` fills in these three from its tokenizer."""
    vocab_size: int | None = None
    """How many ids the tokenizer has. A model may have more, so that its size is a round number: those are never
    chosen, though they have a probability. None: all of the model's."""
    unused_ids: tuple[int, ...] = ()
    """Ids below `vocab_size` that are never chosen either."""

    def check_together(self) -> None:
        """Raise RequestError where values that are allowed alone contradict each other."""
        most = f"from 0 to max_new_tokens, which is {self.max_new_tokens}"
        holds, remedy = self.min_new_tokens <= self.max_new_tokens, "Lower it, or raise `max_new_tokens`."
        self.require("min_new_tokens", holds, most, remedy)
        sampled = ("top_k", "top_p", "min_p", "typical_p", "prompt_lookup_num_tokens")
        drawn = [name for name in sampled if getattr(self, name)]
        if self.num_beams > 1 and drawn:
            raise RequestError(
                f"Beam search draws nothing, so {drawn[0]} cannot be combined with num_beams={self.num_beams}.",
                "Leave one of them out.",
                setting=drawn[0],
            )

    @classmethod
    def of(cls, **settings: Any) -> GenerationConfig:
        """The config with these settings, by our names or by those of transformers' generation_config.json.

        Raises:
            RequestError: for a setting that does not exist (the nearest that does is named) or is not supported, or a
                value that is not allowed.
        """
        return cls().changed(**settings)

    def changed(self, **settings: Any) -> GenerationConfig:
        """The same config with other settings; keys and errors as `of`."""
        settings = _from_transformers(settings)
        require_known(settings, [*setting_names(GenerationConfig), "eos_token_ids"], RequestError)
        return dataclasses.replace(self, **settings)

    @property
    def logits_key(self) -> tuple[Any, ...]:
        """What decides how logits become a token: sequences with equal keys are sampled in one call."""
        last = self.max_new_tokens if self.forced_eos else None
        ends = self.min_new_tokens, last, self.eos_token_ids, self.vocab_size, self.unused_ids
        return *(getattr(self, name) for name in setting_names(SamplingParams)), *ends


_RENAMED = {"stop_strings": "stop", "bad_words_ids": "bad_words", "eos_token_id": "eos_token_ids"}
_OFF_AT_ZERO = ("top_k", "min_p", "no_repeat_ngram_size", "prompt_lookup_num_tokens")  # None is off here
_NO_INFLUENCE = {
    "_from_model_config", "transformers_version", "bos_token_id", "pad_token_id", "use_cache",
    "return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states",
}  # fmt: skip
_NEUTRAL: dict[str, Any] = {
    "num_return_sequences": 1, "num_beam_groups": 1, "diversity_penalty": 0, "early_stopping": False, "min_length": 0,
    "epsilon_cutoff": 0, "eta_cutoff": 0, "guidance_scale": 1, "encoder_repetition_penalty": 1,
    "remove_invalid_values": False, "renormalize_logits": False,
}  # fmt: skip
"""transformers' settings that do not exist here -> the value that changes nothing."""
_REMEDY = {"max_length": "Use `max_new_tokens`, which does not count the prompt.", "num_return_sequences": "Use `n`."}


def _from_transformers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings by our names.

    Raises:
        RequestError: for a setting of transformers that would change the text and is not supported.
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if key in _NO_INFLUENCE or (key in _RENAMED and value is None):
            continue
        if key in _NEUTRAL or key == "max_length":
            if value is None or value == _NEUTRAL.get(key):
                continue
            raise RequestError(
                f"The setting {key} is {value!r}, which is not supported.",
                _REMEDY.get(key, "Leave it out."),
                setting=key,
            )
        if key in _OFF_AT_ZERO and value == 0 and "do_sample" in settings:
            value = None
        if key == "eos_token_id":
            value = tuple(value) if isinstance(value, Sequence) else (value,)
        found[_RENAMED.get(key, key)] = value
    if "do_sample" in found:
        found["temperature"] = found.get("temperature", 1.0) if found.pop("do_sample") else 0.0
    return found


def require_count(n: object) -> int:
    """The number of texts as a Python int; raises RequestError for anything but a whole number of at least 1."""
    n = plain(n)
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise RequestError(
            f"n is {n!r}; it must be a whole number of at least 1.", "Ask for one text or more.", setting="n"
        )
    return n


def require_streamable(config: GenerationConfig) -> None:
    """Raise RequestError for a config whose text is only known as a whole."""
    if config.num_beams > 1:
        raise RequestError(
            "Beam search chooses a text when it is complete, so it cannot be streamed.",
            "Leave out `stream`, or `num_beams`.",
            setting="num_beams",
        )
