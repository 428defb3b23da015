"""The keys of `tokenizer.json`, `tokenizer_config.json` and their like, and the settings that they become.

Every key is supported, or known to change no id, or refused by name; so is what splits text in another way than GPT-2.
The files around `tokenizer.json` are read by `hf_files`.

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
from handloom.tokenizer.pretokenize import AddedToken

CONFIG = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
ADDED = "added_tokens.json"
GENERATION = "generation_config.json"
TEMPLATE = "chat_template.jinja"
MORE_TEMPLATES = "additional_chat_templates"  # a folder of further ones, each with its name before the suffix
MODEL = "config.json"
_BOTH = (vocab_files.TOKENIZER_JSON, vocab_files.VOCABULARY, vocab_files.MERGES)
READ = (*_BOTH, CONFIG, SPECIAL, ADDED, GENERATION, TEMPLATE)  # every file of a folder that describes its tokenizer

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
    unk: str | None = None  # the token for bytes that are not in the vocabulary
    fuse_unk: bool = False
    ignore_merges: bool = False  # whether a whole piece that is in the vocabulary is one token, without merges
    named: Mapping[str, str] = field(default_factory=dict)  # the tokens called `bos_token`, `eos_token` and so on
    eos_token_id: int | None = None  # the id between documents; None: the last one
    eos_token_ids: tuple[int, ...] = ()  # the ids that end a generated text; none: the end of text
    chat_template: str | None = None  # in Jinja, as transformers has it
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


def read_tokenizer_json(path: Path, gpt2: bool) -> tuple[dict[str, Any], list[vocab_files.Merge], TokenizerSettings]:
    """Vocabulary, merges and settings; the latter are GPT-2's with `gpt2`, the class that takes no others.

    Raises DataError if it is incomplete, or splits or changes text in another way than GPT-2's tokenizer.
    """
    content = require_known(vocab_files.read_json(path), path, vocab_files.TOKENIZER_JSON)
    model = content.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else model
        raise refused(path, f"the model is {kind!r}", "Handloom reads BPE")
    _require_gpt2(content, require_known(model, path, THE_MODEL), path)
    merges = [_merge(merge, number, path) for number, merge in enumerate(model.get("merges") or [], start=1)]
    settings = TokenizerSettings(tuple(added_token(token, path) for token in content.get("added_tokens") or []))
    if not gpt2:
        settings = TokenizerSettings(
            settings.added,
            add_prefix_space=_byte_level(content["pre_tokenizer"]).get("add_prefix_space", True) is True,
            unk=model["unk_token"] if isinstance(model.get("unk_token"), str) else None,
            fuse_unk=model.get("fuse_unk") is True,
            ignore_merges=model.get("ignore_merges") is True,
        )
    return model["vocab"], merges, settings


def _require_gpt2(content: dict[str, Any], model: dict[str, Any], path: Path) -> None:
    """Refuse by name what splits or changes text in another way than GPT-2's tokenizer."""
    steps = {name: _steps(content.get(name)) for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder")}
    level = _byte_level(content.get("pre_tokenizer"))
    faults = {
        "normalizer": (steps["normalizer"], "Handloom changes no text"),
        "pre_tokenizer": (not level, "Handloom splits text by GPT-2's pattern, ByteLevel"),
        "post_processor": (any(map(_adds_tokens, steps["post_processor"])), "it adds tokens to a text"),
        "decoder": (any(step.get("type") != "ByteLevel" for step in steps["decoder"]), "Handloom reads ByteLevel"),
    }
    found: list[tuple[str, str]] = []
    for name, (wrong, why) in faults.items():
        if wrong:
            kinds = ", ".join(str(step.get("type")) for step in steps[name]) or None
            found.append((f"the {name} is {kinds!r}", why))
    if level.get("use_regex", True) is not True:
        found.append(("use_regex is false", "Handloom splits text by GPT-2's pattern"))
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            found.append((f"{key} is {model[key]!r}", "Handloom does not support it"))
    for problem, why in found:
        raise refused(path, problem, why)


def _steps(part: Any) -> list[dict[str, Any]]:
    """The steps of a part of the pipeline, those of a Sequence one by one."""
    if not isinstance(part, dict):
        return []
    inner = [part[key] for key in ("normalizers", "pretokenizers", "processors", "decoders") if key in part]
    if inner and isinstance(inner[0], list):
        return [step for each in inner[0] for step in _steps(each)]
    return [part]


def _byte_level(part: Any) -> dict[str, Any]:
    """The ByteLevel step, if it is the only one."""
    steps = _steps(part)
    return steps[0] if len(steps) == 1 and steps[0].get("type") == "ByteLevel" else {}


def _adds_tokens(step: dict[str, Any]) -> bool:
    """Whether a post-processor puts special tokens around a text."""
    if step.get("type") == "TemplateProcessing":
        single = step.get("single")
        return not isinstance(single, list) or any(not isinstance(one, dict) or "Sequence" not in one for one in single)
    return step.get("type") != "ByteLevel"


def _merge(merge: Any, number: int, path: Path) -> vocab_files.Merge:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise vocab_files.damaged(f"{path}: merge number {number} is {merge!r}, not a pair of tokens.")
    return parts[0], parts[1]
