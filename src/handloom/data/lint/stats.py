"""What a check counts next to its findings: lengths, languages, labels, the split.

The script of a text is certain. Its language is an estimate from some twenty common words, good for a histogram of many
texts, not for a single short one: the one that most of them belong to, or "unclear". Other languages are never named,
and close ones (Danish and Norwegian) are one. Code is mostly "English" or "unclear", by its comments and names.
"""

from __future__ import annotations

import math
import re
import unicodedata
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from handloom.data.chunking import Separation
from handloom.data.omissions import Omissions
from handloom.data.split import SPLITS

PERCENTILES = (50, 90, 99)
_ROWS = 10  # of a histogram with steps of one size
SAMPLE = 2000  # characters from the beginning of a text that are used

_COMMON_WORDS = {
    "English": "the of and to in is that it for was with as his on be at by this had not are but from have they which",
    "German": "der die und das ist nicht ich sie es den mit von zu dem auf ein eine im wie für sich auch wird aus was",
    "French": "le la les de et des est un une du que dans qui pour pas sur au ce il plus par avec sont vous je ne nous",
    "Spanish": "el la los de que y en un una es las por con para se del no su al lo como más pero sus le qué son está",
    "Portuguese": "o a os de que e em um uma é as por com para se do da não no na mais como mas ao dos das são você",
    "Italian": "il la di che e è un una in non per del si sono con i le da della come più gli questo al alla ma nel",
    "Dutch": "de het een en van is dat niet ik je te zijn op voor met die er aan wat ook hij maar om hoe naar door",
    "Scandinavian": "och att det som en är på inte jag för med av har den till om ett var kan og er ikke i du de et",
    "Polish": "i w nie na się z że do jest to jak o co po ale za od czy dla przez są ma tym już który tak oraz jego",
    "Czech": "a je v se na že to s z do o jak ale za pro co jsem by jsou ve které po který od nebo při není jako být",
    "Turkish": "bir ve bu da de için ne mi ile çok ama o gibi daha olarak var değil en kadar ben sen olan nasıl sonra",
    "Finnish": "ja on ei se että oli hän mutta ole kun mitä joka niin myös ovat tai olen kuin sen minä voi miten tämä",
    "Indonesian": "yang dan di itu dengan untuk tidak ini dari dalam akan pada adalah saya ke kami mereka bisa ada apa",
    "Russian": "и в не на что я он с как это по но из у за то от для бы так же все его она было мы вы или есть где",
    "Ukrainian": "і в не на що я з як це та до але за від для у він його вона ми ви або є де бути був також які цей",
    "Bulgarian": "и на да в се не е за от че с са как но си като по това до ще един или при след беше има",
}
_LANGUAGES_OF = {
    word: [language for language, words in _COMMON_WORDS.items() if word in words.split()]
    for word in set(" ".join(_COMMON_WORDS.values()).split())
}
_OWN_SCRIPT = {"Thai", "Greek", "Hebrew", "Armenian", "Georgian", "Khmer", "Lao", "Tamil", "Telugu", "Tibetan"}
"""Scripts of hardly more than one language, so that naming both would be redundant."""
_NAMED = {script: script for script in _OWN_SCRIPT} | {"Han": "Chinese", "Hangul": "Korean"}
_SCRIPTS = {"Cjk": "Han", "Katakana-hiragana": "Hiragana"}
_WORD = re.compile(r"\b[^\W\d_]+\b")


