"""What the linter is made of: odd characters, copies, lengths and languages, each against another way to the same."""

from __future__ import annotations

import math
import random
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.data.lint.near_duplicates import Fingerprint, NearDuplicates
from handloom.data.lint.stats import PERCENTILES, Lengths, script_and_language
from handloom.data.lint.text_checks import text_problems
from handloom.tokenizer.base import END_OF_TEXT
from handloom.tokenizer.chat import ROLES, header_of

# Odd characters


PLAIN = st.text(st.characters(codec="ascii", categories=["L", "N", "Zs"], include_characters=".,;:!?\n\t"))
ODD = {
    "control": ["\0", "\x1b", "\x7f", "\x85", "\x9f", "\u2028"],
    "bidi": ["\u202e", "\u2066", "\u2069"],
    "invisible": ["\u200b", "\ufeff", "\u00ad", "\u200f", "\U000e0041"],
    "replacement": ["\ufffd"],
    "special-token": [END_OF_TEXT, "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<pad>", "[MASK]"],
}


@given(before=PLAIN, after=PLAIN, odd=st.sampled_from([(k, o) for k, odds in ODD.items() for o in odds]))
def test_what_is_odd_is_found_where_it_stands(before, after, odd):
    assert list(text_problems(before + after)) == []
    ((kind, start, _),) = text_problems(before + odd[1] + after)
    assert (kind, start) == (odd[0], len(before))


# Two letters that begin a character of UTF-8, each with signs right behind that could go on with it: no real text has
# that, so it counts as decoded wrongly.
TWICE = re.compile("(?:[éàñçß][€’“”–…]+){2}")


def mojibake(text):
    return [detail for kind, _, detail in text_problems(text) if kind == "mojibake"]


@pytest.mark.parametrize(("text", "found"), [("ß–", 0), ("ß– ß–", 0), ("ß–a", 0), ("ß–ß–", 1), ("ß–ß–ß–", 1)])
def test_a_letter_that_real_text_may_hold_counts_only_with_a_second_right_behind_it(text, found):
    assert len(mojibake(text)) == found


@given(text=st.text(st.sampled_from("éàüñçß€’“”–…日本語Жя ab\n"), min_size=1))
def test_what_was_decoded_wrongly_is_found_and_what_was_not_is_not(text):
    assert mojibake(text) == [] or TWICE.search(text)
    wrong = "".join(bytes([b]).decode("cp1252") if b not in UNDEFINED else chr(b) for b in text.encode())
    found = mojibake(wrong)
    sure = [c for c in text if c in "éàüñçß€’“”–…"]
    assert len(found) >= len(sure)
    for detail in found:
        assert any(f'perhaps "{c}"' in detail for c in text)


UNDEFINED = (0x81, 0x8D, 0x8F, 0x90, 0x9D)


def test_a_turn_of_the_template_is_odd_only_inside_a_conversation():
    for role in ROLES:
        text = f"Hello.\n{header_of(role)}Hi."
        assert list(text_problems(text)) == []
        ((_, start, _),) = text_problems(text, turns=True)
        assert start == 7


def test_names_are_those_of_unicode():
    details = [detail for _, _, detail in text_problems("\x07\x01\u202e\u200b")]
    assert details == ["U+0007 BEL", "U+0001", "U+202E RIGHT-TO-LEFT OVERRIDE", "U+200B ZERO WIDTH SPACE"]


# Copies


def print_of(text):
    reading = Fingerprint()
    reading.add(text)
    return reading


def shingles(words):
    return {tuple(words[n : n + 3]) for n in range(len(words) - 2)}


