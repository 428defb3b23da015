"""A disk that becomes full in the middle of training takes nothing away that was saved before."""

from __future__ import annotations

import contextlib
from contextlib import ExitStack
from pathlib import Path

import pytest
from bad_inputs import FOX, CannotMountError, small_disk

from handloom.checkpoints import native

# Wide enough that a checkpoint is near 1 MB: four fit on the disk below, twenty do not.
SETTINGS = [
    *("--vocab-size", "280", "--context-length", "16", "--layers", "1", "--heads", "2", "--embed-dim", "64"),
    *("--batch-size", "2", "--steps", "20", "--checkpoint-every", "1", "--keep-checkpoints", "20"),
    *("--eval-every", "20", "--sample-every", "0", "--threads", "1", "--precision", "fp32"),
]


@pytest.fixture
def disk(tmp_path):
    """A folder on a disk of 9 MB."""
    with ExitStack() as stack:
        try:
            stack.enter_context(small_disk(tmp_path / "disk", "9m"))
        except CannotMountError:
            pytest.skip("mounting a small disk is not allowed here")
        yield tmp_path / "disk"


def test_a_disk_that_becomes_full_while_training_leaves_the_last_good_checkpoint(disk, tmp_path, inside):
    text = tmp_path / "fox.txt"
    text.write_text(FOX * 40, encoding="utf-8")
    folder = disk / "run"

    code, _, error = inside("train", "--data", text, "--run", folder, *SETTINGS)
    assert code == 2
    assert error.startswith("Error: No space to write to")
    assert error.count("\n") == 1
    saved = native.steps(folder)
    assert saved
    assert 0 < saved[-1] < 20
    assert [path.name for path in (folder / native.CHECKPOINTS).iterdir() if path.name.startswith(".")] == []
    checkpoint, passed_over = native.latest(folder)
    assert checkpoint.folder == native.step_folder(folder, saved[-1])
    assert passed_over == []

    code, out, error = inside("generate", "The", "--model", folder, "--max-new-tokens", 5)
    assert (code, error) == (0, "")
    assert out.startswith("The")

    for step in saved[:-1]:  # somebody frees some space
        for path in sorted(native.step_folder(folder, step).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    code, out, error = inside("train", "--resume", folder, "--keep-checkpoints", 1)
    assert (code, error) == (0, "")
    assert native.steps(folder)[-1] == 20


def test_a_disk_filled_by_others_between_two_checkpoints(disk, tmp_path, inside):
    text = tmp_path / "fox.txt"
    text.write_text(FOX * 40, encoding="utf-8")
    folder = disk / "run"
    assert inside("train", "--data", text, "--run", folder, *SETTINGS, "--stop-after", 2).returncode == 0
    filler = disk / "filler"
    fill(filler)
    code, _, error = inside("train", "--resume", folder)
    assert code == 2
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert native.latest(folder)[0].folder == native.step_folder(folder, 2)
    assert inside("generate", "The", "--model", folder, "--max-new-tokens", 5).returncode == 0
    filler.unlink()
    assert inside("train", "--resume", folder, "--steps", 3).returncode == 0
    assert native.steps(folder)[-1] == 3


def fill(path: Path) -> None:
    """Take every byte that is left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
