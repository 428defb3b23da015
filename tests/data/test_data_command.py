"""`handloom data`: the batch that is printed is the batch that training takes."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from handloom.cli.main import main
from handloom.data.tokenized import prepare
from handloom.data.windows import Windows
from handloom.training.config import TrainConfig

STORIES = {
    f"{n}.txt": f"Story {n}.\tIt [bold]ends[/] \x1b[31mwell.\n" + "And so on, and on. " * n for n in range(1, 30)
}


@pytest.fixture
def handloom(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main(["data", *map(str, words)])
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


def test_show_prints_the_very_batch(handloom, write, gpt2):
    write(**STORIES)
    windows = Windows(prepare(["."], gpt2).train.tokens, context_length=16, stride=5, batch_size=3, seed=9)
    wanted = ("--data", ".", "--context-length", 16, "--stride", 5, "--batch-size", 3, "--seed", 9, "--step", 731)
    inputs, targets = windows.batch(731)

    code, out, _ = handloom("show", *wanted, "--json")
    shown = json.loads(out)["windows"]
    assert code == 0
    assert [window["inputs"] for window in shown] == inputs.tolist()
    assert [window["targets"] for window in shown] == targets.tolist()
    assert [window["text"] for window in shown] == [gpt2.decode(row) for row in inputs.tolist()]
    epochs, starts = windows.places(731)
    assert [(w["epoch"], w["first_token"]) for w in shown] == list(zip(epochs, starts, strict=True))
    assert min(epochs) > 0

    _, out, _ = handloom("show", *wanted, "--ids")
    printed = " ".join(line.strip("\u2502 ") for line in out.splitlines() if line.startswith("\u2502"))
    assert " ".join(map(str, [*inputs[0].tolist(), targets[0, -1]])) in printed
    assert max(map(len, out.splitlines())) <= 80


def test_show_prints_text_that_cannot_steer_the_terminal(handloom, write):
    write(**{"a.txt": STORIES["1.txt"] * 3})
    code, out, _ = handloom("show", "--data", "a.txt", "--split", "documents", "--validation-fraction", 0)
    assert code == 0
    assert "[bold]ends[/] \\x1b[31mwell." in out
    assert "\x1b" not in out
    assert "a.txt" in out


def test_show_marks_the_end_of_a_document(handloom, write):
    write(**STORIES)
    _, out, _ = handloom("show", "--data", ".", "--batch-size", 8, "--context-length", 60)
    assert "<|endoftext|>" in out
    assert ".txt ... " in out


def test_show_names_files_as_they_are_called_now(handloom, write):
    """The tokens are those that were prepared under another name, of a file that is gone."""
    text = f"{STORIES['29.txt']}\n<|endoftext|>\n{STORIES['28.txt']}"
    for split, places in (("tail", {"new.txt", "new.txt:4"}), ("documents", {"new.txt", "new.txt:4"})):
        shown = {}
        for name in ("old.txt", "new.txt"):
            write(**{name: text})
            flags = ("--split", split, "--validation-fraction", 0.1 if split == "tail" else 0)
            _, out, _ = handloom("show", "--data", name, "--batch-size", 8, *flags, "--json")
            shown[name] = json.loads(out)["windows"]
            Path(name).unlink()
        assert {name for window in shown["new.txt"] for name in window.pop("documents")} == places
        assert all(window.pop("documents")[0].startswith("old.txt") for window in shown["old.txt"])
        assert shown["new.txt"] == shown["old.txt"]
    assert len(list(Path("cache", "data").iterdir())) == 2


def test_show_takes_a_run(handloom, write, gpt2, tmp_path):
    write(**STORIES)
    run = tmp_path / "runs" / "demo"
    (run / "tokenizer").mkdir(parents=True)
    gpt2.save(run / "tokenizer")
    config = TrainConfig(data=(str(tmp_path),), context_length=16, batch_size=4, seed=3, validation_fraction=0.3)
    (run / "config.toml").write_text(config.to_toml(), encoding="utf-8")
    data = prepare(config.data, gpt2, validation_fraction=0.3)
    windows = Windows(data.train.tokens, context_length=16, batch_size=4, seed=3)

    (run / "data.json").write_text(json.dumps({"key": data.key}), encoding="utf-8")
    _, out, _ = handloom("show", "--run", run, "--step", 5, "--json")
    assert [window["inputs"] for window in json.loads(out)["windows"]] == windows.batch(5)[0].tolist()

    assert handloom("show", "--run", run)[0] == 0
    write(**{"1.txt": "Another story."})
    code, _, err = handloom("show", "--run", run)
    assert code == 2
    assert "has changed (hash" in " ".join(err.split())
    (run / "data.json").write_bytes(b"{")
    code, _, err = handloom("show", "--run", run)
    assert code == 2
    assert "is damaged" in " ".join(err.split())


def test_show_refuses_what_contradicts_a_run(handloom, tmp_path):
    code, _, err = handloom("show", "--run", tmp_path, "--seed", 1, "--split", "tail")
    assert code == 2
    assert "--seed, --split cannot be combined with --run" in " ".join(err.split())
    code, _, err = handloom("show", "--run", tmp_path)
    assert code == 2
    assert "is not a run folder: config.toml is missing." in " ".join(err.split())


def test_prepare_prints_a_table(handloom, write):
    write(**STORIES, **{"copy.txt": STORIES["1.txt"], "empty.txt": ""})
    code, out, _ = handloom("prepare", "--data", ".", "--tokenizer", "gpt2")
    assert code == 0
    assert max(len(line) for line in out.splitlines() if not line.startswith("Kept in")) <= 80
    for words in (
        "train",
        "validation",
        "bytes/token",
        "1 exact copy of another document was left out: copy.txt.",
        "1 empty document was left out: empty.txt.",
        "MB/s",
    ):
        assert words in out
    _, again, _ = handloom("prepare", "--data", ".", "--tokenizer", "gpt2")
    assert "Prepared before" in again
    _, as_json, _ = handloom("prepare", "--data", ".", "--json")
    report = json.loads(as_json)
    assert (report["documents"], report["reused"]) == (31, True)
    assert report["omitted"] == {
        "own-folder": {"count": 1, "first": ["cache"]},
        "empty": {"count": 1, "first": ["empty.txt"]},
        "duplicate": {"count": 1, "first": ["copy.txt"]},
    }


def test_prepare_reads_standard_input(handloom, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"A line.\n" * 500)))
    code, out, _ = handloom("prepare", "--data=-", "--json")
    assert code == 0
    assert json.loads(out)["split"] == "tail"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("prepare",), "No data was named."),
        (("prepare", "--data", "nowhere.txt"), "nowhere.txt: no such file or folder."),
        (("prepare", "--data", "a.txt", "--split", "half"), 'split is "half", but must be one of'),
        (("show", "--data", "a.txt", "--stride", "65"), "stride is 65, but must be 1 to 64."),
        (("show", "--data", "a.txt"), "The text has 3 tokens, but one window takes 65"),
        (("show", "--data", "a.txt", "--context-length", "2", "--step", "-1"), "step is -1, but must be at least 0."),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_mistakes_get_one_paragraph(handloom, write, words, problem):
    write(**{"a.txt": "Too short."})
    code, _, err = handloom(*words)
    assert code == 2
    assert problem in " ".join(err.split())
    assert "Traceback" not in err


def test_importing_the_commands_is_quick():
    """Help must answer at once, so nothing heavy comes with it."""
    code = "import sys, handloom.cli.data; print({'torch', 'numpy', 'tiktoken', 'regex'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("task", ["text", "sft", "dpo", "classify"])
def test_show_takes_a_run_that_was_tuned(handloom, tmp_path, task):
    """The very rows that the loop took, whatever the run was tuned on."""
    from handloom.loading import find_model
    from handloom.training import run as runs
    from handloom.training.config import FinetuneConfig, TrainConfig, settings_of
    from handloom.training.finetune_setup import finetune_setup
    from handloom.training.progress import Reporter

    text = tmp_path / "text.txt"
    text.write_text("the loom weaves blue and red " * 200, encoding="utf-8")
    shape = {"vocab_size": 270, "layers": 1, "heads": 2, "embed_dim": 8, "context_length": 64}
    same = {"steps": 1, "batch_size": 4, "threads": 1, "precision": "fp32", "sample_every": 0}
    runs.begin(tmp_path / "base", TrainConfig(data=(str(text),), **shape, **same))
    records = {
        "sft": {"messages": [{"role": "user", "content": "red?"}, {"role": "assistant", "content": "né"}]},
        "dpo": {"prompt": "red ", "chosen": "loom", "rejected": "blue"},
        "classify": {"text": "red"},
    }
    if task != "text":
        lines = []
        for number in range(30):
            record = json.loads(json.dumps(records[task]).replace("red", f"red {number}"))
            lines.append(json.dumps(record | ({"label": "ab"[number % 2]} if task == "classify" else {})))
        text = tmp_path / "examples.jsonl"
        text.write_text("\n".join(lines), encoding="utf-8")
    tuned = tmp_path / "tuned"
    config = FinetuneConfig(model=str(tmp_path / "base"), data=(str(text),), task=task, **same)
    runs.begin(tuned, config)
    checkpoint = find_model(tuned).adapter.checkpoint
    setup = finetune_setup(settings_of(checkpoint.training["settings"]), tuned, Reporter(), checkpoint)
    batch = setup.objective.batch(3)
    code, out, _ = handloom("show", "--run", tuned, "--step", 3, "--json")
    assert code == 0
    shown = json.loads(out)
    if task == "text":
        assert [window["inputs"] for window in shown["windows"]] == batch["inputs"].tolist()
        return
    rows = batch["inputs"].view(-1, batch["inputs"].shape[-1]).tolist()
    assert len(shown["rows"]) == len(rows)
    for number, (row, inputs) in enumerate(zip(shown["rows"], rows, strict=True)):
        if task == "classify":
            assert row["tokens"] == inputs[: len(row["tokens"])]
            assert row["label"] == "ab"[int(batch["labels"][number])]
            continue
        targets = batch["targets"].view(-1, len(inputs))[number].tolist()
        assert row["tokens"][:-1] == inputs[: len(row["tokens"]) - 1]
        learned = [token for token, is_learned in zip(row["tokens"], row["loss_mask"], strict=True) if is_learned]
        assert learned == [target for target in targets if target >= 0]
    code, out, _ = handloom("show", "--run", tuned, "--step", 3)
    assert code == 0
    assert {"sft": "né", "dpo": "the preferred answer", "classify": "label a"}[task] in out


@pytest.mark.parametrize("name", ["posts.csv", "posts.tsv", "A.JSON", "posts.jsonl.zst", "posts.parquet"])
def test_running_text_out_of_records_is_what_the_field_holds(handloom, tmp_path, monkeypatch, name):
    """Of `A.JSONL` or a list in `.json` the braces were learned; tables could not be read at all."""
    import pyarrow
    import zstandard
    from pyarrow import parquet

    monkeypatch.chdir(tmp_path)
    rows = [{"body": f'Story {n}, told "again".', "id": str(n)} for n in range(40)]
    if name.endswith("sv"):
        into, between = io.StringIO(), "," if name == "posts.csv" else "\t"
        csv.writer(into, delimiter=between).writerows([["body", "id"], *(row.values() for row in rows)])
        Path(name).write_text(into.getvalue(), encoding="utf-8", newline="")
    elif name == "posts.parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), name)
    elif name == "A.JSON":
        Path(name).write_text(json.dumps(rows), encoding="utf-8")
    else:
        Path(name).write_bytes(zstandard.compress("\n".join(map(json.dumps, rows)).encode()))
    code, out, _ = handloom("prepare", "--data", name, "--text-field", "body", "--json")
    report = json.loads(out)
    assert (code, report["documents"]) == (0, 40)
    assert report["train_bytes"] + report["validation_bytes"] == sum(len(row["body"]) for row in rows)
    assert report["omitted"] == {"field": {"count": 40, "by": {"id": 40}}}
    code, out, _ = handloom("check", "--data", name, "--text-field", "body", "--json", "--context-length", 8)
    assert json.loads(out)["omitted"]["field"] == {"count": 40, "by": {"id": 40}}


def test_json_is_text_only_where_a_flag_says_so(handloom, write):
    lines = "".join(json.dumps({"text": f"Story {n}."}) + "\n" for n in range(30))
    write(**{"posts.txt": lines, "posts.jsonl": lines})
    code, _, err = handloom("prepare", "--data", "posts.txt")
    assert (code, "JSON under the name of a text" in " ".join(err.split())) == (2, True)
    for name in ("posts.txt", "posts.jsonl"):
        code, out, _ = handloom("prepare", "--data", name, "--json-as-text", "--json")
        report = json.loads(out)
        assert report["train_bytes"] + report["validation_bytes"] == len(lines)
    code, out, _ = handloom("check", "--data", "posts.txt", "--json", "--context-length", 8)
    found = [(each["kind"], each["places"][0].get("file")) for each in json.loads(out)["findings"]]
    assert (code, ("unreadable", "posts.txt") in found) == (1, True)
