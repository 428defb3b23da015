"""A model of ours as a Hugging Face folder, which transformers loads with the same logits and the same ids.

What is written: the weights, `config.json`, the tokenizer in both forms that are in use, and a model card.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from handloom import ownership, replacement, storage
from handloom.checkpoints.gpt2 import CONFIG, FINGERPRINT, to_hf
from handloom.checkpoints.gpt2_config import write_config
from handloom.checkpoints.hf_weights import SAFETENSORS
from handloom.checkpoints.model_card import Use, write_model_card
from handloom.checkpoints.native import as_os_error
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import CHAT_TEMPLATE, in_jinja

FOR_TRANSFORMERS = Use(
    header="library_name: transformers\npipeline_tag: text-generation\ntags: [gpt2, handloom]",
    how="""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

Or with Handloom: `handloom generate "The " --model path/to/this/folder`.""",
)

CLASSIFIER = Use(
    header="library_name: transformers\npipeline_tag: text-classification\ntags: [gpt2, handloom]",
    how="""```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

Or with Handloom: `handloom classify "Some text" --model path/to/this/folder`.""",
)


def export_folder(
    target: Path,
    model: GPT,
    tokenizer: Tokenizer,
    training: dict[str, Any] | None = None,
    *,
    overwrite: bool = False,
    reads: Sequence[Path] = (),
) -> None:
    """Write `target`: wholly or not at all.

    Args:
        target: the folder to make.
        model: its weights are written in float32, bit for bit.
        tokenizer: the model's.
        training: what its checkpoint tells about its training, for the model card; None: nothing is known.
        overwrite: whether a folder of ours that is there may be replaced.
        reads: the folders that the model was read from; they are not replaced.

    Raises:
        ConfigError: the folder may not be made there, or not be replaced; see `ownership.require_replaceable`.
        CheckpointError: another process makes the same folder, or the disk refuses.
    """
    ownership.require_replaceable(target, reads, overwrite)
    # save_file wants every tensor in its own order in memory. Weights that were read from such a folder are so already.
    tensors = {name: tensor.detach().contiguous() for name, tensor in to_hf(model).items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    with replacement.new_folder(target, size + (16 << 20), reads, overwrite) as aside:
        try:
            # transformers asks for the first of these remarks, and overlooks the second.
            remarks = {"format": "pt", FINGERPRINT: tokenizer.fingerprint}
            save_file(tensors, aside / SAFETENSORS, metadata=remarks)
        except SafetensorError as error:
            raise as_os_error(error) from error
        storage.write_json(aside / CONFIG, write_config(model.config, tokenizer.eos_token_id, tokenizer.eos_token_ids))
        write_tokenizer(aside, tokenizer, model.config, training)
        write_model_card(
            aside, target.name, model, tokenizer, training, CLASSIFIER if model.config.label_names else FOR_TRANSFORMERS
        )


def write_tokenizer(
    folder: Path, tokenizer: Tokenizer, config: GPTConfig, training: dict[str, Any] | None = None
) -> None:
    """Write `vocab.json` and `merges.txt`, and the same once more as `tokenizer.json` with its settings.

    Older programs read the pair, newer ones the single file. In theirs, other than in ours, the text
    <|endoftext|> stands for the end of a text.
    """
    end = tokenizer.decode([tokenizer.eos_token_id])
    padding = {"pad_token": tokenizer.settings.named.get("pad_token", end)} if config.label_names else {}
    settings = {
        "model_max_length": config.context_length,
        "chat_template": chat_template(tokenizer, training),
        **padding,
    }
    tokenizer.save(folder, settings)


def chat_template(tokenizer: Tokenizer, training: dict[str, Any] | None) -> str | None:
    """The template that a model learned here, in Jinja, or that it came with."""
    learned = (training or {}).get("template") == CHAT_TEMPLATE
    return in_jinja(tokenizer) if learned else tokenizer.settings.chat_template
