"""The course says nothing that is not so: every snippet, output, number and link of notes/ is tried."""

from __future__ import annotations

import re
from pathlib import Path

import notes_runner
import pytest
import torch
from notes_runner import NoteError, blocks, faults, look_at, notable, run

ROOT = Path(__file__).resolve().parents[2]
NOTES = sorted((ROOT / "notes").glob("*.md"))
LESSONS = [path for path in NOTES if path.name != "README.md"]
LINK = re.compile(r"\[([^\]]*)\]\(([^)]+)\)")


def read(path):
    return path.read_text(encoding="utf-8")


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Each note runs in an empty folder, on a plain terminal of 80 columns, and leaves torch as it was."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(random)


# The notes


@named(NOTES)
def test_a_note_says_what_is_so(path):
    run(read(path), path.name)


@named(NOTES)
def test_links_lead_somewhere(path):
    for text, target in LINK.findall(re.sub(r"```.*?```", "", read(path), flags=re.DOTALL)):
        file = path.parent / target
        assert file.is_file(), f"{path.name}: {target}"
        name = re.fullmatch(r"(?:.*: )?`(\w+)`", text)
        assert not name or re.search(rf"\b{name[1]}\b", read(file)), f"{path.name}: no {name[1]} in {target}"


@named(LESSONS)
def test_a_note_is_whole_and_short(path):
    text = read(path)
    lines = [line for line in text.splitlines() if line.strip()]
    assert 60 <= len(lines) <= 160
    assert text.startswith(f"# {int(path.name[:2])}. ")
    for part in ("**The idea.**", "**Open next:**", "## Questions", "<summary>Answers</summary>"):
        assert text.count(part) == 1, part
    questions, answers = text.split("## Questions")[1].split("<details>")
    assert 2 <= len(re.findall(r"^\d\. ", questions, re.MULTILINE)) <= 3
    assert len(re.findall(r"^\d\. ", questions, re.MULTILINE)) == len(re.findall(r"^\d\. ", answers, re.MULTILINE))
    assert re.search(r"\]\(\.\./src/handloom/", text)


def test_the_index_names_all_notes_in_order():
    named = re.findall(r"^\| \[(\d+)\. [^\]]*\]\((\w+\.md)\)", read(ROOT / "notes" / "README.md"), re.MULTILINE)
    assert [name for _, name in named] == [path.name for path in LESSONS]
    assert [int(number) for number, _ in named] == list(range(1, 20))


# What the tests would notice


@named(NOTES)
def test_no_number_in_prose_can_be_changed_unnoticed(path):
    """Every number that needs something behind it, changed in its first digit, is found before anything runs."""
    text = read(path)
    for block in blocks(text):
        if block.kind != "prose":
            continue
        for word in notable(block):
            digit = next(c for c in word if c.isdigit())
            wrong = word.replace(digit, "7" if digit != "7" else "8", 1)
            spot = re.compile(rf"(?<![\w.,/-]){re.escape(word)}(?![\w/])")
            parts = re.split(r"(<!--.*?-->)", block.text, flags=re.DOTALL)
            changed = "".join(p if p.startswith("<!--") else spot.sub(wrong, p) for p in parts)
            assert changed != block.text, word
            assert faults(blocks(text.replace(block.text, changed))), f"{word} -> {wrong}"


@pytest.mark.parametrize(
    ("true", "wrong"),
    [
        ("124,439,808 <!-- check", "124,439,809 <!-- check"),
        ("== 124_439_808 -->", "== 124_439_809 -->"),
        ("152,791,296\n", "152,791,297\n"),
        ("blocks.0.attention.out.weight 0.01", "blocks.0.attention.out.weight 0.02"),
        ("(C + 1) * 3 * C", "(C + 0) * 3 * C"),
        ("handloom model show gpt2", "handloom model show gpt3"),
        ("2. 31 percent", "2. 32 percent"),
        ("== 497.8 -->", "== 497.9 -->"),
    ],
)
def test_a_mistake_in_a_note_is_found(true, wrong):
    text = read(ROOT / "notes" / "08_full_gpt_model.md")
    assert true in text
    with pytest.raises(NoteError):
        run(text.replace(true, wrong, 1))


def fence(kind, text):
    return f"```{kind}\n{text}\n```\n\n"


@pytest.mark.parametrize(
    "note",
    [
        fence("python", "print(1)") + fence("text", "1"),
        fence("python", "a = 500") + "It is 500. <!-- check: a == 500 -->",
        fence("python", "print(3.25)") + fence("text", "3.25") + "So it is 3.25.\n\n" + fence("", "-- 3.25 --"),
        "Say 4,096 tokens. <!-- given: 4096 -->",
        "In 2019, two of them.",
        fence("sh long", "handloom train --steps 3\nmake demo"),
    ],
)
def test_a_right_note_passes(note):
    run(note)


@pytest.mark.parametrize(
    ("note", "message"),
    [
        (fence("python", "print(1)") + fence("text", "2"), "the note says"),
        (fence("python", "print(1)"), "the note says"),
        (fence("python", "1 / 0"), "ZeroDivisionError"),
        (fence("text", "1"), "belongs to no snippet"),
        (fence("ruby", "1"), "unknown kind"),
        (fence("", "x" * 81), "wider than 80"),
        (fence("", "0.5"), "which is drawn"),
        ("```python", "does not end"),
        ("It is 500.", "nothing stands behind the number 500"),
        ("It is 5.5.", "nothing stands behind the number 5.5"),
        ("It is 500. <!-- check: 501 == 500 -->", "its left side is 501"),
        ("It is 501. <!-- check: 500 == 500 -->", "does not say 500"),
        ("It is 501. <!-- given: 500 -->", "does not say 500"),
        ("It is. <!-- check: missing == 1 -->", "does not say 1"),
        ("It is. <!-- check: missing -->", "NameError"),
        ("It is 5. <!-- check: 2 + 3 == 2 + 3 -->", "plain value"),
        (fence("sh", "handloom model show nonsense"), "nonsense"),
        (fence("sh", "rm -r everything"), "only handloom commands"),
        (fence("sh long", "make nothing"), "no target nothing"),
        (fence("sh long", "curl example"), "no command that a note may show"),
    ],
)
def test_a_wrong_note_fails(note, message):
    with pytest.raises(NoteError, match=re.escape(message)):
        run(note)


def test_a_flag_that_does_not_exist_is_found():
    from cyclopts import CycloptsError

    look_at(["handloom", "train", "--warmup-steps", "5"], "here")
    with pytest.raises(CycloptsError):
        look_at(["handloom", "train", "--warmup", "5"], "here")


def test_an_error_names_the_line_of_the_note():
    with pytest.raises(NoteError, match="note, line 4"):
        run("One.\n\n" + fence("python", "x = y"))
    assert notes_runner.blocks("One.\n\nTwo.")[1].line == 3
