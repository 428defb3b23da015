"""A tokenizer's folder as Hugging Face's libraries read and write it: vocabulary, added tokens, ends, templates.

Where files contradict each other, the result is that of `AutoTokenizer`. Applies no merges.

Source: `TokenizersBackend` and `GPT2Tokenizer` in the library transformers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handloom.errors import DataError
from handloom.tokenizer import hf_settings as hf
from handloom.tokenizer import vocab_files
from handloom.tokenizer.base import END_OF_TEXT
from handloom.tokenizer.hf_settings import PLAIN, TokenizerSettings, added_token, read_tokenizer_json, refused
from handloom.tokenizer.pretokenize import AddedToken

if TYPE_CHECKING:
    from handloom.tokenizer.bpe import BPETokenizer

_Files = dict[str, dict[str, Any]]  # the objects in the files of a folder, by name; empty where a file is missing


@dataclass(frozen=True)
class Found:
    """A vocabulary with its merges as files have them, and the settings of the files around them, not yet checked."""

    vocabulary: dict[str, Any]
    merges: Sequence[vocab_files.Merge]
    paths: tuple[Path, Path]  # of vocabulary and merges
    settings: TokenizerSettings = PLAIN  # with ids of added tokens as stated, and without end-of-text ids
    special: tuple[AddedToken, ...] = ()  # tokens that are named as special ones, perhaps without an id
    ends: tuple[tuple[str, int | str], ...] = ()
    """Each end of text that is named, as an id or a token, after where that stands."""

    def checked(self, rows: int | None) -> TokenizerSettings:
        """The settings, after all has been checked against the vocabulary and the model's ids (`rows`, if known);
        DataError for the first fault."""
        special = {token.content for token in self.special}
        contents = special | {token.content for token in self.settings.added}
        has_unk = self.settings.unk is not None
        vocab_files.check(self.vocabulary, self.merges, paths=self.paths, added=contents, unk=has_unk)
        added: dict[str, AddedToken] = {}
        ids: dict[str, int] = dict(self.vocabulary)
        new = len(ids)
        for token in sorted(self.settings.added, key=lambda token: token.id):
            if (right := ids.get(token.content, new)) != token.id:
                raise vocab_files.damaged(
                    f"{self.paths[0].parent}: the added token {token.content!r} has the id {token.id}; by the "
                    f"vocabulary in {self.paths[0].name} it is {right}."
                )
            new += token.content not in ids
            token = replace(token, special=token.special or token.content in special)
            if rows is None or token.id < rows or not token.special:
                ids[token.content], added[token.content] = token.id, token
        for token in self.special:
            if token.content in ids:
                added.setdefault(token.content, replace(token, id=ids[token.content], special=True))
        ends = tuple(dict.fromkeys(token for named in self.ends for token in self._end(named, ids)))
        end = self._end_of_text(ids, ends)
        return replace(
            self.settings,
            added=tuple(added.values()),
            eos_token_id=None if end == max(ids.values()) else end,
            eos_token_ids=() if ends == (end,) else ends,
        )

    def _end(self, named: tuple[str, int | str], ids: Mapping[str, int]) -> list[int]:
        where, end = named
        if isinstance(end, int):
            return [end] if end <= max(ids.values()) else []  # of GPT2Config's defaults, in a smaller vocabulary
        if end in ids:
            return [ids[end]]
        if beyond := [token.id for token in self.settings.added if token.content == end]:
            raise DataError(
                f"{where} is {end!r}, which has the id {beyond[0]}, and the model has no row for it.",
                "Fetch the model that this tokenizer was made for, or name there the end that the model writes.",
            )
        raise vocab_files.damaged(f"{where} is {end!r}, which {self.paths[0]} lacks.")

    def _end_of_text(self, ids: Mapping[str, int], ends: Sequence[int]) -> int:
        for token in (END_OF_TEXT, self.settings.named.get("eos_token", "")):
            if token in ids:
                return ids[token]
        if not ends:
            raise DataError(
                f"{self.paths[0]} lacks {END_OF_TEXT}, and no other file names another end of a text.",
                f'Name the token that ends a text as "eos_token" in {hf.CONFIG}.',
            )
        return ends[0]


def read_folder(folder: Path) -> Found:
    """Read all files of a folder that describe its tokenizer.

    Raises DataError for a file that is missing or incomplete, or has a key that Handloom does not support.
    """
    paths = {name: folder / name for name in (hf.MODEL, hf.CONFIG, hf.SPECIAL, hf.GENERATION)}
    files: _Files = {name: vocab_files.read_json(path) if path.is_file() else {} for name, path in paths.items()}
    for name in (hf.CONFIG, hf.SPECIAL, hf.GENERATION):
        hf.require_known(files[name], paths[name], name)
    config, single, pair = (
        files[hf.CONFIG],
        folder / vocab_files.TOKENIZER_JSON,
        (folder / vocab_files.VOCABULARY, folder / vocab_files.MERGES),
    )
    gpt2 = _is_gpt2(folder, files)
    if single.is_file():
        vocabulary, merges, settings = read_tokenizer_json(single, gpt2)
        pair = (single, single)
        path = folder / vocab_files.VOCABULARY
        for token, number in vocab_files.read_json(path).items() if path.is_file() else ():
            if vocabulary.get(token, number) != number:
                raise vocab_files.damaged(
                    f"{path}: {token!r} has the id {number}; in {vocab_files.TOKENIZER_JSON} of the same folder, it is "
                    f"{vocabulary[token]}."
                )
    else:
        (vocabulary, merges), settings = vocab_files.read_pair(*pair), PLAIN
    if gpt2:
        settings = replace(settings, add_prefix_space=config.get("add_prefix_space") is True)
    decoder, where = config.get("added_tokens_decoder"), folder / hf.CONFIG
    stated = config if decoder is not None else config | files[hf.SPECIAL]
    templates = _templates(folder, config)
    if gpt2 and templates:  # which may use these
        stated = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT) | stated
    named = {key: added_token(stated[key], where) for key in hf.NAMED if stated.get(key)}
    more = [stated.get(key) or [] for key in hf.MORE]  # lists, or objects of names and tokens
    listed = (one for some in more for one in (some.values() if isinstance(some, dict) else some))
    specials = (*named.values(), *(added_token(one, where) for one in listed))
    if gpt2 and decoder is not None:
        settings = replace(settings, added=())
    settings = replace(
        settings,
        added=_all_added(folder, decoder, settings.added, specials),
        named={key: token.content for key, token in named.items()},
        chat_template=templates.pop("default", None) or None,
        more_templates=templates,
    )
    return Found(vocabulary, merges, paths=pair, settings=settings, special=specials, ends=tuple(_ends(folder, files)))


def _all_added(
    folder: Path, decoder: Any, single: Sequence[AddedToken], specials: Sequence[AddedToken]
) -> tuple[AddedToken, ...]:
    """The added tokens of all files; those of `added_tokens.json` only where `added_tokens_decoder` is missing."""
    tokens = {token.content: token for token in single}
    path = folder / hf.ADDED
    if decoder is not None:
        found = [added_token(token, folder / hf.CONFIG, number) for number, token in dict(decoder).items()]
        tokens |= {token.content: token for token in found}
    elif path.is_file():
        contents = {token.content for token in specials}
        for content, number in vocab_files.read_json(path).items():
            token = added_token({"content": content, "special": content in contents}, path, number)
            tokens.setdefault(content, token)
    return tuple(tokens.values())


def _is_gpt2(folder: Path, files: _Files) -> bool:
    """Whether transformers builds it as GPT-2's, with vocabulary and merges alone of a `tokenizer.json`."""
    model, single, path = files[hf.MODEL], (folder / vocab_files.TOKENIZER_JSON).is_file(), folder / hf.CONFIG
    name = files[hf.CONFIG].get("tokenizer_class") or model.get("tokenizer_class")
    if name is None:
        return not single or model.get("model_type") == "gpt2"
    if name not in hf.CLASSES:
        raise refused(path, f"tokenizer_class is {name!r}", f"Handloom reads {', '.join(hf.CLASSES)}")
    if name not in hf.GPT2_CLASSES and not single:
        raise refused(path, f"tokenizer_class is {name!r}", f"that needs a {vocab_files.TOKENIZER_JSON}")
    return name in hf.GPT2_CLASSES


