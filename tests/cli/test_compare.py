"""`handloom compare`: the table, the numbers, and the page in a real browser."""

from __future__ import annotations

import io
import json
import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from handloom.cli.main import main

WORDS = "the loom stands in the corner , and every morning the weaver sits down before it and counts its threads ."
POEM = "The river stands still at the ford, and nobody who looks at the cloth can see the hours in it.\n"
MODELS = ("runs/base", "runs/tuned", "runs/lora", "runs/small")
SETTINGS = ("--max-new-tokens", "12", "--n", "2", "--threads", "1")
TIMED = re.compile(r"<(\w+)[^>]* data-time>.*?</\1>", re.DOTALL)


def compared(*words):
    """Exit code, output and errors of a comparison in the current folder."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(["compare", *map(str, words)])
        except SystemExit as left:
            return left.code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two runs from scratch with vocabularies of their own, two tuned from the first, and two comparisons of them."""
    from handloom.training import run
    from handloom.training.config import FinetuneConfig, TrainConfig

    folder = tmp_path_factory.mktemp("compare")
    chance = np.random.default_rng(0)
    (folder / "texts").mkdir()
    for number in range(24):
        text = " ".join(chance.choice(WORDS.split(), size=150))
        (folder / "texts" / f"{number}.txt").write_text(text, encoding="utf-8")
    (folder / "poem.txt").write_text(POEM * 20, encoding="utf-8")
    (folder / "prompts.txt").write_text("The loom\nmorning <b>&\n", encoding="utf-8")
    common = {"threads": 1, "precision": "fp32", "sample_every": 0, "steps": 20, "batch_size": 4}
    shape = {"context_length": 32, "layers": 2, "heads": 2, "embed_dim": 16}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANDLOOM_CACHE", str(folder / "cache"))
        patch.setenv("COLUMNS", "80")
        patch.chdir(folder)
        for name, size in (("base", 300), ("small", 270)):
            run.begin(Path("runs", name), TrainConfig(data=("texts",), vocab_size=size, **shape, **common))
        for name, method, rate in (("tuned", "full", 0.02), ("lora", "lora", 0.001)):
            tuning = FinetuneConfig(model="runs/base", data=("poem.txt",), method=method, learning_rate=rate, **common)
            run.begin(Path("runs", name), tuning)
        for number in (1, 2):
            code, out, err = compared(
                *MODELS, "--prompts", "prompts.txt", "--out", f"{number}.html", "--json", f"{number}.json", *SETTINGS
            )
            assert (code, err) == (0, "")
            (folder / f"{number}.txt").write_text(out, encoding="utf-8")
    return folder


