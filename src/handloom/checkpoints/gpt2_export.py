"""A model of ours as a Hugging Face folder, which transformers loads with the same logits and the same ids.

What is written: the weights, `config.json`, the tokenizer in both forms that are in use, and a model card.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from handloom.checkpoints import files
from handloom.checkpoints.gpt2 import CONFIG, FINGERPRINT, to_theirs
from handloom.checkpoints.gpt2_config import write_config
from handloom.checkpoints.native import as_os_error
from handloom.checkpoints.weights import SAFETENSORS
from handloom.errors import CheckpointError
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer.base import END_OF_TEXT, Tokenizer
from handloom.tokenizer.files import MERGES, VOCABULARY


def export_folder(
    target: Path,
    model: GPT,
    tokenizer: Tokenizer,
    training: dict[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write `target`: wholly or not at all.

    Args:
        target: the folder to make.
        model: its weights are written in float32, bit for bit.
        tokenizer: the model's.
        training: what its checkpoint tells about its training, for the model card; None: nothing is known.
        overwrite: whether a folder that is there may be replaced.

    Raises:
        CheckpointError: the folder is there already, or the disk refuses.
    """
    if target.exists() and not overwrite and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(
            f"{target} exists already.", "Name another folder, or replace it with --overwrite."
        )
    # save_file wants every tensor in its own order in memory. Weights that were read from such a folder are so already.
    tensors = {name: tensor.detach().contiguous() for name, tensor in to_theirs(model).items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    with files.whole_folder(target, size + (16 << 20)) as aside:
        try:
            # transformers asks for the first of these remarks, and overlooks the second.
            remarks = {"format": "pt", FINGERPRINT: tokenizer.fingerprint}
            save_file(tensors, aside / SAFETENSORS, metadata=remarks)
        except SafetensorError as error:
            raise as_os_error(error) from error
        files.write_json(aside / CONFIG, write_config(model.config, tokenizer.end_of_text))
        ends = {"bos_token_id": tokenizer.end_of_text, "eos_token_id": tokenizer.end_of_text}
        files.write_json(aside / "generation_config.json", ends)
        write_tokenizer(aside, tokenizer, model.config)
        (aside / "README.md").write_text(
            model_card(target.name, model, tokenizer, training), encoding="utf-8", newline="\n"
        )


def write_tokenizer(folder: Path, tokenizer: Tokenizer, config: GPTConfig) -> None:
    """Write `vocab.json` and `merges.txt`, and the same once more as `tokenizer.json` with its settings.

    Older programs read the pair, newer ones the single file. In theirs, other than in ours, the text
    <|endoftext|> stands for the end of a text.
    """
    tokenizer.save(folder)
    vocabulary = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
    lines = (folder / MERGES).read_text(encoding="utf-8").splitlines()[1:]
    bytes_as_letters = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    single = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": tokenizer.end_of_text, "content": END_OF_TEXT, **special}],
        "normalizer": None,
        "pre_tokenizer": bytes_as_letters,
        "post_processor": {**bytes_as_letters, "trim_offsets": False},
        "decoder": bytes_as_letters,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [line.split(" ") for line in lines],
        },
    }
    (folder / "tokenizer.json").write_text(
        json.dumps(single, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n"
    )
    settings = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": config.context,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
    }
    files.write_json(folder / "tokenizer_config.json", settings)


def model_card(name: str, model: GPT, tokenizer: Tokenizer, training: dict[str, Any] | None) -> str:
    """The `README.md` of an exported model: what it is, how it was trained, how it is used."""
    c = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [gpt2, handloom]",
        "---",
        "",
        f"# {name}",
        "",
        f"A GPT-2 style model with {parameters:,} parameters: {c.layers} layers, {c.heads} heads, {c.width} wide, "
        f"a context of {c.context:,} tokens, and a vocabulary of {tokenizer.vocab_size:,} tokens. "
        "Exported by Handloom.",
        "",
        "## How it was trained",
        "",
        *_how_it_was_trained(training),
        "",
        "## How to use it",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")',
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")',
        "```",
        "",
        'Or with Handloom: `handloom generate "The " --model path/to/this/folder`.',
        "",
        f"The id {tokenizer.end_of_text} begins and ends every document. The model continues text; "
        "it follows no instructions.",
    ]
    return "\n".join(lines) + "\n"


def _how_it_was_trained(training: dict[str, Any] | None) -> list[str]:
    if training is None:
        return ["Not by Handloom, and the folder that it was read from does not say how."]
    progress, settings = training["progress"], training["settings"]
    best = progress.get("best_loss")
    return [
        f"From random weights, {progress['step']:,} steps over {progress['tokens']:,} tokens"
        + (f", to a best validation loss of {best:.4f} nats per token." if best is not None else "."),
        "",
        "| Setting | Value |",
        "| --- | --- |",
        *(f"| {key} | {_cell(value)} |" for key, value in settings.items() if value is not None),
        "",
        "| Version of | Value |",
        "| --- | --- |",
        *(f"| {key} | {_cell(value)} |" for key, value in training["versions"].items()),
    ]


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return " ".join(text.replace("|", "\\|").split())
