"""No string of a user or a model is markup, an emoji code, or a control sequence of the terminal."""

from __future__ import annotations

import ast
import io
import json
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from handloom import console
from handloom.console import Console, is_visible, new_console, panel, plain_table, print_json, visible, write

SOURCE = Path(console.__file__).parent
HOSTILE = ["[/]", "[bold]x", ":100:", "[link=file:///x]y[/link]", "\\[red]", "runs/lr:100:x", "[red", "[]"]
STEERING = ["\x1b[2J", "\x9b31m", "\u202egnp", "\u2066a", "\r", "\x00", "\u2028", "\u200b", "\x7f"]
anything = st.text(st.characters(exclude_categories=()), max_size=40)


class Tty(io.StringIO):
    def isatty(self):
        return True


def printed(*renderables, **settings):
    out = io.StringIO()
    shown = new_console(width=200)
    shown.file = out
    shown.print(*renderables, **settings)
    return out.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_markup_and_emoji_codes_are_printed_as_they_stand(text):
    assert printed(text) == text + "\n"
    assert printed(text, markup=True, emoji=True) == text + "\n"
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    assert printed(table).count(text) == 3
    assert printed(plain_table(text)).strip() in ("", text)  # rich shows no title over no columns
    assert printed(panel(text, text, 60)).count(text) == 2


@pytest.mark.parametrize("text", STEERING)
def test_what_steers_a_terminal_is_printed_as_an_escape(text):
    shown = text[0].encode("unicode_escape").decode() + text[1:]
    assert visible(text) == shown
    table = Table(title=text)
    table.add_column(text)
    table.add_row(Text(text))
    for written in (printed(text), printed(table), printed(panel(text, text, 60))):
        assert shown in written
        assert text[0] not in written
    assert text[0] not in printed(Text(text))


@pytest.mark.parametrize(
    "text", ["é漢\n\tx", "क्\u200dष", "می\u200cخواهم", "a\u202fb\u3000c\xa0d", "👩\u200d🔬", "\u0600١٢"]
)
def test_what_belongs_to_words_stays(text):
    assert visible(text) == text


@given(anything)
def test_nothing_invisible_is_left_and_nothing_visible_is_changed(text):
    shown = visible(text)
    assert all(map(is_visible, shown))
    assert visible(shown) == shown
    assert not any(unicodedata.category(c) == "Cc" for c in shown if c not in "\n\t")
    if all(map(is_visible, text)):
        assert shown == text


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_a_console_prints_every_text_as_what_is_visible_of_it(text):
    plain = text.replace("\t", " ").replace("\n", " ")
    assert printed(plain, soft_wrap=True) == visible(plain) + "\n"


@given(anything)
def test_json_of_every_text_is_the_same_text_again_and_steers_nothing(text):
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        print_json({text: [text]})
    line = out.getvalue()
    assert json.loads(line) == {text: [text]}
    assert all(map(is_visible, line))
    line.encode("utf-8")


def test_a_model_s_text_is_exact_in_a_pipe_and_visible_on_a_terminal(monkeypatch):
    for out, shown in ((io.StringIO(), "a\x1b[2Jb\r\n"), (Tty(), "a\\x1b[2Jb\\r\n")):
        monkeypatch.setattr(sys, "stdout", out)
        write("a\x1b[2J", end="")
        write("b\r\n", end="")
        assert out.getvalue() == shown


def test_nothing_is_written_where_there_is_no_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    write("text")
    print_json({})
    console.note("nobody hears this")
    Console(stderr=True).print("text")


MARKUP = {
    "rich.console": {"Console", "*"},
    "rich.panel": {"Panel"},
    "rich.markup": {"escape", "render"},
    "rich.progress": {"Progress", "TextColumn", "track"},
    "rich.prompt": {"Prompt", "Confirm"},
    "rich": {"print", "get_console", "inspect"},
}
"""What reads markup, or prints without us."""


def test_only_the_console_module_has_to_do_with_markup():
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        if path == Path(console.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and {a.name for a in node.names} & MARKUP.get(node.module, set()):
                found.append(f"{path.name}:{node.lineno}: from {node.module}")
            elif isinstance(node, ast.Attribute) and node.attr == "from_markup":
                found.append(f"{path.name}:{node.lineno}: from_markup")
            elif isinstance(node, ast.Import) and any(alias.name.startswith("rich") for alias in node.names):
                found.append(f"{path.name}:{node.lineno}: import rich")
    assert found == []


# As a user meets it


def test_labels_and_documents_are_no_markup_where_batches_are_shown(capsys):
    from handloom.cli.data_view import print_examples
    from handloom.tokenizer import load_tokenizer

    tokenizer = load_tokenizer("gpt2")
    tokens = tokenizer.encode("Hi \x1b[2J[bold]")
    print_examples([{"tokens": tokens, "loss_mask": [True] * len(tokens), "label": "[/]"}], tokenizer, 0, ids=False)
    shown = capsys.readouterr().out
    assert "label [/]" in shown
    assert "\\x1b[2J[bold]" in shown


def test_a_run_s_name_is_printed_as_it_is_after_training(capsys):
    from handloom.cli.train import conclude
    from handloom.training.progress import TerminalReporter

    summary = {"steps": 3, "train_seconds": 1.0, "finished": False}
    conclude(Path("runs/lr:100:x[/]"), summary, TerminalReporter())
    assert "--resume 'runs/lr:100:x[/]'\n" in capsys.readouterr().out


def test_the_confusion_of_labels_keeps_their_names(capsys):
    from handloom.cli.train import print_labels

    figures = {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    summary = {"labels": {"[/]": figures, ":100:": figures}, "confusion": [[1, 0], [0, 1]]}
    print_labels(new_console(width=100), summary)
    shown = capsys.readouterr().out
    assert shown.count("[/]") == shown.count(":100:") == 2


def test_an_error_names_a_path_as_it_is(capsys):
    from handloom.cli.main import main

    with pytest.raises(SystemExit):
        main(["model", "list", "--x[/]:100:\u202e"])
    assert "no flag --x[/]:100:\\u202e." in capsys.readouterr().err.replace("\n", "")


def test_a_table_aligns_what_is_marked_and_folds_the_rest():
    shown = printed(console.table(["name", ">tokens"], [("a", "1"), ("[b]", "23,456")], title="Counts"))
    assert [line.rstrip() for line in shown.splitlines() if line.strip(" ─")] == [
        "Counts", " name   tokens", " a           1", " [b]    23,456",
    ]  # fmt: skip


def test_numbers_for_people():
    sizes = [console.megabytes(n) for n in (0, 17_700, 3_200_000, 1_530_000_000)]
    assert sizes == ["0 kB", "18 kB", "3.2 MB", "1,530 MB"]
    assert [console.percent(n) for n in (None, 0.1234, 1)] == ["-", "12.3%", "100.0%"]
    assert [console.number(n) for n in (None, 1234.5678)] == ["-", "1,234.568"]
    assert console.number(12.6, 0) == "13"
    assert [console.pluralize(n, "row") for n in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
    assert console.pluralize(2, "entry", "entries") == "2 entries"
