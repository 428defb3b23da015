"""Folders are walked in every kind of tree, our own are never data, and what is left out is counted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handloom.data.corpus import open_corpus
from handloom.data.examples import LabeledText as LabelledText
from handloom.data.examples import read_examples
from handloom.data.omissions import Omissions
from handloom.data.sources import files_of
from handloom.data.text_io import IN_FOLDERS
from handloom.errors import DataError
from handloom.ownership import mark_run
from handloom.storage import write_json


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Make a tree of files in the current folder; a text that begins with -> is a link."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            name, _, target = name.partition(" -> ")
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if target:
                path.symlink_to(target)
            else:
                path.write_text(f'{{"text": "{name}", "label": "a"}}\n', encoding="utf-8")

    return make


def found(source, *suffixes):
    omissions = Omissions()
    files = files_of(source, *suffixes, omissions=omissions)
    return [path.as_posix() for path in files], {
        reason: count.get("by", count["count"]) for reason, count in omissions.to_dict().items()
    }


def test_capitals_in_a_suffix_are_no_other_suffix(tree):
    tree("d/a.txt", "d/B.TXT", "d/c.Md", "d/e.JSONL")
    assert found("d") == (["d/B.TXT", "d/a.txt", "d/c.Md", "d/e.JSONL"], {})
    assert [each.name for each in open_corpus("d/e.JSONL").documents()] == ["d/e.JSONL:1"]
    assert [each.text for each in read_examples(LabelledText, ["d"])] == ["d/e.JSONL"]


def test_other_suffixes_are_counted_each(tree):
    tree("d/a.txt", "d/b.rst", "d/x/c.RST", "d/LICENSE", "d/p.csv")
    assert found("d") == (["d/a.txt"], {"suffix": {".rst": 2, "without any": 1, ".csv": 1}})
    assert found("d/*")[1] == {"suffix": {".rst": 1}}  # what the pattern itself names is read
    (sentence,) = open_corpus(["d"]).omissions.problems()
    assert sentence == (
        "4 files in folders were left out for their suffix (2 .rst, 1 without any, 1 .csv): d/LICENSE, d/b.rst, "
        "d/p.csv and others."
    )


def test_linked_folders_are_followed_and_loops_end(tree):
    tree("far/deep/a.txt", "far/back -> ../d", "d/b.txt", "d/far -> ../far", "d/up -> ..", "d/self -> .")
    assert found("d") == (["d/b.txt", "d/far/deep/a.txt"], {"link-loop": 2})
    assert found("far")[0] == ["far/back/b.txt", "far/deep/a.txt"]


def test_a_folder_linked_within_its_own_tree_is_read_once_under_its_own_name(tree):
    tree("d/real/a.txt", "d/also -> real", "d/.versions/2/b.txt", "d/current -> .versions/2")
    assert found("d") == (["d/current/b.txt", "d/real/a.txt"], {"hidden": 1})


def test_a_pattern_meets_a_loop(tree):
    tree("d/a.txt", "d/self -> .", "d/x/b.txt")
    assert found("d/**/*.txt")[0] == ["d/a.txt", "d/x/b.txt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
def test_what_is_no_file_is_counted_and_not_waited_for(tree):
    tree("d/a.txt", "d/broken.txt -> nowhere")
    os.mkfifo("d/pipe.txt")
    assert found("d") == (["d/a.txt"], {"no-file": 2})
    assert found("d/*.txt") == (["d/a.txt"], {"no-file": 2})


OURS = {
    "a run": ("run.json",),
    "a checkpoint": ("manifest.json",),
    "a pulled model": ("origin.json",),
    "an adapter": ("adapter_config.json",),
    "a model of transformers": ("config.json", "model.safetensors"),
    "a tokenizer": ("vocab.json", "merges.txt"),
}


@pytest.mark.parametrize("names", OURS.values(), ids=OURS)
def test_our_own_folders_are_no_data_unless_their_files_are_named(tree, names):
    tree("a.txt", *(f"runs/a/{name}" for name in (*names, "samples.md", "tokenizer/merges.txt", "metrics.jsonl")))
    if "run.json" in names:
        mark_run(Path("runs/a"))
    if "manifest.json" in names:
        write_json(Path("runs/a/manifest.json"), {"config.json": {"bytes": 1, "sha256": "0"}})
    for source, text in ((".", "a.txt"), ("**/*", "a.txt"), ("[ar]*", "a.txt")):
        assert found(source) == ([text], {"own-folder": 1}), source
    assert found("runs/a/samples.md") == (["runs/a/samples.md"], {})
    assert "runs/a/samples.md" in found("runs/a/*.md")[0]
    with pytest.raises(DataError, match=r"runs/a: the folder of a run, a model or prepared data, which is never"):
        found("runs/a")
    for source in ("runs", "runs/*/*.md"):
        with pytest.raises(DataError, match=r"1 folder of a run, a model or prepared data was left out: runs/a\."):
            found(source)
    with pytest.raises(DataError, match="1 folder of a run"):
        found("runs", IN_FOLDERS)  # examples: metrics.jsonl is none


def test_files_of_the_same_names_that_others_wrote_make_no_folder_ours(tree):
    tree(
        "web/manifest.json",
        "web/config.json",
        "web/a.txt",
        "log/run.json",
        "log/b.txt",
        "toml/config.toml",
        "toml/c.md",
    )
    assert found(".")[0] == ["log/b.txt", "toml/c.md", "web/a.txt"]


def test_locks_and_what_is_being_written_are_not_told_of(tree):
    tree("a.txt", ".run.lock", ".lock", ".unfinished-run/b.txt", ".git/c.txt")
    assert found(".") == (["a.txt"], {"hidden": 1})


def test_the_cache_is_no_data(tree, monkeypatch, tmp_path):
    tree("a.txt", "cache/b.txt", "models/c.txt")
    monkeypatch.setenv("HANDLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HANDLOOM_MODELS", "models")
    assert found(".") == (["a.txt"], {"own-folder": 2})


def test_a_folder_without_records_is_told_what_other_files_may_be_named(tmp_path):
    (tmp_path / "a.csv").write_text("text\nOne", encoding="utf-8")
    for suffixes, other in ((IN_FOLDERS, "json"), ((".txt", ".md", ".py", *IN_FOLDERS), "rst")):
        with pytest.raises(DataError) as caught:
            files_of(str(tmp_path), suffixes)
        assert f'"FOLDER/*.{other}"' in caught.value.remedy
