"""Benchmarks that were cut into words become ordinary text again, line by line, and back.

WikiText, Penn Treebank and LAMBADA come with spaces around punctuation and with contractions in two parts: text that
no model met while it learned. GPT-2 was measured on text put together again by "invertible de-tokenizers" (Radford et
al. 2019, section 3.1, which does not publish them). These are ours, so numbers will not agree to the last digit. Where
`retokenize` gives the line back, nothing was lost, and the surprise at the new text is that at the old one.

Knows strings only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

_ENDINGS = ("'s", "'m", "'d", "'re", "'ve", "'ll")
_ABBREVIATION = re.compile(r"(?:\w\.)+|(?:mrs?|ms|drs?|st|vs|jr|sr|vol|gen|col|lt|capt|sgt|rev|co|corp)\.", re.I)


@dataclass(frozen=True)
class Form:
    """How a data set is written. Each table says how a token of its own is written in ordinary text.

    Written text is taken apart by the same tables, so a token is recovered unless it looks like two, as `etc.` does at
    the end of a sentence.
    """

    edges: bool = False
    """Each line begins and ends with a space."""
    openers: Mapping[str, str] = field(default_factory=dict)
    """Joined to the token after them."""
    closers: Mapping[str, str] = field(default_factory=dict)
    """Joined to the token before them."""
    endings: tuple[str, ...] = ()
    """Ends of words, such as 's; joined to the token before them."""
    joints: Mapping[str, str] = field(default_factory=dict)
    """Joined on both sides."""
    numeric: frozenset[str] = frozenset()
    """What is written for a joint only between digits."""
    by_turns: str = ""
    """A mark that opens and closes by turns."""
    runs: str = ""
    """A mark of headings, whose repetitions are joined."""

    @cached_property
    def _joint_pattern(self) -> re.Pattern[str] | None:
        places = [
            rf"(?<=\d){re.escape(mark)}(?=\d)"
            if mark in self.numeric
            else rf"(?<=[^\s{re.escape(mark)}]){re.escape(mark)}(?=[^\s{re.escape(mark)}])"
            for mark in self.joints.values()
        ]
        return re.compile(f"({'|'.join(places)})") if places else None

    @cached_property
    def _tokens(self) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
        """What is written for openers, closers and joints, and the tokens that stand for it."""
        kinds = (self.openers, self.closers, self.joints)
        opening, closing, joining = ({written: token for token, written in kind.items()} for kind in kinds)
        if self.by_turns:
            opening[self.by_turns] = closing[self.by_turns] = self.by_turns
        return opening, closing, joining

    def join(self, tokens: list[str]) -> str:
        """One line's tokens as ordinary text."""
        text, glued, opened = "", True, False
        for token in tokens:
            before = after = False
            if self.by_turns and token == self.by_turns:
                before, after, opened = opened, not opened, not opened
            elif token in self.joints:
                before = after = True
            else:
                before = token in self.closers or token in self.endings
                before = before or (token != "" and token == self.runs and text.endswith(token))
                after = token in self.openers
            written = self.openers.get(token) or self.closers.get(token) or self.joints.get(token) or token
            text += written if glued or before else f" {written}"
            glued = after
        return text

    def split(self, text: str) -> list[str]:
        """The tokens of a line of ordinary text."""
        return [token for word in text.split(" ") for token in self._parts(word)]

    def _parts(self, word: str) -> list[str]:
        if self.runs and word and not word.strip(self.runs):
            return list(word)
        if self._joint_pattern is None:
            return self._stripped(word)
        pieces = self._joint_pattern.split(word)
        found = self._stripped(pieces[0])
        for joint, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            found += [self._tokens[2][joint], *self._stripped(piece)]
        return found

    def _stripped(self, word: str) -> list[str]:
        """A word without joints: what opens, the word itself, what ends and closes it."""
        opening, closing, _ = self._tokens
        front: list[str] = []
        behind: list[str] = []
        while len(word) > 1 and word[0] in opening:
            front.append(opening[word[0]])
            word = word[1:]
        while len(word) > 1 and not _ABBREVIATION.fullmatch(word):
            ending = next((e for e in self.endings if word.endswith(e) and len(word) > len(e)), "")
            if ending:
                behind.append(ending)
            elif word[-1] in closing:
                behind.append(closing[word[-1]])
            else:
                break
            word = word[: -len(ending or " ")]
        return [*front, word, *reversed(behind)]


def _as_they_are(marks: str) -> dict[str, str]:
    return {mark: mark for mark in marks}


FORMS = {
    "wikitext": Form(
        edges=True,
        openers=_as_they_are("([{$£€#"),
        closers=_as_they_are(",.;:!?)]}%'"),
        endings=(*_ENDINGS, "'t"),  # it writes "didn 't", the others "did n't"
        joints={"@-@": "-", "@,@": ",", "@.@": ".", "/": "/", "°": "°"},
        numeric=frozenset(",."),
        by_turns='"',
        runs="=",
    ),
    # Without punctuation; <unk> stays, and N stands for every number.
    "ptb": Form(edges=True, openers=_as_they_are("$#"), closers=_as_they_are("%'"), endings=("n't", *_ENDINGS)),
    "lambada": Form(
        openers={"``": '"', "`": "'", **_as_they_are("($")},
        closers={"''": '"', **_as_they_are(",.;:!?)%'")},
        endings=("n't", *_ENDINGS),
    ),
}
"""What `--detokenize` knows."""


def detokenize(form: Form, text: str) -> str:
    """Ordinary text from whole lines of a benchmark; what stands on one line depends on no other."""
    return "\n".join(_line(form, line) for line in text.split("\n"))


def retokenize(form: Form, text: str) -> str:
    """The other way round."""
    lines = text.split("\n")
    # Behind the last line end there is no line.
    last = len(lines) - 1
    return "\n".join("" if at == last and at and not line else _back(form, line) for at, line in enumerate(lines))


def _line(form: Form, line: str) -> str:
    if form.edges:
        line = line.removeprefix(" ").removesuffix(" ")
    return form.join(line.split(" "))


def _back(form: Form, line: str) -> str:
    if not line:
        return " " if form.edges else ""
    joined = " ".join(form.split(line))
    return f" {joined} " if form.edges else joined
