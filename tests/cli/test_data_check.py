"""`handloom data check` as a user has it: what is printed, for people and programs, and the exit code."""

from __future__ import annotations

import json

import pytest

CLEAN = [
    {"messages": [{"role": "user", "content": f"How many are {n}?"}, {"role": "assistant", "content": f"{n}."}]}
    for n in range(30)
]
MESSY = [
    b"{",
    json.dumps({"messages": [{"role": "user", "content": "Who?"}]}).encode(),
    json.dumps(
        {
            "messages": [
                {"role": "user", "content": "[bold]\x1b[31m \u202e <|im_start|>"},
                {"role": "assistant", "content": "So [/INST]. " * 4},
            ]
        }
    ).encode(),
    json.dumps({"instruction": "Long?", "output": "so " * 2000}).encode(),
    json.dumps({"instruction": "Longer?", "output": "so " * 3000}).encode(),
]


@pytest.fixture
def write(tmp_path):
    """Write a file of records."""

    def write(name, records):
        lines = (line if isinstance(line, bytes) else json.dumps(line).encode() for line in records)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"".join(line + b"\n" for line in lines))

    return write


def test_clean_data_ends_with_0(inside, write):
    write("a.jsonl", CLEAN)
    result = inside("data", "check", "--data", "a.jsonl", "--task", "sft")
    assert (result.returncode, result.err) == (0, "")
    assert result.out.startswith("Checked 30 conversations: nothing to say against them.\n")
    assert result.out.endswith("A run would go through.\n")
    assert "Split: 2" in result.out
    for title in ("Length in tokens of gpt2", "Script and likely language"):
        assert title in result.out


def test_messy_data_ends_with_1_and_fits_the_screen(inside, write, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    write("a.jsonl", [*CLEAN, *MESSY])
    result = inside("data", "check", "--data", "a.jsonl", "--task", "sft")
    assert (result.returncode, result.err) == (1, "")
    assert result.out.startswith("Checked 33 conversations: 4 errors and 7 warnings.\n")
    assert max(map(len, result.out.splitlines())) <= 80
    for said in (
        "Error: 1 malformed line",
        "a.jsonl:31  not JSON",
        "Error: 1 conversation without an assistant's message",
        "  a.jsonl:34  2,0",
        "Warning: 5 look-alikes of special tokens",
        "and 2 more, which --all lists",
        "U+202E RIGHT-TO-LEFT OVERRIDE",
        "the context, 1,024, ends here",
        "-> Add an answer.",
        "A run would stop, or its validation would be false.",
    ):
        assert said in result.out
    assert "\x1b" not in result.out
    assert "\u202e" not in result.out


def test_all_lists_every_place(inside, write):
    write("a.jsonl", [*CLEAN, *MESSY])
    result = inside("data", "check", "--data", "a.jsonl", "--task", "sft", "--all")
    assert result.out.count("[/INST] at character") == 4
    assert "--all" not in result.out


def test_the_worst_is_named_and_long_paths_stay_whole(inside, write):
    path = "a/folder/that/lies/deep/below/other/folders/a.jsonl"
    write(path, [*CLEAN, *(MESSY[3] for _ in range(3)), MESSY[4]])
    result = inside("data", "check", "--data", "a", "--task", "sft")
    lines = result.out.splitlines()
    assert f"  {path}:31" in lines
    at = lines.index(f"  {path}:34")
    assert lines[at + 1].startswith("    the worst: 3,0")
    assert "more, which" not in "\n".join(lines[at : at + 4])


def test_json_has_everything(inside, write):
    write("a.jsonl", [*CLEAN, *MESSY])
    words = ("data", "check", "--data", "a.jsonl", "--task", "sft", "--overlong", "skip", "--json")
    result = inside(*words)
    told = json.loads(result.out)
    assert result.returncode == 1
    assert (told["task"], told["overlong"], told["context_length"], told["tokenizer"]) == ("sft", "skip", 1024, "gpt2")
    assert (told["errors"], told["warnings"], told["notes"]) == (2, 9, 0)
    counts = {group["kind"]: group["count"] for group in told["findings"]}
    assert counts == {
        "malformed": 1, "no-assistant": 1, "overlong": 2, "special-token": 5, "control": 1, "bidi": 1,
    }  # fmt: skip
    assert all(len(group["places"]) == group["count"] for group in told["findings"])
    first = told["findings"][0]["places"][0]
    assert (first["file"], first["line"]) == ("a.jsonl", 31)
    assert first["detail"].startswith("not JSON")
    assert first["remedy"]
    assert told["texts"] == told["lengths"]["texts"] == sum(told["languages"].values()) == 33
    assert sum(told["split"].values()) == 31
    assert sum(row["texts"] for row in told["lengths"]["histogram"]) == 33


def test_only_warnings_end_with_0(inside, write):
    write("a.jsonl", [*CLEAN, MESSY[2]])
    result = inside("data", "check", "--data", "a.jsonl", "--task", "sft")
    assert result.returncode == 0
    assert result.out.endswith("A run would go through. Look at the warnings first.\n")


def test_labels_have_bars_and_at_most_a_dozen(inside, write):
    write("a.jsonl", [{"text": f"The text {n}", "label": n % 15} for n in range(300)])
    result = inside("data", "check", "--data", "a.jsonl", "--task", "classify")
    assert "3 more" in result.out.split("Labels\n")[1]
    assert "Checked 300 labelled texts" in result.out


def test_text_comes_through_a_pipe(inside):
    text = b"Threads and looms. " * 200 + b"\x07\n"
    result = inside("data", "check", "--data", "-", "--context-length", 16, stdin=text)
    assert result.returncode == 0
    assert "standard input:1:3801  U+0007 BEL" in result.out
    assert "tokens to learn" in " ".join(result.out.split())


def test_a_model_brings_its_tokenizer_and_its_context(inside, trained_run):
    text = b"The quick brown fox jumps over the lazy dog. " * 20
    result = inside("data", "check", "--data", "-", "--tokenizer", trained_run, "--json", stdin=text)
    told = json.loads(result.out)
    assert (result.returncode, told["context_length"]) == (0, 16)
    assert told["lengths"]["tokens"] > 400  # of a vocabulary of 280
    folder = inside(
        "data", "check", "--data", "-", "--tokenizer", trained_run / "tokenizer", "--context-length", 16, "--json",
        stdin=text
    )  # fmt: skip
    assert json.loads(folder.out)["lengths"] == told["lengths"]


def test_a_file_in_the_way_does_not_end_the_check(inside, write):
    write("a.jsonl", [{"text": f"Threads {n} and looms {n * 3}."} for n in range(40)])
    words = ("data", "check", "--context-length", 8, "--data", "a.jsonl", "b.jsonl")
    result = inside(*words)
    assert result.returncode == 1
    assert "Checked 40 documents: 1 error." in result.out
    assert '-> Did you mean "a.jsonl"?' in result.out
