"""A model of ours as a Hugging Face folder, which transformers loads with the same logits and the same ids.

What is written: the weights, `config.json`, the tokenizer in both forms that are in use, and a model card.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from handloom import ownership, replacement, storage
from handloom.checkpoints.gpt2 import CONFIG, FINGERPRINT, to_theirs
from handloom.checkpoints.gpt2_config import write_config
from handloom.checkpoints.model_card import Use, write_model_card
from handloom.checkpoints.native import as_os_error
from handloom.checkpoints.weights import SAFETENSORS
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer.base import END_OF_TEXT, Tokenizer
from handloom.tokenizer.files import MERGES, VOCABULARY

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
    tensors = {name: tensor.detach().contiguous() for name, tensor in to_theirs(model).items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    with replacement.new_folder(target, size + (16 << 20), reads, overwrite) as aside:
        try:
            # transformers asks for the first of these remarks, and overlooks the second.
            remarks = {"format": "pt", FINGERPRINT: tokenizer.fingerprint}
            save_file(tensors, aside / SAFETENSORS, metadata=remarks)
        except SafetensorError as error:
            raise as_os_error(error) from error
        storage.write_json(aside / CONFIG, write_config(model.config, tokenizer.end_of_text))
        ends = {"bos_token_id": tokenizer.end_of_text, "eos_token_id": tokenizer.end_of_text}
        storage.write_json(aside / "generation_config.json", ends)
        write_tokenizer(aside, tokenizer, model.config)
        write_model_card(
            aside,
            target.name,
            model,
            tokenizer,
            training,
            CLASSIFIER if model.config.labels else FOR_TRANSFORMERS,
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
        **({"pad_token": END_OF_TEXT} if config.labels else {}),
    }
    storage.write_json(folder / "tokenizer_config.json", settings)
