"""Benchmarks that were cut into words become ordinary text, line by line, and back. Knows strings only.

WikiText, Penn Treebank and LAMBADA come with spaces around punctuation and with contractions in two parts, which no
model met in training. GPT-2 was measured on text put together by "invertible de-tokenizers" (Radford et al. 2019,
section 3.1), which were not published. These rules are ours, so numbers differ in the last digits. Where `retokenize`
gives the line back, nothing was lost, and the NLL of the new text is that of the old one.
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
    """How a data set is written: tables from a token of its own to what ordinary text has for it.

    Ordinary text is taken apart by the same tables, so a token is recovered unless it looks like two, as `etc.` does at
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
    numeric: str = ""
    """What is written for a joint only between digits."""
    by_turns: str = ""
    """A mark that opens and closes by turns."""
    runs: str = ""
    """A mark of headings, whose repetitions are joined."""

    @cached_property
    def _tokens(self) -> list[dict[str, str]]:
        """The tokens of openers, closers and joints, by what is written for them."""
        turns = {self.by_turns: self.by_turns} if self.by_turns else {}
        tables = (self.openers, self.closers, self.joints)
        return [{written: token for token, written in table.items()} | turns for table in tables]

    @cached_property
    def _joint(self) -> re.Pattern[str]:
        """A joint between two parts of a word; matches nothing where there are none."""
        places = []
        for mark in map(re.escape, self.joints.values()):
            sides = (r"(?<=\d)", r"(?=\d)") if mark[-1] in self.numeric else (rf"(?<=[^\s{mark}])", rf"(?=[^\s{mark}])")
            places.append(mark.join(sides))
        return re.compile(f"({'|'.join(places) or '(?!)'})")

    def join(self, tokens: list[str]) -> str:
        """One line's tokens as ordinary text."""
        text, glued, opened = "", True, False
        for token in tokens:
            before, after = token in self.closers or token in self.endings, token in self.openers
            if self.by_turns and token == self.by_turns:
                before, after, opened = opened, not opened, not opened
            elif token in self.joints:
                before = after = True
            elif token and token == self.runs and text.endswith(token):
                before = True
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
        pieces = self._joint.split(word)  # parts and the joints between them, by turns
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
            if not ending and word[-1] not in closing:
                break
            behind.append(ending or closing[word[-1]])
            word = word[: -len(ending or " ")]
        return [*front, word, *reversed(behind)]


def _unchanged(marks: str) -> dict[str, str]:
    return {mark: mark for mark in marks}


FORMS = {
    "wikitext": Form(
        edges=True,
        openers=_unchanged("([{$£€#"),
        closers=_unchanged(",.;:!?)]}%'"),
        endings=(*_ENDINGS, "'t"),  # it writes "didn 't", the others "did n't"
        joints={"@-@": "-", "@,@": ",", "@.@": ".", "/": "/", "°": "°"},
        numeric=",.",
        by_turns='"',
        runs="=",
    ),
    # Without punctuation; <unk> stays, and N stands for every number.
    "ptb": Form(edges=True, openers=_unchanged("$#"), closers=_unchanged("%'"), endings=("n't", *_ENDINGS)),
    "lambada": Form(
        openers={"``": '"', "`": "'", **_unchanged("($")},
        closers={"''": '"', **_unchanged(",.;:!?)%'")},
        endings=("n't", *_ENDINGS),
    ),
}
"""The values of the setting `detokenize`, but for `none`."""


def detokenize(form: Form, text: str) -> str:
    """Ordinary text from whole lines of a benchmark; each line is independent of the others."""
    lines = (line.removeprefix(" ").removesuffix(" ") if form.edges else line for line in text.split("\n"))
    return "\n".join(form.join(line.split(" ")) for line in lines)


def retokenize(form: Form, text: str) -> str:
    """The lines of the benchmark from ordinary text."""
    edge, lines = " " if form.edges else "", text.split("\n")
    last = [lines.pop()] if len(lines) > 1 and not lines[-1] else []  # nothing stands behind the last line end
    return "\n".join([*(edge + " ".join(form.split(line)) + edge if line else edge for line in lines), *last])
