"""The page is whole HTML from one file, whatever a model wrote, and its plots put things where they belong."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.evaluation import html_report
from handloom.evaluation.calibration import reliability
from handloom.evaluation.html_report import render
from handloom.evaluation.provenance import Provenance
from handloom.evaluation.report import Forgetting, Memorization, ModelResult, Report, Source, Times
from handloom.evaluation.samples import Sample, Span, Speed
from handloom.evaluation.scoring import Estimate, TextScore
from handloom.evaluation.text_metrics import Copied, Overlap, OverlapStats, diversity

HOSTILE = "<script>alert('x')</script> \"&amp; \x1b[31m \u202e</span>"
VOID = {"meta", "link", "br", "line", "circle"}


def reading(bits=2.0, error=0.1):
    estimate = Estimate(bits, error)
    return TextScore(estimate, Estimate(bits * 2, error), 50, 100, (), np.array([bits]), np.array([1]))


def written(text=HOSTILE):
    spans = (Span(text[:9], 0.1, 0), Span(text[9:], 7.0, 9), Span("", 2.0, len(text)))
    copied = Copied(Overlap(0, text[:9], HOSTILE, 3), 1, (0,)) if text else None
    return Sample("The " + text, text, "stop", 3, 9.1, spans, copied)


def measured(name, **changes):
    one = written()
    share = OverlapStats(1, 1, one.copied.longest, 9.0)
    values = {
        "name": name, "provenance": Provenance("tuned here", "from " + HOSTILE, 3, 5, 10), "tokenizer": "A",
        "vocab_size": 257, "precision": "int8",
        "context_length": 16, "parameters": 10, "weight_bytes": 40, "cache_bytes": 80, "held_out": reading(),
        "general": reading(), "calibration": reliability(np.array([0.3, 0.9]), np.array([True, False])),
        "diversity": diversity([one.text]), "memorization": Memorization(HOSTILE, share, share), "no_memorization": "",
        "samples": (one, one), "excerpts": ((Span(HOSTILE, 1.0, 0),),),
    }  # fmt: skip
    return ModelResult(**{**values, **changes})


def report(*models, **changes):
    models = models or (measured("runs/a"), measured("runs/b" + HOSTILE))
    names = [model.name for model in models]
    values = {
        "models": models, "prompts": (written().prompt,), "n": 2,
        "settings": {"seed": 0, "bad_words": ["<b>"], "top_p": None},
        "held_out": Source(HOSTILE, 1, 100, False, (HOSTILE,)), "general": Source("general", 1, 100, True),
        "forgetting": (Forgetting(names[-1], names[0], reading(), reading(2.5), Estimate(0.5, 0.01)),),
        "notes": (HOSTILE,),
        "versions": {"python": "3"}, "threads": 1,
        "times": Times("2026-01-01", 3.0, 1000, {name: Speed(0.01, 100.0) for name in names}),
    }  # fmt: skip
    return Report(**{**values, **changes})


class Checker(HTMLParser):
    """Holds on to every element and its attributes; raises where tags do not match."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def checked(page):
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def test_the_page_is_well_formed_and_nothing_that_a_model_wrote_becomes_markup():
    page = render(report())
    found = checked(page)
    assert page.startswith('<!doctype html>\n<html lang="en">')
    assert not {"script", "iframe", "img", "object", "embed", "form"} & {tag for tag, _ in found.seen}
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "<script>alert('x')</script>" in "".join(found.text)
    ids = [attrs["id"] for _, attrs in found.seen if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_nothing_is_fetched_from_elsewhere():
    found = checked(render(report()))
    for tag, attrs in found.seen:
        for name, value in attrs.items():
            assert not name.startswith("on"), f"<{tag}> acts"
            if name in ("href", "src", "srcset", "xlink:href", "action", "data", "poster"):
                assert value.startswith("#") or value == "data:,", f"<{tag} {name}={value}>"
    ids = {attrs.get("id") for _, attrs in found.seen}
    assert all(attrs["href"][1:] in ids for tag, attrs in found.seen if tag == "a")
    style = re.search(r"<style>(.*?)</style>", render(report()), re.DOTALL).group(1)
    assert "url(" not in style
    assert "@import" not in style


def test_pictures_have_words_and_tables_have_heads():
    found = checked(render(report()))
    ids = {attrs["id"] for _, attrs in found.seen if "id" in attrs}
    drawings = [attrs for tag, attrs in found.seen if tag == "svg"]
    assert len(drawings) == 4  # held-out, forgotten, two diagrams
    assert all(attrs["role"] == "img" and attrs["aria-labelledby"] in ids for attrs in drawings)
    assert all(attrs.get("scope") in ("row", "col") for tag, attrs in found.seen if tag == "th")
    shaded = [attrs for tag, attrs in found.seen if tag == "span" and re.fullmatch(r"s\d.*", attrs.get("class") or "")]
    titled = [attrs for attrs in shaded if "title" in attrs]
    assert len(shaded) - len(titled) == 6, "only the legend's shades have no title"
    assert all(re.search(r"\d\.\d\d nats$", attrs["title"]) for attrs in titled)


TIMED = re.compile(r"<(\w+)[^>]* data-time>.*?</\1>", re.DOTALL)


def test_only_what_is_marked_as_time_differs_between_two_runs():
    one = report()
    later = {name: Speed(0.07, None) for name in one.times.speeds}
    two = dataclasses.replace(one, times=Times("2027-02-02", 99.0, 5000, later))
    assert render(one) != render(two)
    assert TIMED.sub("", render(one)) == TIMED.sub("", render(two))
    assert one == two, "times are no part of what was found"


def test_a_page_where_little_could_be_measured():
    bare = measured(
        "x", memorization=None, no_memorization="unknown", general=None, samples=(written(""), written("")),
        held_out=reading(error=None), provenance=Provenance("pulled", "acme/x", None, None, None),
    )  # fmt: skip
    other = dataclasses.replace(bare, name="y")
    page = render(report(bare, other, general=None, forgetting=()))
    checked(page)
    assert "Not searched: unknown" in page
    assert "Forgetting" not in page
    assert "unknown" in page


def test_spaces_that_do_not_break_are_no_signs_to_hide():
    page = render(report(measured("a"), measured("b")))
    assert "50.00\u202f%" in page
    assert "0.0\u00a0MB" in page


def test_shades_and_copies_are_marked():
    page = render(report())
    assert '<span class="s0 copied" title="0.10 nats">' in page
    assert 'title="7.00 nats"' in page
    assert 'end" title="end of the text, 2.00 nats">∎' in page


def test_the_template_is_part_of_the_package():
    root = Path(__file__).resolve().parents[2]
    told = (root / "pyproject.toml").read_text(encoding="utf-8")
    for path in (root / "src" / "handloom" / "evaluation").glob("*.j2"):
        assert f'"evaluation/{path.name}"' in told.split("[tool.setuptools.package-data]")[1].split("[tool")[0]


# Plots


@given(st.lists(st.tuples(st.floats(0.01, 1e6), st.none() | st.floats(0, 100)), min_size=1, max_size=5))
def test_dots_keep_the_order_of_their_values_and_stay_inside(pairs):
    plot = html_report.dot_plot([(str(i), Estimate(*pair)) for i, pair in enumerate(pairs)])
    for mark in plot.marks:
        assert 0 <= mark.low <= mark.x <= mark.high <= html_report.WIDTH
        assert 0 < mark.y < plot.height
    order = sorted(range(len(pairs)), key=lambda i: pairs[i][0])
    xs = [plot.marks[i].x for i in order]
    assert xs == sorted(xs)
    assert 1 <= len(plot.ticks) <= 6
    assert all(0 <= tick.at <= html_report.WIDTH for tick in plot.ticks)
    values = [float(tick.label) for tick in plot.ticks]
    assert values == sorted(set(values))


def test_of_a_long_name_the_end_is_shown():
    (mark,) = html_report.dot_plot([("../somewhere/far/away/runs/" + "x" * 20, Estimate(1.0, None))]).marks
    assert mark.label == "…way/runs/" + "x" * 20
    assert len(mark.label) == 30


def test_ticks_stand_where_their_numbers_are():
    plot = html_report.dot_plot([("a", Estimate(1.0, None)), ("b", Estimate(2.0, None))])
    a, b = (mark.x for mark in plot.marks)
    for tick in plot.ticks:
        assert tick.at == pytest.approx(a + (float(tick.label) - 1.0) * (b - a), abs=0.02)


def test_a_diagram_puts_who_is_as_right_as_sure_on_the_diagonal():
    chance = np.random.default_rng(0)
    sure = chance.uniform(0.01, 1, 50_000)
    plot = html_report.reliability_diagram(reliability(sure, chance.uniform(size=50_000) < sure).bins)
    assert len(plot.marks) == 10
    for point in plot.marks:
        share = (point.x - plot.ticks[0].at) / (plot.ticks[-1].at - plot.ticks[0].at)
        assert point.y == pytest.approx(html_report.up(share), abs=4)
        assert point.high <= point.y <= point.low


# Right to left

ARABIC = "سلام عليكم"
HEBREW = "שלום"


class Directions(HTMLParser):
    """Every text with a letter that is written from right to left, and whether it chooses its own direction."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.found = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("dir")))

    def handle_startendtag(self, tag, attrs): ...

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        if any(unicodedata.bidirectional(c) in ("R", "AL") for c in data):
            tags = [tag for tag, _ in self.open]
            drawn = "svg" in tags or "title" in tags  # the style sheet sets the direction there, or the browser
            self.found.append((data, "/".join(tags), drawn or any(way == "auto" for _, way in self.open)))


def right_to_left():
    """A comparison whose every name and text is Arabic or Hebrew."""
    text = written((ARABIC + " ") * 5)
    one = dataclasses.replace(text, prompt=HEBREW + " (a) ", spans=(Span(text.text, 1.0, 0),))
    share = OverlapStats(1, 1, dataclasses.replace(one.copied.longest, document=HEBREW), 9.0)
    models = [
        measured(
            f"runs/{name}", provenance=Provenance("from elsewhere", HEBREW, 3, 5, 10), samples=(one, one),
            excerpts=((Span(HEBREW + "!", 1.0, 0),),), memorization=Memorization(ARABIC, share, share),
        )
        for name in (ARABIC, HEBREW)
    ]  # fmt: skip
    models.append(measured(HEBREW + "-3", samples=(one, one), memorization=None, no_memorization=ARABIC))
    changes = {"prompts": (one.prompt,), "general": Source(ARABIC, 1, 100, True), "notes": (HEBREW,)}
    return report(*models, held_out=Source(HEBREW + ".txt", 1, 100, False, (ARABIC,)), **changes)


def test_every_text_prompt_and_name_runs_in_its_own_direction():
    found = Directions()
    found.feed(render(right_to_left()))
    assert [each for each in found.found if not each[2]] == []
    assert len(found.found) > 40
    assert "unicode-bidi: plaintext" in re.search(r"svg \.name \{.*\}", render(right_to_left())).group()
