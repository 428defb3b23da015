"""`handloom pull`, `model` and `export`: models on disk."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App
from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

from handloom.cli.flags import ModelPath, path_of
from handloom.console import column, new_console, note, print_json, progress, table, write
from handloom.errors import ConfigError

if TYPE_CHECKING:
    from handloom.checkpoints.model_store import LocalModel

app = App(name="model", help="List local models and presets, and show the parts of one.", help_format="plaintext")


def pull(name: str, *, revision: str | None = None, endpoint: str | None = None) -> None:
    """Fetch a GPT-2 model into the models folder, or bring it up to date.

    An interrupted pull resumes where it ended. Afterwards nothing needs the network.

    Parameters
    ----------
    name
        gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2, or owner/name.
    revision
        Branch, tag or commit; the newest of the main branch if not given.
    endpoint
        Address of another hub or a mirror. HF_ENDPOINT sets it for good; HF_TOKEN is respected.
    """
    from handloom.checkpoints import pull as puller

    columns = (column("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task("Listing", total=None)

        def show_progress(now: puller.Progress) -> None:
            bar.update(task, description=now.file, completed=now.done, total=now.total)

        try:
            pulled = puller.pull(name, revision=revision, endpoint=endpoint, on_progress=show_progress)
        except KeyboardInterrupt:
            bar.stop()
            note("What was fetched is kept; the same command resumes.", "")
            raise
    model = pulled.model
    how = f"{pulled.fetched / 1e6:,.1f} MB fetched" if pulled.fetched else "nothing had to be fetched"
    write(f"{model.name} is in {model.folder}: {model.bytes / 1e6:,.1f} MB, {how}.")
    write(f"It is {model.repository} at revision {model.revision}.")


@app.command(name="list")
def list_models(*, json: bool = False) -> None:
    """List the models in the models folder: fetched with `handloom pull`, or copied there by hand.

    Parameters
    ----------
    json
        Print one JSON object a line.
    """
    from handloom.checkpoints.model_store import local_models

    models = local_models()
    if not json:
        _print_models(models)
        return
    for model in models:
        print_json(model.to_dict())


def _print_models(models: list[LocalModel]) -> None:
    from handloom.checkpoints.model_store import ENDPOINT, folder_bytes, unfinished_pulls
    from handloom.runtime import models_folder

    console = new_console()
    if models:
        rows = []
        for model in models:
            at = "" if model.endpoint in (None, ENDPOINT) else f" at {model.endpoint}"
            origin = f"{model.repository}{at}" if model.repository else "copied by hand"
            size, revision = f"{model.bytes / 1e6:,.1f}", (model.revision or "")[:12]
            rows.append((model.name, size, origin, revision, (model.pulled or "")[:10]))
        console.print(table(("model", ">MB", "origin", "revision", "pulled"), rows, pad_edge=True))
        console.print(f"Kept in {models_folder()}", soft_wrap=True)
    else:
        console.print(
            f"No model in {models_folder()}. Fetch one with: handloom pull gpt2. Or copy a folder there that holds "
            "config.json, vocab.json, merges.txt and the weights.",
            soft_wrap=True,
        )
    for name, folder in unfinished_pulls():
        fetched = f"{folder_bytes(folder) / 1e6:,.1f} MB fetched"
        console.print(f"Unfinished, {fetched}: {name}. To resume: handloom pull {name}", soft_wrap=True)


@app.command
def show(name: str) -> None:
    """Print the parts of a model with their parameters, bytes and arithmetic.

    Parameters
    ----------
    name
        A preset (see `handloom model presets`), a local model (see `handloom model list`) or a run folder.
    """
    from handloom.checkpoints.model_store import model_folder
    from handloom.model.config import PRESETS, preset
    from handloom.model.summary import model_summary

    is_path = os.sep in name or "/" in name or os.path.isdir(name) or model_folder(name).is_dir()
    if name in PRESETS or not is_path:
        config = preset(name)
    else:
        from handloom.loading import find_model

        config = find_model(name, note).config
    parts = [(p.name, p.shape, str(p.count), p.parameters, p.flops) for p in model_summary(config)]
    total = ("all", "", "", sum(part[3] for part in parts), sum(part[4] for part in parts))
    *rows, last = (
        (*words, f"{parameters:,}", f"{parameters * 4 / 1e6:,.1f}", f"{flops / 1e6:,.2f}")
        for *words, parameters, flops in (*parts, total)
    )
    title = f"{name}: {config.layers} layers, context {config.context_length}"
    columns = ("part", "shape", ">times", ">parameters", ">MB", ">MFLOP")
    shown = table(columns, rows, title=title, pad_edge=True)
    shown.add_section()
    shown.add_row(*last, style="bold")
    console = new_console()
    console.print(shown)
    console.print(
        "MB in float32. MFLOP for each token: forward pass, attention over half the context; "
        "training costs three times as much."
    )


@app.command
def presets() -> None:
    """List the presets: sizes of a new model to train."""
    from handloom.model.config import PRESETS
    from handloom.model.summary import parameter_count

    columns = ("preset", ">layers", ">heads", ">embed_dim", ">context", ">vocabulary", ">parameters")
    rows = []
    for name, c in PRESETS.items():
        numbers = (c.layers, c.heads, c.embed_dim, c.context_length, c.vocab_size, parameter_count(c))
        rows.append((name, *(f"{number:,}" for number in numbers)))
    new_console().print(table(columns, rows, collapse_padding=True))


def export(
    model: ModelPath,
    folder: Annotated[Path, path_of("FOLDER")],
    *,
    to: Literal["hf", "gguf"],
    dtype: Literal["f32", "f16"] = "f32",
    overwrite: bool = False,
) -> None:
    """Write a model in a form that other programs read.

    Parameters
    ----------
    model
        Run folder, checkpoint folder, Hugging Face folder, GGUF file, nanoGPT's ckpt.pt, or the name of a pulled model.
    folder
        The folder to make.
    to
        hf: a Hugging Face folder, for transformers and whatever reads its files;
        gguf: a file for llama.cpp, Ollama and their like, with a model card.
    dtype
        How the weights are written. f16, for gguf alone, takes half the space and rounds.
    overwrite
        Replace the folder, if it is there and holds only what an earlier export wrote.
    """
    from handloom.checkpoints import hf_folder
    from handloom.checkpoints.gguf_export import export_gguf
    from handloom.checkpoints.hf_export import export_folder
    from handloom.loading import find_model, folders_of
    from handloom.ownership import require_replaceable

    if to == "hf" and dtype != "f32":
        raise ConfigError(
            f"A Hugging Face folder is written in f32, not in {dtype}.", "Leave --dtype out, or export --to gguf."
        )
    stored = find_model(model, note)
    reads = folders_of(stored)
    require_replaceable(folder, reads, overwrite)  # before the weights are read
    training = None if isinstance(stored, hf_folder.HFCheckpoint) else stored.training or None
    what = (folder, stored.load_model(), stored.load_tokenizer(), training)
    if to == "hf":
        export_folder(*what, overwrite=overwrite, reads=reads)
        kind = "SequenceClassification" if stored.config.label_names else "CausalLM"
        how = f"transformers loads it: AutoModelFor{kind}.from_pretrained({str(folder)!r})"
    else:
        file = export_gguf(*what, precision=dtype, overwrite=overwrite, reads=reads)
        how = f'llama.cpp continues a text with it: llama-completion -m {shlex.quote(str(file))} -no-cnv -p "The "'
    write(f"Written to {folder}.")
    write(how)
