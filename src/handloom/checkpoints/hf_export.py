"""Exports a model as a Hugging Face folder, which transformers loads with the same logits and the same ids.

It contains the weights, `config.json`, the tokenizer in both forms that are in use, and a model card.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from handloom import ownership, replacement, storage
from handloom.checkpoints.formats import SAFETENSORS
from handloom.checkpoints.hf_config import write_config
from handloom.checkpoints.hf_folder import FINGERPRINT, to_hf
from handloom.checkpoints.model_card import Use, write_model_card
from handloom.checkpoints.model_store import CONFIG
from handloom.checkpoints.safetensors_io import write_tensors
from handloom.model.gpt import GPT
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import CHAT_TEMPLATE, in_jinja


def _use(pipeline: str, auto_model: str, command: str) -> Use:
    return Use(
        header=f"library_name: transformers\npipeline_tag: {pipeline}\ntags: [gpt2, handloom]",
        how=f"""```python
from transformers import {auto_model}, AutoTokenizer

model = {auto_model}.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

Or with Handloom: `handloom.load("path/to/this/folder").{command}`.""",
    )


FOR_TRANSFORMERS = _use("text-generation", "AutoModelForCausalLM", 'generate("The ")')
CLASSIFIER = _use("text-classification", "AutoModelForSequenceClassification", 'classify("Some text")')


def export_folder(
    target: Path,
    model: GPT,
    tokenizer: Tokenizer,
    training: dict[str, Any] | None = None,
    *,
    overwrite: bool = False,
    reads: Sequence[Path] = (),
) -> None:
    """Write the folder `target` with the weights in float32, bit for bit: completely or not at all.

    Args:
        training: the trainer state of the model's checkpoint, for the model card; None: unknown.
        overwrite: whether an existing folder of ours may be replaced.
        reads: the folders that the model was read from; they are not replaced.

    Raises ConfigError: the folder may not be made there, or not be replaced; see `ownership.require_replaceable`;
    CheckpointError: another process makes the same folder, or the disk refuses.
    """
    ownership.require_replaceable(target, reads, overwrite)
    tensors = to_hf(model)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    with replacement.new_folder(target, size + (16 << 20), reads, overwrite) as folder:
        # transformers requires the first of these, and ignores the second.
        write_tensors(folder / SAFETENSORS, tensors, {"format": "pt", FINGERPRINT: tokenizer.fingerprint})
        storage.write_json(folder / CONFIG, write_config(model.config, tokenizer.eos_token_id, tokenizer.eos_token_ids))
        _write_tokenizer(folder, tokenizer, model, training)
        use = CLASSIFIER if model.config.label_names else FOR_TRANSFORMERS
        write_model_card(folder, model, tokenizer, use=use, training=training, name=target.name)


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, model: GPT, training: dict[str, Any] | None) -> None:
    """`vocab.json` and `merges.txt` for older programs, `tokenizer.json` for newer ones.

    In theirs, unlike in ours, the text <|endoftext|> stands for the end of a text.
    """
    settings = {"model_max_length": model.config.context_length, "chat_template": chat_template(tokenizer, training)}
    if model.config.label_names:
        settings["pad_token"] = tokenizer.settings.named.get("pad_token", tokenizer.decode([tokenizer.eos_token_id]))
    tokenizer.save(folder, settings)


def chat_template(tokenizer: Tokenizer, training: dict[str, Any] | None) -> str | None:
    """The template that a model was trained with here, in Jinja, or that it came with."""
    trained = (training or {}).get("template") == CHAT_TEMPLATE
    return in_jinja(tokenizer) if trained else tokenizer.settings.chat_template
