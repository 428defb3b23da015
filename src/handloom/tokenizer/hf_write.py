"""A tokenizer as Hugging Face's libraries read it: `tokenizer.json` and its settings; the inverse of `hf_folder`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from handloom.tokenizer.hf_config import CONFIG, GENERATION, GPT2_CLASSES, TEMPLATE
from handloom.tokenizer.vocab_files import TOKENIZER_JSON

if TYPE_CHECKING:
    from handloom.tokenizer.added import AddedToken
    from handloom.tokenizer.bpe import BPETokenizer


def contents(tokenizer: BPETokenizer, more: Mapping[str, Any]) -> dict[str, str]:
    """The files for what `vocab.json` and `merges.txt` cannot hold, by name.

    `more` has further keys of `tokenizer_config.json`; they replace those of the tokenizer.
    """
    settings = tokenizer.settings
    end = tokenizer.tokens[tokenizer.eos_token_id].decode()
    # GPT-2's class takes vocabulary, merges and added tokens from tokenizer.json, and nothing else.
    plain = settings.unk is None and not settings.ignore_merges
    config: dict[str, Any] = {
        "tokenizer_class": GPT2_CLASSES[0] if plain else "PreTrainedTokenizerFast",
        "add_prefix_space": settings.add_prefix_space,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {str(token.id): _flags(token) for token in tokenizer.all_added},
        **{"bos_token": end, "eos_token": end, "unk_token": end},
        **settings.named,
        **more,
    }
    template = config.pop("chat_template", settings.chat_template)
    if settings.more_templates and template == settings.chat_template:  # all of them, or one that was learned
        named = ({"default": template} if template else {}) | dict(settings.more_templates)
        config["chat_template"] = [{"name": name, "template": text} for name, text in named.items()]
        template = None
    ends = list(tokenizer.eos_token_ids)
    generation = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": ends[0] if len(ends) == 1 else ends}
    written = {
        TOKENIZER_JSON: json.dumps(_single(tokenizer), ensure_ascii=False),
        CONFIG: json.dumps(config, ensure_ascii=False, indent=2),
        GENERATION: json.dumps(generation, ensure_ascii=False, indent=2),
    }
    return {name: text + "\n" for name, text in written.items()} | ({TEMPLATE: template} if template else {})


def distinct(tokenizer: BPETokenizer) -> str:
    """The settings that change the ids of texts and documents, as text; empty where they are GPT-2's."""
    settings, known = tokenizer.settings, tokenizer.vocabulary
    added = [[t.id, _flags(t)] for t in settings.added if not t.special or t.content not in known]
    unk = [settings.unk, settings.fuse_unk] if tokenizer.lacks_bytes else None
    whole = settings.ignore_merges and tokenizer.in_order is None
    values = [added, settings.add_prefix_space, unk, whole, settings.eos_token_id]
    return "" if values == [[], False, None, False, None] else json.dumps(values)


def _flags(token: AddedToken) -> dict[str, Any]:
    names = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {name: getattr(token, name) for name in names}


def _single(tokenizer: BPETokenizer) -> dict[str, Any]:
    settings = tokenizer.settings
    level = {
        "type": "ByteLevel",
        "add_prefix_space": settings.add_prefix_space,
        "trim_offsets": True,
        "use_regex": True,
    }
    return {
        "version": "1.0",
        **dict.fromkeys(("truncation", "padding")),
        "added_tokens": [{"id": token.id, **_flags(token)} for token in tokenizer.all_added],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": level | {"trim_offsets": False},
        "decoder": level,
        "model": {
            **{"type": "BPE", "dropout": None, "unk_token": settings.unk},
            **dict.fromkeys(("continuing_subword_prefix", "end_of_word_suffix")),
            **{"fuse_unk": settings.fuse_unk, "byte_fallback": False, "ignore_merges": settings.ignore_merges},
            "vocab": tokenizer.vocabulary,
            "merges": [list(merge) for merge in tokenizer.word_merges],
        },
    }