def test_texts_that_share_four_fifths_are_found_and_others_are_not():
    """By the definition, on texts that share from nearly nothing to nearly all."""
    chance = random.Random(5)
    copies, shares = NearDuplicates(), {}
    for number in range(300):
        words = [f"w{chance.randrange(10**6)}" for _ in range(chance.randrange(40, 400))]
        changed = [f"x{n}" if chance.random() < number / 1500 else word for n, word in enumerate(words)]
        copies.add(2 * number, print_of(" ".join(words)))
        copies.add(2 * number + 1, print_of(" ".join(changed)))
        first, second = shingles(words), shingles(changed)
        shares[number] = len(first & second) / len(first | second)
    same = {pair[0] // 2 for pair in copies.exact}
    found = {earlier // 2: share for number, earlier, share in copies.similar() if number == earlier + 1}
    assert len(found) == len(list(copies.similar()))
    for number, share in shares.items():
        if share > 0.95:
            assert number in found or number in same
        if number in found:
            assert share == pytest.approx(found[number], abs=0.2)
            assert share > 0.65
    assert sum(share > 0.95 for share in shares.values()) > 5
    assert sum(share < 0.6 for share in shares.values()) > 100


def test_similar_texts_need_no_spaces():
    copies = NearDuplicates()
    text = "織機は布を織るための道具であり、昔から世界中で使われてきたものです。" * 2
    copies.add(0, print_of(text))
    copies.add(1, print_of(text + "ね"))
    assert [pair[:2] for pair in copies.similar()] == [(1, 0)]


@given(st.lists(st.text("ab \n\t", max_size=30), max_size=6))
def test_a_print_does_not_depend_on_the_pieces(pieces):
    pieces = [f" {piece}" for piece in pieces]
    reading, whole = Fingerprint(), print_of("".join(pieces))
    for piece in pieces:
        reading.add(piece)
    assert (reading.exact, reading.loose, reading.signature) == (whole.exact, whole.loose, whole.signature)


# Lengths and languages


@given(st.lists(st.integers(0, 3000), min_size=1))
def test_lengths_are_counted(numbers):
    lengths = Lengths()
    for number in numbers:
        lengths.add(number)
    rows = lengths.histogram()
    assert sum(n for _, _, n in rows) == len(numbers)
    for low, high, n in rows:
        assert n == sum(low <= number <= high for number in numbers)
    assert all(after[0] == before[1] + 1 for before, after in pairwise(rows))
    assert rows[0][2] or rows[0][0] < min(numbers) <= rows[1][0]
    assert len(rows) <= 14
    told = lengths.to_dict()
    for share in PERCENTILES:
        assert told[f"p{share}"] == sorted(numbers)[math.ceil(len(numbers) * share / 100) - 1]
        assert told[f"p{share}"] == np.percentile(numbers, share, method="inverted_cdf")
    assert (told["least"], told["greatest"], told["tokens"]) == (min(numbers), max(numbers), sum(numbers))


SENTENCES = {
    "Latin: English": "The weaver goes to the house by the river, and what she makes there is for the people.",
    "Latin: German": "Der Weber geht nicht in die Stadt, weil er mit dem Webstuhl auf dem Hof arbeitet.",
    "Latin: French": "Le tisserand est dans la maison et il travaille avec les fils que nous avons pour lui.",
    "Latin: Spanish": "El tejedor está en la casa y trabaja con los hilos que le dan por la mañana.",
    "Latin: Portuguese": "O tecelão não está em casa, mas os fios são do homem que mora ao lado.",
    "Latin: Italian": "Il tessitore non è in casa, ma i fili che sono nel cortile sono per il suo lavoro.",
    "Latin: Dutch": "De wever is niet in het huis, maar hij werkt met een draad die van zijn vader is.",
    "Latin: Scandinavian": "Vävaren är inte i huset, men han har en tråd som är av det som han fick.",
    "Latin: Polish": "Tkacz nie jest w domu, ale się mówi, że to jest dla niego jak praca.",
    "Latin: Czech": "Tkadlec je v domě a má nitě, které jsou pro něj, ale není to jako práce.",
    "Latin: Turkish": "Bu dokumacı çok çalışır ve bir ip için eve gelir, ama ne kadar yorgun olan biri gibi.",
    "Latin: Finnish": "Kutoja ei ole kotona, mutta hän on töissä ja langat ovat niin kuin se oli.",
    "Latin: Indonesian": "Penenun itu tidak ada di rumah, dan benang yang dia pakai untuk kain adalah dari desa.",
    "Cyrillic: Russian": "Ткач не дома, но он сказал, что это для него как работа, и все так было.",
    "Cyrillic: Ukrainian": "Ткач не вдома, але він сказав, що це для нього як робота, та й вона є.",
    "Cyrillic: Bulgarian": "Тъкачът не е в къщата, но той каза, че това е за него като работа, и се върна.",
    "Chinese": "织工在家里用织布机工作。",
    "Japanese": "織り手は家で機織りをしています。",
    "Korean": "직공은 집에서 베틀로 일합니다.",
    "Greek": "Ο υφαντής δουλεύει στο σπίτι.",
    "Thai": "ช่างทอผ้าทำงานที่บ้าน",
    "Arabic: unclear": "يعمل النساج في البيت",
    "Devanagari: unclear": "बुनकर घर पर काम करता है",
    "Latin: unclear": "W w w w w1 w2 w3 y y y",
    "no letters": "12 + 30 = 42",
    "several scripts": "loom织布机 ткач 织布机 Ткач weave",
}  # fmt: skip


@pytest.mark.parametrize("wanted", SENTENCES)
def test_script_and_likely_language(wanted):
    assert script_and_language(SENTENCES[wanted]) == wanted
