"""Text <-> ids, without torch.

`pretokenize` splits text into pieces, `bpe` merges the bytes of a piece into tokens, `train` learns the merges,
`gpt2` holds GPT-2's vocabulary and the fast path, `chat` encodes conversations; `hf_files` reads and writes Hugging
Face folders.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from handloom.errors import DataError
from handloom.runtime import user_path

if TYPE_CHECKING:
    from handloom.tokenizer.bpe import BPETokenizer


def load_tokenizer(
    source: str | Path, *, fast: bool = True, rows: int | None = None, templates: bool = True
) -> BPETokenizer:
    """GPT-2's tokenizer ("gpt2"), or that of a folder ("./gpt2" for one of that name).

    `fast` encodes with tiktoken instead of the hand-written tokenizer; the ids are the same. `rows` is how many ids the
    model has: added special tokens beyond them are left out. `templates=False` drops its chat templates, which a new
    model has not been trained on. Raises DataError for files that are missing, damaged, or of another kind.
    """
    from handloom.tokenizer.bpe import BPETokenizer
    from handloom.tokenizer.gpt2 import TiktokenTokenizer, gpt2_bpe

    if source == "gpt2":
        reference = gpt2_bpe()
    elif (folder := user_path(source, "the tokenizer")).is_dir():
        reference = BPETokenizer.from_folder(folder, rows)
    else:
        raise DataError(
            f"There is no tokenizer folder {str(source)!r}.",
            'Give "gpt2", or a folder with tokenizer.json, or with vocab.json and merges.txt.',
        )
    if not templates:
        reference.settings = replace(reference.settings, chat_template=None, more_templates={})
    return TiktokenTokenizer(reference) if fast else reference
