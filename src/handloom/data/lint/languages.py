"""Script and likely language of a text, estimated by hand: Unicode's names of letters, and a few dozen common words.

An estimate, good for a histogram of many texts and not for a single short one. The script is certain. The language is
what most of the common words belong to, or "unclear": languages whose words are not listed here are never named, and
close ones (Danish and Norwegian, say) are one. Code is mostly "English" or "unclear", by its comments and names.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache

SAMPLE = 2000
"""Characters from the beginning of a text that are looked at."""

_COMMON_WORDS = {
    "English": "the of and to in is that it for was with as his on be at by this had not are but from have they "
    "which you were what how your can will do a i",
    "German": "der die und das ist nicht ich sie es den mit von zu dem auf ein eine im wie für sich auch wird aus "
    "was sind hat werden bei einen oder",
    "French": "le la les de et des est un une du que dans qui pour pas sur au ce il plus par avec sont vous je ne "
    "nous comment quelle aux cette",
    "Spanish": "el la los de que y en un una es las por con para se del no su al lo como más pero sus le qué son "
    "está hay muy",
    "Portuguese": "o a os de que e em um uma é as por com para se do da não no na mais como mas ao dos das são você "
    "foi ou está",
    "Italian": "il la di che e è un una in non per del si sono con i le da della come più gli questo al alla ma nel "
    "anche lo cosa",
    "Dutch": "de het een en van is dat niet ik je te zijn op voor met die er aan wat ook hij maar om hoe naar door "
    "wordt bij uit ze",
    "Scandinavian": "och att det som en är på inte jag för med av har den till om ett var kan og er ikke på i du de "
    "et til på hvordan vad",
    "Polish": "i w nie na się z że do jest to jak o co po ale za od czy dla przez są ma tym już który tak oraz jego "
    "być",
    "Czech": "a je v se na že to s z do o jak ale za pro co jsem by jsou ve které po který od nebo při není jako být",
    "Turkish": "bir ve bu da de için ne mi ile çok ama o gibi daha olarak var değil en kadar ben sen olan nasıl "
    "sonra mı ki her",
    "Finnish": "ja on ei se että oli hän mutta ole kun mitä joka niin myös ovat tai olen kuin sen minä voi miten "
    "tämä jos mikä",
    "Indonesian": "yang dan di itu dengan untuk tidak ini dari dalam akan pada adalah saya ke kami mereka bisa ada "
    "apa anda oleh sebuah atau",
    "Russian": "и в не на что я он с как это по но из у за то от для бы так же все его она было мы вы или есть где",
    "Ukrainian": "і в не на що я з як це та до але за від для у він його вона ми ви або є де бути був також які цей",
    "Bulgarian": "и на да в се не е за от че с са как но си като по това до ще са един или при след беше има",
}
_LANGUAGES_OF: dict[str, list[str]] = {}  # word -> languages in which it is common
for _language, _words in _COMMON_WORDS.items():
    for _word in set(_words.split()):
        _LANGUAGES_OF.setdefault(_word, []).append(_language)

_OWN_SCRIPT = {"Thai", "Greek", "Hebrew", "Armenian", "Georgian", "Khmer", "Lao", "Tamil", "Telugu", "Tibetan"}
"""Scripts that hardly more than one language is written in, so that to name both would say the same twice."""
_SCRIPTS = {"Cjk": "Han", "Katakana-hiragana": "Hiragana"}
_WORD = re.compile(r"\b[^\W\d_]+\b")


def script_and_language(text: str) -> str:
    """For example "Latin: English", "Cyrillic: unclear", "Japanese", "Thai" or "no letters".

    Args:
        text: of which the first `SAMPLE` characters are looked at.
    """
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
    if script in ("Latin", "Cyrillic"):
        return f"{script}: {_language_of(sample)}"
    named = {"Han": "Chinese", "Hangul": "Korean"}
    return named.get(script, script if script in _OWN_SCRIPT else f"{script}: unclear")


def _language_of(sample: str) -> str:
    """The language that most common words are of: two different ones, and one in eight words, at least."""
    words = _WORD.findall(sample.casefold())
    hits = Counter(language for word in words for language in _LANGUAGES_OF.get(word, ()))
    first, second = [*hits.most_common(2), ("", 0), ("", 0)][:2]
    different = sum(first[0] in _LANGUAGES_OF.get(word, ()) for word in set(words))
    enough = different >= 2 and first[1] * 8 >= len(words)
    return first[0] if enough and first[1] > second[1] else "unclear"


@lru_cache(maxsize=4096)
def _script_of(character: str) -> str:
    """The first word of a letter's name in Unicode, which is that of its script; of all else nothing."""
    if not character.isalpha():
        return ""
    first = unicodedata.name(character, "").partition(" ")[0].capitalize()
    return _SCRIPTS.get(first, first)
