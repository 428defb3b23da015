"""The keys of `tokenizer.json`, `tokenizer_config.json` and their like, and the settings that they become.

Every key is supported, or known to change no id, or refused by name. Reads no files: that is `hf_folder`.

Source: `TokenizersBackend`, `GPT2Tokenizer` and `GenerationConfig` in the library transformers, and the serialized form
of the library tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handloom.errors import DataError
from handloom.tokenizer import vocab_files
from handloom.tokenizer.added import AddedToken

CONFIG = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
ADDED = "added_tokens.json"
GENERATION = "generation_config.json"
TEMPLATE = "chat_template.jinja"
MORE_TEMPLATES = "additional_chat_templates"
"""A folder of further ones, each with its name before the suffix."""
MODEL = "config.json"
_BOTH = (vocab_files.TOKENIZER_JSON, vocab_files.VOCABULARY, vocab_files.MERGES)
READ = (*_BOTH, CONFIG, SPECIAL, ADDED, GENERATION, TEMPLATE)
"""Every file of a folder that describes its tokenizer."""

NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")
CLASSES = (*GPT2_CLASSES, "PreTrainedTokenizerFast", "TokenizersBackend")

THE_MODEL, AN_ADDED_TOKEN = "model", "added token"
MORE = ("additional_special_tokens", "extra_special_tokens")
_SUPPORTED = {
    CONFIG: {*NAMED, *MORE, "add_prefix_space", "added_tokens_decoder", "chat_template", "tokenizer_class"},
    SPECIAL: {*NAMED, *MORE},
    GENERATION: {"eos_token_id"},
    vocab_files.TOKENIZER_JSON: {"added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"},
    THE_MODEL: {
        "type", "vocab", "merges", "unk_token", "fuse_unk", "ignore_merges", "dropout",
        "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback",
    },
    AN_ADDED_TOKEN: {"id", "content", "special", "lstrip", "rstrip", "single_word", "normalized", "__type"},
}  # fmt: skip
"""Keys that are read one by one."""

_HARMLESS = {
    CONFIG: {
        # Names and bookkeeping.
        "name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file", "merges_file", "backend",
        "is_local", "local_files_only", "processor_class", "use_fast", "legacy", "from_slow", "trust_remote_code",
        "_commit_hash", "model_input_names", "model_type", "response_schema", "model_specific_special_tokens",
        # What happens to ids afterwards: truncating and padding rows, cleaning text for display.
        "model_max_length", "max_len", "max_length", "stride", "padding", "padding_side", "truncation",
        "truncation_side", "truncation_strategy", "pad_to_multiple_of", "pad_token_id", "pad_token_type_id",
        "return_token_type_ids", "clean_up_tokenization_spaces", "errors", "trim_offsets", "verbose",
        # What we do in any case: typed text never becomes a special token.
        "split_special_tokens",
    },
    SPECIAL: set[str](),
    GENERATION: {
        "_from_model_config", "transformers_version", "bos_token_id", "pad_token_id", "decoder_start_token_id",
        # Defaults for sampling: a request sets them.
        "do_sample", "early_stopping", "max_length", "min_length", "max_new_tokens", "min_new_tokens", "max_time",
        "num_beams", "num_beam_groups", "num_return_sequences", "temperature", "top_k", "top_p", "min_p", "top_h",
        "typical_p", "epsilon_cutoff", "eta_cutoff", "length_penalty", "repetition_penalty", "diversity_penalty",
        "no_repeat_ngram_size", "bad_words_ids", "exponential_decay_length_penalty", "remove_invalid_values",
        "renormalize_logits", "use_cache", "cache_implementation", "cache_config", "output_scores",
        "output_logits", "output_attentions", "output_hidden_states", "return_dict_in_generate", "trust_remote_code",
    },
    vocab_files.TOKENIZER_JSON: {"version", "truncation", "padding"},
    THE_MODEL: set[str](),
    AN_ADDED_TOKEN: set[str](),
}  # fmt: skip
"""Keys whose value, whatever it is, changes no id."""

_KINDS: dict[str, type | tuple[type, ...]] = {
    "added_tokens_decoder": dict, "additional_special_tokens": (list, dict), "extra_special_tokens": (list, dict),
    "added_tokens": list, "merges": list, "unk_token": (str, dict), "post_processor": dict, "normalizer": dict,
    "pre_tokenizer": dict, "decoder": dict,
}  # fmt: skip
"""The types of values that are read further."""


@dataclass(frozen=True)
class TokenizerSettings:
    """The settings of a tokenizer beyond vocabulary and merges. The defaults are GPT-2's."""

    added: tuple[AddedToken, ...] = ()
    add_prefix_space: bool = False
    unk: str | None = None
    """The token for bytes that are not in the vocabulary."""
    fuse_unk: bool = False
    ignore_merges: bool = False
    """Whether a whole piece that is in the vocabulary is one token, without merges."""
    named: Mapping[str, str] = field(default_factory=dict)
    """The tokens called `bos_token`, `eos_token`, ..."""
    eos_token_id: int | None = None
    """The id between documents; None: the last one."""
    eos_token_ids: tuple[int, ...] = ()
    """The ids that end a generated text; none: the end of text."""
    chat_template: str | None = None
    """In Jinja, as transformers has it."""
    more_templates: Mapping[str, str] = field(default_factory=dict)
    """Further ones by name (`tool_use`, `rag`), which are kept and not used."""

    @property
    def cuts_before(self) -> str:
        """White space before which, after a visible character, a long text may be cut without changing ids.

        A part that begins with a space gets no other before it; no token may reach over a cut.
        """
        typed = [token for token in self.added if not token.special]
        if any(token.rstrip or any(map(str.isspace, token.content[1:])) for token in typed):
            return ""
        return " " if self.add_prefix_space else " \t\n"


