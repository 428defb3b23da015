"""Files and folders are replaced whole, or stay as they were; what a command reads is not written over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handloom import storage
from handloom.errors import CheckpointError, ConfigError


def test_an_output_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    path.chmod(0o640)

    def interrupted():
        with storage.output_file(path) as file:
            file.write("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    with storage.output_file(path) as file:
        file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640
    storage.write_output(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_an_output_file_through_a_link_and_to_a_pipe(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    storage.write_output(tmp_path / "link", "through")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "through"
    read, write = os.pipe()
    storage.write_output(Path(f"/proc/self/fd/{write}"), "into the pipe")
    os.close(write)
    with open(read, encoding="utf-8") as pipe:
        assert pipe.read() == "into the pipe"
    storage.write_output(Path("/dev/null"), "nowhere")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("how", ["itself", "by link", "by hard link", "in a folder", "by another spelling"])
def test_an_input_is_not_written_over(tmp_path, how):
    (tmp_path / "data").mkdir()
    kept = tmp_path / "data" / "a.jsonl"
    kept.write_text("kept")
    path, read = kept, kept
    if how == "by link":
        path = tmp_path / "link"
        path.symlink_to(kept)
    elif how == "by hard link":
        path = tmp_path / "hard"
        os.link(kept, path)
    elif how == "in a folder":
        read = kept.parent
    elif how == "by another spelling":
        read = tmp_path / "data" / ".." / "data" / "a.jsonl"
    with pytest.raises(ConfigError, match="is read by this command"):
        storage.write_output(path, "lost", [tmp_path / "not-there", read])
    assert kept.read_text() == "kept"
    storage.write_output(kept.parent / "b.jsonl", "new", [kept.parent])


def test_an_output_file_that_is_a_folder_or_in_none(tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        storage.write_output(tmp_path, "x")
    with pytest.raises(CheckpointError, match="No such file"):
        storage.write_output(tmp_path / "none" / "out.txt", "x")