class Lengths:
    """Lengths of texts in tokens."""

    def __init__(self) -> None:
        self._all = array("I")

    def add(self, length: int) -> None:
        """One more text."""
        self._all.append(length)

    def __len__(self) -> int:
        return len(self._all)

    def histogram(self) -> list[tuple[int, int, int]]:
        """Rows of (least length, greatest length, texts), from the shortest text to the longest without a gap.

        The steps are of one size where the longest text is at most ten times the shortest, and double otherwise.
        """
        ordered = sorted(self._all)
        edges = _edges(ordered[0], ordered[-1]) if ordered else []
        below = [bisect_left(ordered, edge) for edge in edges]
        return [(edges[n], edges[n + 1] - 1, below[n + 1] - below[n]) for n in range(len(edges) - 1)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; without any text, only that there is none."""
        ordered = sorted(self._all)
        if not ordered:
            return {"texts": 0, "tokens": 0}
        values: dict[str, Any] = {"texts": len(ordered), "tokens": sum(ordered), "least": ordered[0]}
        for percent in PERCENTILES:  # the least length that at least so many texts do not exceed
            values[f"p{percent}"] = ordered[math.ceil(len(ordered) * percent / 100) - 1]
        rows = [{"from": low, "to": high, "texts": n} for low, high, n in self.histogram()]
        return {**values, "greatest": ordered[-1], "histogram": rows}


@dataclass
class DataStats:
    """What a check counts next to its findings; complete when the findings have been taken."""

    texts: int = 0  # documents or examples that could be read
    policy: str = ""  # how text is split; examples are split one by one
    sides: list[int] = field(default_factory=lambda: [0, 0])  # documents or examples to learn from, and held out
    tokens: list[int] = field(default_factory=lambda: [0, 0])
    sizes: list[int] = field(default_factory=lambda: [0, 0])
    """Tokens and UTF-8 bytes of running text, to learn from and held out."""
    lengths: Lengths = field(default_factory=Lengths)  # of each in tokens; of a pair that of its longer text
    languages: Counter[str] = field(default_factory=Counter)
    labels: dict[str, list[int]] = field(default_factory=dict)  # of each label the texts to learn from, and held out
    separation: Separation | None = None  # of documents within text files
    omissions: Omissions = field(default_factory=Omissions)  # what a run would leave out

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        values: dict[str, Any] = {"texts": self.texts, "split": _by_split(self.sides)}
        if self.policy:
            values["split"] |= {"policy": self.policy, "tokens": _by_split(self.tokens)}
        values |= {"lengths": self.lengths.to_dict(), "languages": dict(self.languages.most_common())}
        values["omitted"] = self.omissions.to_dict()
        if self.separation is not None:
            values["separation"] = self.separation.to_dict()
        if self.labels:
            values["labels"] = {label: _by_split(numbers) for label, numbers in self.labels.items()}
        return values


def _by_split(numbers: Sequence[int]) -> dict[str, int]:
    return dict(zip(SPLITS, numbers, strict=True))


def _edges(least: int, greatest: int) -> list[int]:
    """Where rows begin, and where the last one ends; the last edge is above `greatest`."""
    if greatest <= 10 * max(least, 1):
        step = (greatest - least + 1) / _ROWS
        power = 10 ** max(0, math.floor(math.log10(max(step, 1))))
        width = next(power * times for times in (1, 2, 5, 10) if power * times >= step)
        return list(range(least // width * width, greatest + width + 1, width))
    edges = [1 << max(0, least.bit_length() - 1) if least else 0]
    while edges[-1] <= greatest:
        edges.append(max(1, edges[-1] * 2))
    return edges


def script_and_language(text: str) -> str:
    """For example "Latin: English", "Cyrillic: unclear", "Japanese", "Thai" or "no letters"."""
    sample = text[:SAMPLE]
    scripts = Counter(script for c in sample if (script := _script_of(c)))
    if not scripts:
        return "no letters"
    total = scripts.total()
    if (scripts["Hiragana"] + scripts["Katakana"]) * 20 >= total:  # much of it may be Han, and Latin
        return "Japanese"
    script, letters = scripts.most_common(1)[0]
    if letters * 10 < total * 6:
        return "several scripts"
    language = _language_of(sample) if script in ("Latin", "Cyrillic") else "unclear"
    return _NAMED.get(script, f"{script}: {language}")


def _language_of(sample: str) -> str:
    """The language that most common words are of: two different ones, and one in eight words, at least."""
    words = _WORD.findall(sample.casefold())
    hits = Counter(language for word in words for language in _LANGUAGES_OF.get(word, ()))
    first, second = [*hits.most_common(2), ("", 0), ("", 0)][:2]
    different = sum(first[0] in _LANGUAGES_OF.get(word, ()) for word in set(words))
    return first[0] if different >= 2 and first[1] * 8 >= len(words) and first[1] > second[1] else "unclear"


@lru_cache(maxsize=4096)
def _script_of(character: str) -> str:
    """The first word of a letter's name in Unicode, which is that of its script; of all else nothing."""
    first = unicodedata.name(character, "").partition(" ")[0].capitalize() if character.isalpha() else ""
    return _SCRIPTS.get(first, first)
