"""Folders that may not be replaced, or belong to somebody else: a part of the first table of docs/errors.md."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

from bad_inputs import NEWEST, TINY, BadInput

STEPS = f"{TINY}--steps 2".strip()


def held_by_another(stack: ExitStack, lock: Path) -> None:
    """A lock that another process seems to hold."""
    from handloom import locks

    lock.parent.mkdir(parents=True, exist_ok=True)
    stack.enter_context(locks.hold(lock, lock))
    lock.write_text("4711\nloom\n", encoding="utf-8")


def run_in_use(stack: ExitStack) -> None:
    held_by_another(stack, Path("runs/demo/.handloom.lock"))


def export_in_use(stack: ExitStack) -> None:
    held_by_another(stack, Path(".new.handloom.lock"))


def adapter(stack: ExitStack) -> None:
    """runs/lora, trained on the newest checkpoint of runs/demo."""
    from handloom.training import run
    from handloom.training.config import FinetuneConfig

    run.begin(Path("runs/lora"), FinetuneConfig(data=("fox.txt",), model="runs/demo", steps=1, threads=1))


def adapter_without_base(stack: ExitStack) -> None:
    adapter(stack)
    shutil.rmtree(NEWEST)


def changed_base(stack: ExitStack) -> None:
    """The weights of the run that an adapter was trained on are others now, in a checkpoint that is whole."""
    from handloom.checkpoints import native
    from handloom.model.gpt import GPT

    adapter(stack)
    there = native.open_checkpoint(NEWEST)
    native.save(NEWEST, GPT(there.config, seed=9), there.load_tokenizer(), there.training)


def notes_in_the_run(stack: ExitStack) -> None:
    Path("runs/demo/notes.txt").write_text("mine", encoding="utf-8")


def edited_export(stack: ExitStack) -> None:
    Path("plain/README.md").write_text("my own card", encoding="utf-8")


def _rewrite(name: str, change) -> None:
    """Change a JSON file of the newest checkpoint, and its line in the manifest with it."""
    from handloom import storage

    values = storage.read_json(NEWEST / name)
    change(values)
    storage.write_json(NEWEST / name, values)
    manifest = storage.read_json(NEWEST / storage.MANIFEST)
    manifest[name] = storage.describe(NEWEST / name)
    storage.write_json(NEWEST / storage.MANIFEST, manifest)


def later_version(stack: ExitStack) -> None:
    _rewrite("config.json", lambda values: values.update(version=2))


def later_setting(stack: ExitStack) -> None:
    _rewrite("training.json", lambda values: values["settings"].update(warm_restarts=3))


def later_progress(stack: ExitStack) -> None:
    _rewrite("training.json", lambda values: values["progress"].update(restarts=3))


def later_config(stack: ExitStack) -> None:
    _rewrite("config.json", lambda values: values.pop("model"))


def later_adapter(stack: ExitStack) -> None:
    _rewrite("config.json", lambda values: values["model"].update(experts=2))


def users_folder(stack: ExitStack) -> None:
    folder = Path("p")
    folder.mkdir()
    (folder / "config.toml").write_text("steps = 2\n", encoding="utf-8")
    (folder / "data.json").write_text(json.dumps({"mine": True}), encoding="utf-8")
    shutil.copy("fox.txt", folder / "samples.md")
    shutil.copytree(NEWEST / "tokenizer", folder / "tokenizer")


_NO_CONFIG = f"--data fox.txt {STEPS}"
_OWN = "handloom train --config p/config.toml --data p/samples.md --tokenizer p/tokenizer --run p"
CASES = [
    BadInput("A base that would be replaced by its own tuning",
             "handloom finetune --model runs/demo --data fox.txt --run runs/demo --overwrite"),
    BadInput("A folder with settings, text and tokenizer of the user's", _OWN, users_folder),
    BadInput("The same, to be overwritten", f"{_OWN} --overwrite", users_folder),
    BadInput("A folder with other files in it", f"handloom train --run notes {_NO_CONFIG}"),
    BadInput("A run with other files in it", f"handloom train --run runs/demo --overwrite {_NO_CONFIG}",
             notes_in_the_run),
    BadInput("A run inside a run", f"handloom train --run runs/demo/checkpoints {_NO_CONFIG}"),
    BadInput("Settings in the run that would be replaced",
             f"handloom train --config runs/demo/config.toml --run runs/demo --overwrite {_NO_CONFIG}"),
    BadInput("A run that an adapter needs", f"handloom train --run runs/demo --overwrite {_NO_CONFIG}", adapter),
    BadInput("A run to go on in that is there already", "handloom train --resume runs/demo --run runs/lora", adapter),
    BadInput("A run that would be replaced by its export", "handloom export runs/demo runs/demo --to hf --overwrite"),
    BadInput("An export that somebody has edited", "handloom export runs/demo plain --to hf --overwrite",
             edited_export),
    BadInput("An export over a file", "handloom export runs/demo fox.txt --to gguf --overwrite"),
    BadInput("A run in use", "handloom train --resume runs/demo", run_in_use),
    BadInput("A run in use, to be overwritten", f"handloom train --run runs/demo --overwrite {_NO_CONFIG}", run_in_use),
    BadInput("An export that is being written", "handloom export runs/demo new --to hf", export_in_use),
    BadInput("A checkpoint of a later version", "handloom train --resume runs/demo", later_version),
    BadInput("A setting of a later version", "handloom train --resume runs/demo", later_setting),
    BadInput("A record of a later version", "handloom train --resume runs/demo", later_progress),
    BadInput("A checkpoint without the shape of its model", "handloom generate Hello --model runs/demo", later_config),
    BadInput("A part of a model of a later version", "handloom generate Hello --model runs/demo", later_adapter),
    BadInput("An adapter whose base is gone", "handloom generate Hello --model runs/lora", adapter_without_base),
    BadInput("An adapter whose base has changed", "handloom generate Hello --model runs/lora", changed_base),
]  # fmt: skip