def _templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The folder's chat templates by name; those in files of their own replace all others."""
    paths = {path.stem: path for path in sorted((folder / hf.MORE_TEMPLATES).glob("*.jinja"))}
    paths = {"default": folder / hf.TEMPLATE} | paths
    given = config.get("chat_template") or {}
    if isinstance(given, list):
        given = {one.get("name"): one.get("template") for one in given if isinstance(one, dict)}
    given = given if isinstance(given, dict) else {"default": given}
    given = {name: vocab_files.read_text(path) for name, path in paths.items() if path.is_file()} or given
    for name, template in given.items():
        if not isinstance(name, str) or not isinstance(template, str):
            raise refused(folder / hf.CONFIG, f"chat_template is {template!r}", "it is not a text")
    return given


def _ends(folder: Path, files: _Files) -> Iterator[tuple[str, int | str]]:
    """Each end of text that a file names, after where that stands."""
    for name in (hf.MODEL, hf.GENERATION):
        given = files[name].get("eos_token_id")
        for one in given if isinstance(given, list) else [given] if given is not None else []:
            if not isinstance(one, int) or isinstance(one, bool) or one < 0:
                raise refused(folder / name, f"eos_token_id is {given!r}", "it is not an id or a list of ids")
            yield f"{folder / name}: eos_token_id", one
    for name in (hf.CONFIG, hf.SPECIAL):
        if token := files[name].get("eos_token"):
            yield f"{folder / name}: eos_token", added_token(token, folder / name).content


def contents(tokenizer: BPETokenizer, more: Mapping[str, Any]) -> dict[str, str]:
    """The files for what `vocab.json` and `merges.txt` cannot hold, by name.

    `more` has further keys of `tokenizer_config.json`; they replace those of the tokenizer.
    """
    settings = tokenizer.settings
    end = tokenizer.tokens[tokenizer.eos_token_id].decode()
    # GPT-2's class takes vocabulary, merges and added tokens from tokenizer.json, and nothing else.
    plain = settings.unk is None and not settings.ignore_merges
    config: dict[str, Any] = {
        "tokenizer_class": hf.GPT2_CLASSES[0] if plain else "PreTrainedTokenizerFast",
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
        vocab_files.TOKENIZER_JSON: json.dumps(_single(tokenizer), ensure_ascii=False),
        hf.CONFIG: json.dumps(config, ensure_ascii=False, indent=2),
        hf.GENERATION: json.dumps(generation, ensure_ascii=False, indent=2),
    }
    return {name: text + "\n" for name, text in written.items()} | ({hf.TEMPLATE: template} if template else {})


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
