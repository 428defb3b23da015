"""`handloom tokenize`: what it prints, and how it refuses."""

from __future__ import annotations

import io
import json
import sys

import pytest
from cyclopts import App

from handloom.cli.tokenize import tokenize
from handloom.errors import ConfigError, DataError, RequestError


@pytest.fixture
def run(capsys):
    """Parse arguments as the command line does, and give back what was printed."""
    app = App(name="handloom", result_action="return_value")
    app.command(tokenize)

    def call(*arguments):
        app(["tokenize", *arguments])
        return capsys.readouterr().out

    return call


@pytest.fixture
def stdin(monkeypatch):
    return lambda data: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_ids_and_pieces(run):
    assert run("Hello world\n").splitlines() == [
        "15496 995 198",
        "Hello|␣world|\\n",
        "3 tokens, 12 characters, 12 bytes",
    ]


def test_ids_back_to_text(run):
    assert run("--decode", "15496 995") == "Hello world\n"
    assert run("--decode", "[15496, 995, -1, 99999999]") == "Hello world\ufffd\ufffd\n"
    assert run("--decode", "-1") == "\ufffd\n"


def test_a_text_that_looks_like_a_flag(run):
    assert run("- hello").startswith("12 23748\n")


def test_markup_is_plain_text(run):
    assert "[|bold|]" in run("[bold]:smile:")


def test_long_lines_are_not_broken(run):
    assert run("Hello world " * 100).count("\n") == 3


def test_standard_input(run, stdin):
    stdin(b"a\nb")
    assert run("-").startswith("64 198 65\n")
    stdin(b"")
    assert run().startswith("\n\n0 tokens")


def test_standard_input_that_is_no_text(run, stdin):
    stdin(b"ab\xff")
    with pytest.raises(RequestError, match="byte at offset 2"):
        run("-")


def test_explain_shows_every_merge(run):
    lines = [line.split() for line in run("unhappily unhappily", "--explain").splitlines()]
    assert ["merge", "51", "l", "+", "y", "u", "n", "h", "a", "p", "p", "i", "ly"] in lines
    assert max(map(len, run("unhappily " * 90, "--explain").splitlines()[:-3])) <= 80


def test_explain_shows_equal_pieces_once(run):
    assert run(" a a a b", "--explain").count("piece") == 2


def test_explain_has_a_limit(run):
    with pytest.raises(RequestError, match="at most 1,000 characters"):
        run("a" * 1_001, "--explain")


def test_json(run):
    answer = json.loads(run("é", "--json", "--explain"))
    assert answer["ids"] == [2634]
    assert answer["tokens"] == ["é"]
    assert answer["vocab_size"] == 50257
    assert answer["work"] == [
        {
            "piece": "é",
            "bytes": ["\\xc3", "\\xa9"],
            "steps": [{"merge": 2379, "pair": ["\\xc3", "\\xa9"], "parts": ["é"]}],
            "ids": [2634],
        }
    ]
    assert json.loads(run("--decode", "2634", "--json")) == {"ids": [2634], "text": "é"}


def test_a_learned_tokenizer(run, small, tmp_path):
    small.save(tmp_path)
    ids = json.loads(run("the cat", "--tokenizer", str(tmp_path), "--json"))["ids"]
    assert ids == small.encode("the cat")


@pytest.mark.parametrize("ids", ["x", "1 2 three", "1.5", "9" * 5000])
def test_decode_refuses_what_is_no_number(run, ids):
    with pytest.raises(RequestError, match="takes whole numbers"):
        run("--decode", ids)


def test_text_and_decode_exclude_each_other(run):
    with pytest.raises(ConfigError, match="takes no text"):
        run("text", "--decode", "1")


def test_a_missing_tokenizer(run):
    with pytest.raises(DataError, match="no tokenizer folder"):
        run("text", "--tokenizer", "nowhere")


def test_lone_surrogates_from_the_command_line(run):
    assert run("a\udcff").splitlines()[1] == "a|\ufffd"