PLAIN = TokenizerSettings()


def require_known(values: dict[str, Any], path: Path, kind: str) -> dict[str, Any]:
    """The same, after its keys have been looked up in the list of that kind; raises DataError naming all others."""
    known = _SUPPORTED[kind] | _HARMLESS[kind]
    for key, kinds in _KINDS.items():
        if values.get(key) is not None and not isinstance(values[key], kinds):
            raise refused(path, f"{key} is {values[key]!r}", "it is of another kind")
    strange = ", ".join(
        f"{key} is {value!r}"
        for key, value in values.items()
        if key not in known and not (value is False or value in (None, {}, [], ""))
    )
    if strange:
        prefix = f"{kind}: " if kind in (THE_MODEL, AN_ADDED_TOKEN) else ""
        raise refused(path, prefix + strange, "its effect is unknown to Handloom")
    return values


def refused(path: Path, what: str, why: str) -> DataError:
    """The error for a value that would give other ids."""
    return DataError(
        f"{path}: {what}; {why}.",
        "Such a tokenizer may give other ids here, so it is not read. If it is a mere remark, remove it from the file.",
    )


def added_token(given: Any, path: Path, number: Any = None) -> AddedToken:
    """An added token as the files have it: an object, or its content alone.

    Its id is `number`, or else the object's, or -1 where there is none. Raises DataError for anything else.
    """
    values = {"content": given, "special": True} if isinstance(given, str) else given
    if not isinstance(values, dict) or not isinstance(values.get("content"), str) or not values["content"]:
        raise vocab_files.damaged(f"{path}: an added token is {given!r}, which lacks a content.")
    require_known(values, path, AN_ADDED_TOKEN)
    number = values.get("id", -1) if number is None else number
    try:
        number = int(number)
    except (TypeError, ValueError, OverflowError):
        raise vocab_files.damaged(
            f"{path}: the id of {values['content']!r} is {number!r}, not a whole number."
        ) from None
    special = bool(values.get("special", False))
    flags = {name: bool(values.get(name, False)) for name in ("lstrip", "rstrip", "single_word")}
    return AddedToken(
        number, values["content"], special, normalized=bool(values.get("normalized", not special)), **flags
    )