@pytest.fixture
def here(world, tmp_path, monkeypatch):
    """In a copy of the world."""
    copy = tmp_path / "here"
    shutil.copytree(world, copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("HANDLOOM_CACHE", "cache")
    monkeypatch.setenv("COLUMNS", "80")
    return copy


def test_the_table_fits_80_columns_with_four_models_and_says_it_all(world):
    told = (world / "1.txt").read_text(encoding="utf-8")
    assert max(map(len, told.splitlines())) <= 80
    rows = {line[:24].strip(): line[24:].split() for line in told.splitlines() if line[:1] == " "}
    for row in (
        "parameters", "trained share", "weights MB", "bits/byte held-out", "perplexity (tokenizer)",
        "calibration error", "distinct 1-grams", "repeated 4-grams", "8-grams copied", "longest overlap",
        "tokens/s",
    ):  # fmt: skip
        assert row in rows, row
    assert rows["origin"] == ["pretrained", "tuned", "tuned", "pretrained"]
    assert rows["perplexity (tokenizer)"][1::2] == ["A", "A", "A", "B"]
    assert "runs/tuned against runs/base on general text: forgot" in told
    assert "GPT-2's real weights are absent" in " ".join(told.split())
    assert "cannot be compared with each other" in " ".join(told.split())


def test_two_runs_give_the_same_page_to_the_byte_but_for_times(world):
    one, two = ((world / f"{number}.html").read_text(encoding="utf-8") for number in (1, 2))
    assert TIMED.sub("", one).encode() == TIMED.sub("", two).encode()
    assert len(TIMED.findall(one)) == 3 * len(MODELS) + 2
    numbers = [json.loads((world / f"{number}.json").read_text(encoding="utf-8")) for number in (1, 2)]
    for each in numbers:
        del each["times"]
    assert json.dumps(numbers[0]) == json.dumps(numbers[1])


def test_the_json_and_the_page_say_the_same(world):
    found = json.loads((world / "1.json").read_text(encoding="utf-8"))
    page = (world / "1.html").read_text(encoding="utf-8")
    assert [model["name"] for model in found["models"]] == list(MODELS)
    for model in found["models"]:
        assert f"{model['held_out']['bits_per_byte']['value']:.3f}" in page
        assert f"{model['parameters']:,}" in page
        assert len(model["samples"]) == 4
    shares = {model["name"]: model["provenance"]["trained_share"] for model in found["models"]}
    assert shares["runs/base"] == shares["runs/tuned"] == 1.0
    assert 0 < shares["runs/lora"] < 1
    forgot = {each["model"]: each for each in found["forgetting"]}
    assert forgot.keys() == {"runs/tuned", "runs/lora"}
    assert forgot["runs/tuned"]["verdict"] == "forgot"
    searched = {model["name"]: model["memorization"]["searched"] for model in found["models"]}
    assert searched["runs/tuned"] == "poem.txt; texts (of runs/base)"
    assert "morning &lt;b&gt;&amp;" in page
    assert found["settings"]["max_new_tokens"] == 12


def test_a_tuned_run_is_searched_for_in_its_own_text_and_finds_its_base_from_elsewhere(here, monkeypatch):
    monkeypatch.setenv("HANDLOOM_CACHE", str(here / "cache"))
    (here / "deeper").mkdir()
    monkeypatch.chdir(here / "deeper")
    code, out, err = compared("../runs/tuned", "../runs/small", "--data", "../poem.txt", *SETTINGS)
    assert (code, err) == (0, "")
    assert "../runs/tuned against runs/base on general text" in " ".join(out.split())
    assert Path("compare.html").is_file()


def test_a_model_from_elsewhere_takes_part_with_less_told_of_it(here):
    from handloom.checkpoints.hf_export import export_folder
    from handloom.loading import load

    lm = load("runs/base")
    export_folder(Path("stranger"), lm.model, lm.tokenizer)
    code, out, err = compared("runs/base", "stranger", "--json", "a.json", *SETTINGS)
    assert (code, err) == (0, "")
    base, stranger = json.loads(Path("a.json").read_text(encoding="utf-8"))["models"]
    assert [text["text"] for text in base["samples"]] == [text["text"] for text in stranger["samples"]]
    assert base["held_out"] == stranger["held_out"]
    assert stranger["provenance"]["kind"] == "copied by hand"
    assert stranger["provenance"]["trained_share"] is None
    assert stranger["memorization"] is None
    assert "GPT-2's real weights are absent" not in out
    code, _, err = compared("runs/base", "stranger", "--training", "texts", "--json", "a.json", *SETTINGS)
    assert (code, err) == (0, "")
    base, stranger = json.loads(Path("a.json").read_text(encoding="utf-8"))["models"]
    assert stranger["memorization"] == base["memorization"]


def test_prompts_and_held_out_text_have_defaults(here):
    code, out, _ = compared("runs/base", "runs/small", "--text-bytes", "2000", *SETTINGS)
    assert code == 0
    page = Path("compare.html").read_text(encoding="utf-8")
    assert "In the beginning" in page
    assert "what runs/base held out of texts" in page
    assert not Path("compare.json").exists()
    assert "The page: compare.html" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "takes two models or more, and none was named"),
        (("runs/base",), "only runs/base was named"),
        (("runs/base", "runs/base"), "runs/base is named twice"),
        (("runs/base", "runs/base/checkpoints/step-00000020"), "are the same model"),
        (("runs/base", "runs/nothing"), "no model at runs/nothing"),
        (("runs/base", "runs/small", "--out", "nowhere/a.html"), "There is no folder nowhere"),
        (("runs/base", "runs/small", "--out", "runs"), "runs is a folder"),
        (("runs/base", "runs/small", "--json", "nowhere/a.json"), "There is no folder nowhere"),
        (("runs/base", "runs/small", "--prompts", "empty.txt"), "Line 1 of empty.txt is empty"),
        (("runs/base", "runs/small", "--prompts", "nothing.txt"), "cannot be read"),
        (("runs/base", "runs/small", "--data", "nothing.txt", "--max-new-tokens", "5"), "nothing.txt: no such file"),
        (("runs/base", "runs/small", "--max-new-tokens", "100"), "runs/base: A prompt of"),
        (("runs/base", "runs/small", "--n", "0"), "n is 0"),
        (("runs/base", "runs/small", "--threads", "0"), "threads is 0; it must be at least 1."),
        (("runs/base", "runs/small", "--num-beams", "2"), "no flag --num-beams"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_told_in_one_paragraph(words, message, here):
    Path("empty.txt").write_bytes(b"")
    code, out, err = compared(*words)
    assert code == 2
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not Path("compare.html").exists()


# In a real browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed here")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield started
        started.close()


CONTRAST = """
() => {
  const luminance = ([r, g, b]) => [r, g, b]
    .map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour.slice(0, 3);
    }
  };
  let worst = 21;
  const texts = "p, li, td, th, h1, h2, h3, h4, dt, dd, span, a, b, summary, figcaption";
  for (const element of document.querySelectorAll(texts)) {
    if (!element.textContent.trim()) continue;
    const [a, b] = [luminance(rgb(getComputedStyle(element).color)), luminance(behind(element))];
    worst = Math.min(worst, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return worst;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375, 320])
def test_the_page_fits_and_is_readable_in_a_browser(world, browser, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    asked, troubles = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    address = (world / "1.html").as_uri()
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    wide = page.evaluate(
        """() => [...document.querySelectorAll("main *, header *, footer *")].filter(
             one => !one.closest(".scroll") && one.getBoundingClientRect().right > innerWidth + 0.5).map(
             one => one.outerHTML.slice(0, 80))"""
    )
    assert wide == []
    assert page.evaluate(CONTRAST) >= 4.5
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.search(r"\d+", background).group()) > 128) == (scheme == "light")
    assert [url for url in asked if not url.startswith("data:")] == [address]
    assert troubles == []
    context.close()


def test_models_are_compared_in_another_precision(here):
    code, out, _ = compared(*MODELS[:2], "--precision", "int8", "--out", "8.html", "--json", "8.json", *SETTINGS)
    assert code == 0
    exact, rounded = (json.loads(Path(name).read_text(encoding="utf-8"))["models"] for name in ("1.json", "8.json"))
    assert [model["precision"] for model in exact] == ["fp32"] * 4
    assert [model["precision"] for model in rounded] == ["int8"] * 2
    for one, other in zip(exact, rounded, strict=False):
        assert one["parameters"] == other["parameters"]
        assert other["weight_bytes"] < 0.6 * one["weight_bytes"]
    assert "in int8" in Path("8.html").read_text(encoding="utf-8")
    assert re.search(r"^ *precision +int8 +int8 *$", out, re.MULTILINE)
