"""What was measured of a text as a table in which each row says what is divided by what, and why rows differ."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from handloom.evaluation.perplexity import PerplexityResult, StrideResult


@dataclass(frozen=True)
class Row:
    """One line: a name, and a number for each reading. A line without numbers is a heading."""

    key: str
    """For programs."""
    name: str
    values: tuple[float, ...] = ()


def rows(measured: PerplexityResult) -> list[Row]:
    """The table's lines, a number for each reading; a perplexity too large for a float is infinite."""
    of = measured.original
    benchmark = measured.convention.detokenize != "none"

    def row(key: str, name: str, value: Any) -> Row:
        return Row(key, name, tuple(value(reading) for reading in measured.readings))

    def bits(reading: StrideResult) -> float:
        return reading.nats / math.log(2)

    found = [
        Row("", "made of"),
        row("read_before", "read before a token, at least", lambda r: measured.context_length - r.stride + 1),
        row("nats", "nats of surprise", lambda r: r.nats),
        row("tokens", "tokens", lambda r: r.counts.tokens),
        row("words", "words", lambda r: of.words),
        benchmark and row("lines", "line ends", lambda r: of.lines),
        row("characters", "characters", lambda r: of.characters),
        row("bytes", "bytes", lambda r: of.bytes),
        benchmark and row("bytes_read", "bytes as they are read", lambda r: r.counts.bytes),
        Row("", "perplexity"),
        row("token_perplexity", "per token: exp(nats / tokens)", lambda r: _exp(r.nats_per_token)),
        row("token_perplexity_error", "  its standard error", lambda r: r.standard_error * _exp(r.nats_per_token)),
        row("word_perplexity", "per word: exp(nats / words)", lambda r: _exp(_over(r.nats, of.words))),
        benchmark
        and row(
            "word_and_line_perplexity",
            "per word or line end: exp(nats / both)",
            lambda r: _exp(_over(r.nats, of.words + of.lines)),
        ),
        Row("", "nats"),
        row("nats_per_token", "per token: nats / tokens", lambda r: r.nats_per_token),
        row("nats_per_token_error", "  its standard error", lambda r: r.standard_error),
        Row("", "bits = nats / ln 2"),
        row("bits_per_character", "per character: bits / characters", lambda r: _over(bits(r), of.characters)),
        row("bits_per_byte", "per byte: bits / bytes", lambda r: _over(bits(r), of.bytes)),
        benchmark and row("bits_per_byte_read", "  as it is read", lambda r: _over(bits(r), r.counts.bytes)),
    ]
    return [one for one in found if one]


def heads(measured: PerplexityResult) -> list[str]:
    """A title for each reading."""
    form = {True: "ordinary\n", False: "as it is\n"} if measured.convention.detokenize != "none" else {}
    return [f"{form.get(r.ordinary, '')}stride {r.stride:,}" for r in measured.readings]


def shown(value: float) -> str:
    """A number as it stands in the table."""
    if math.isnan(value):
        return "-"
    if abs(value) >= 1e9:
        return f"{value:.4g}"
    if value == int(value) or abs(value) >= 1e6:
        return f"{value:,.0f}"
    return f"{value:,.4f}" if abs(value) < 100 else f"{value:,.2f}"


def reasons(measured: PerplexityResult) -> list[str]:
    """Why the numbers differ, and what they hold for."""
    return [
        text
        for text in (
            _by_words(measured),
            _by_stride(measured),
            _by_form(measured),
            _by_beginning(measured),
            _by_chance(measured),
        )
        if text
    ]


def as_json(measured: PerplexityResult) -> dict[str, Any]:
    """Everything for programs; what is no finite number is None."""
    numbers = {row.key: row.values for row in rows(measured) if row.key}
    return {
        "convention": dataclasses.asdict(measured.convention),
        "context_length": measured.context_length,
        "documents": measured.original.documents,
        "standard_error_over": measured.over,
        "readings": [
            {
                "ordinary_text": reading.ordinary,
                "stride": reading.stride,
                "units": reading.units,
                "lines_lost": reading.counts.lines_lost,
                **{key: _finite(values[at]) for key, values in numbers.items()},
            }
            for at, reading in enumerate(measured.readings)
        ],
    }


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def _over(amount: float, count: int) -> float:
    return amount / count if count > 0 else math.nan


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _by_words(measured: PerplexityResult) -> str:
    last, words = measured.readings[-1], measured.original.words
    if words < 1:
        return ""
    share = last.counts.tokens / words
    form = " of ordinary text" if last.ordinary else ""
    return (
        f"A word takes {share:.3f} tokens{form} here, so the perplexity per word is the one per token to the power of "
        f"{share:.3f}."
    )


def _by_stride(measured: PerplexityResult) -> str:
    same = [r for r in measured.readings if r.ordinary == measured.readings[-1].ordinary]
    wide, narrow = max(same, key=lambda r: r.stride), min(same, key=lambda r: r.stride)
    if wide is narrow:
        return ""
    return (
        f"With stride {wide.stride:,} a token may be predicted from {measured.context_length - wide.stride + 1:,} "
        "before it, "
        f"with stride {narrow.stride:,} from at least {measured.context_length - narrow.stride + 1:,} as soon as "
        "there are "
        f"that many: {wide.nats_per_token - narrow.nats_per_token:+.4f} nats a token between the two."
    )


def _by_form(measured: PerplexityResult) -> str:
    readings: list[StrideResult] = [r for r in measured.readings if r.ordinary]
    if not readings:
        return ""
    now, before = readings[0].counts, measured.readings[0].counts
    lost = "every line can be had back"
    if now.lines_lost:
        lost = f"{now.lines_lost:,} of {now.lines:,} lines cannot be had back exactly"
    return (
        f"As ordinary text the {measured.convention.detokenize} file has {now.tokens:,} tokens instead of "
        f"{before.tokens:,}; {lost}. Words, line ends, characters and bytes are those of the file."
    )


def _by_beginning(measured: PerplexityResult) -> str:
    how = measured.convention
    one = measured.original.documents == 1
    each = "each document" if how.documents == "alone" and not one else "the text"
    if how.begin:
        kept = "" if one else " They are read one behind the other." if how.documents == "joined" else ""
        before = "each document" if not one else "the text"
        return f"An end of text stands before {before}; it is read and not counted.{kept}"
    return f"Nothing stands before {each}: its first token is not predicted, and not counted in any unit."


def _by_chance(measured: PerplexityResult) -> str:
    units = measured.readings[0].units
    if units < 2:
        return "The text is too short for a standard error, which takes several documents or stretches of one context."
    if measured.over == "documents":
        return f"Standard errors are over {units:,} documents: tokens of one are not independent of each other."
    return (
        f"Standard errors are over {units:,} stretches of {measured.context_length:,} tokens, since tokens are not "
        "independent of their neighbours; stretches of one text are not quite either."
    )
