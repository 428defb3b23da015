"""A tokenizer's folder as Hugging Face's libraries write it: which vocabulary, which added tokens, which ends.

Where files contradict each other, what counts is what `AutoTokenizer` makes of the folder. Knows no merges' arithmetic.

Source: `TokenizersBackend` and `GPT2Tokenizer` in the library transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from handloom.errors import DataError
from handloom.tokenizer import vocab_files
from handloom.tokenizer.added import AddedToken
from handloom.tokenizer.base import END_OF_TEXT
from handloom.tokenizer.hf_config import (
    ADDED,
    CLASSES,
    CONFIG,
    GENERATION,
    GPT2_CLASSES,
    MODEL,
    MORE,
    MORE_TEMPLATES,
    NAMED,
    PLAIN,
    SPECIAL,
    TEMPLATE,
    TokenizerSettings,
    added_token,
    refused,
    require_known,
)
from handloom.tokenizer.tokenizer_json import read_tokenizer_json


@dataclass(frozen=True)
class Found:
    """A vocabulary with its merges as files have them, and what the files around them say."""

    vocabulary: dict[str, Any]
    merges: Sequence[vocab_files.Merge]
    paths: tuple[Path, Path]
    """Of vocabulary and merges."""
    settings: TokenizerSettings = PLAIN
    """With ids of added tokens as stated, and without ends."""
    special: tuple[AddedToken, ...] = ()
    """Tokens that are named as special ones, perhaps without an id."""
    ends: tuple[tuple[str, int | str], ...] = ()
    """Each end that is named, as an id or a token, after where that stands."""

    def checked(self, rows: int | None) -> TokenizerSettings:
        """The settings, after all has been held against the vocabulary.

        Args:
            rows: how many ids the model has, if that is known.

        Raises:
            DataError: naming the first fault.
        """
        contents = {token.content for token in (*self.settings.added, *self.special)}
        vocab_files.check(self.vocabulary, self.merges, contents, self.paths, self.settings.unk is not None)
        special = {token.content for token in self.special}
        added: dict[str, AddedToken] = {}
        ids: dict[str, int] = dict(self.vocabulary)
        new = len(ids)
        for token in sorted(self.settings.added, key=lambda token: token.id):
            right = ids.get(token.content, new)
            if right != token.id:
                raise DataError(
                    f"{self.paths[0].parent}: the added token {token.content!r} has the id {token.id}; by the "
                    f"vocabulary in {self.paths[0].name} it is {right}.",
                    vocab_files.REMEDY,
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
        if end not in ids and (beyond := [token.id for token in self.settings.added if token.content == end]):
            raise DataError(
                f"{where} is {end!r}, which has the id {beyond[0]}, and the model has no row for it.",
                "Fetch the model that this tokenizer was made for, or name there the end that the model writes.",
            )
        if end not in ids:
            raise DataError(f"{where} is {end!r}, which has no id in {self.paths[0]}.", vocab_files.REMEDY)
        return [ids[end]]

    def _end_of_text(self, ids: Mapping[str, int], ends: Sequence[int]) -> int:
        for token in (END_OF_TEXT, self.settings.named.get("eos_token", "")):
            if token in ids:
                return ids[token]
        if not ends:
            raise DataError(
                f"{self.paths[0]} has no {END_OF_TEXT}, and no other file names another end of a text.",
                f'Name the token that ends a text as "eos_token" in {CONFIG}.',
            )
        return ends[0]


def read_folder(folder: Path) -> Found:
    """Read all that a folder says of its tokenizer.

    Raises:
        DataError: a file is missing or incomplete, or has a key that we do not honour.
    """
    single = folder / vocab_files.TOKENIZER_JSON
    config, special, generation = (_closed(folder / name, name) for name in (CONFIG, SPECIAL, GENERATION))
    model = vocab_files.read_json(folder / MODEL) if (folder / MODEL).is_file() else {}
    gpt2 = _is_gpt2(folder, config, model, single.is_file())
    if single.is_file():
        vocabulary, merges, settings = read_tokenizer_json(single, gpt2)
        paths = (single, single)
        _require_one_vocabulary(folder, vocabulary)
    else:
        paths = (folder / vocab_files.VOCABULARY, folder / vocab_files.MERGES)
        (vocabulary, merges), settings = vocab_files.read_pair(*paths), PLAIN
    if gpt2:
        settings = replace(settings, add_prefix_space=config.get("add_prefix_space") is True)
    decoder, where = config.get("added_tokens_decoder"), folder / CONFIG
    said = config if decoder is not None else config | special
    templates = _templates(folder, config)
    if gpt2 and templates:  # what a template may ask for
        said = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT) | said
    named = {key: added_token(said[key], where) for key in NAMED if said.get(key)}
    specials = (*named.values(), *(added_token(one, where) for key in MORE for one in _listed(said.get(key))))
    settings = replace(
        settings,
        added=_all_added(folder, decoder, () if gpt2 and decoder is not None else settings.added, specials),
        named={key: token.content for key, token in named.items()},
        chat_template=templates.pop("default", None) or None,
        more_templates=templates,
    )
    ends = _ends(folder, model, generation, config, special)
    return Found(vocabulary, merges, paths, settings, specials, tuple(ends))


def _all_added(
    folder: Path, decoder: Any, single: Sequence[AddedToken], specials: Sequence[AddedToken]
) -> tuple[AddedToken, ...]:
    """The added tokens of all files; those of `added_tokens.json` count where no `added_tokens_decoder` says more."""
    tokens = {token.content: token for token in single}
    if decoder is not None:
        found = [added_token(token, folder / CONFIG, number) for number, token in dict(decoder).items()]
    elif (folder / ADDED).is_file():
        contents = {token.content for token in specials}
        found = [
            added_token({"content": content, "special": content in contents}, folder / ADDED, number)
            for content, number in vocab_files.read_json(folder / ADDED).items()
        ]
        found = [token for token in found if token.content not in tokens]
    else:
        found = []
    return tuple((tokens | {token.content: token for token in found}).values())


def _closed(path: Path, kind: str) -> dict[str, Any]:
    """A file's object, or nothing where there is none; a key that is not known must say nothing."""
    return require_known(vocab_files.read_json(path), path, kind) if path.is_file() else {}


def _is_gpt2(folder: Path, config: dict[str, Any], model: dict[str, Any], single: bool) -> bool:
    """Whether transformers builds it as GPT-2's, with vocabulary and merges alone of a `tokenizer.json`."""
    name = config.get("tokenizer_class") or model.get("tokenizer_class")
    if name is None:
        return not single or model.get("model_type") == "gpt2"
    if name not in CLASSES:
        raise refused(folder / CONFIG, f"tokenizer_class is {name!r}", f"Handloom knows {', '.join(CLASSES)}")
    if name not in GPT2_CLASSES and not single:
        raise refused(folder / CONFIG, f"tokenizer_class is {name!r}", f"that needs a {vocab_files.TOKENIZER_JSON}")
    return name in GPT2_CLASSES


def _require_one_vocabulary(folder: Path, vocabulary: Mapping[str, Any]) -> None:
    """Refuse a `vocab.json` that contradicts the `tokenizer.json` in the same folder."""
    path = folder / vocab_files.VOCABULARY
    for token, number in vocab_files.read_json(path).items() if path.is_file() else ():
        if vocabulary.get(token, number) != number:
            raise DataError(
                f"{path}: {token!r} has the id {number}; in {vocab_files.TOKENIZER_JSON} of the same folder, it is "
                f"{vocabulary[token]}.",
                vocab_files.REMEDY,
            )


def _listed(given: Any) -> list[Any]:
    """Additional special tokens: a list, or an object of names and tokens."""
    return list(given.values()) if isinstance(given, dict) else list(given or ())


def _templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The folder's chat templates by name: where there are files of their own, those alone count."""
    paths = {path.stem: path for path in sorted((folder / MORE_TEMPLATES).glob("*.jinja"))}
    paths = {"default": folder / TEMPLATE} | paths
    given = config.get("chat_template") or {}
    if isinstance(given, list):
        given = {one.get("name"): one.get("template") for one in given if isinstance(one, dict)}
    given = given if isinstance(given, dict) else {"default": given}
    given = {name: vocab_files.read_text(path) for name, path in paths.items() if path.is_file()} or given
    for name, template in given.items():
        if not isinstance(name, str) or not isinstance(template, str):
            raise refused(folder / CONFIG, f"chat_template is {template!r}", "it is no text")
    return given


def _ends(
    folder: Path,
    model: Mapping[str, Any],
    generation: Mapping[str, Any],
    config: Mapping[str, Any],
    special: Mapping[str, Any],
) -> Iterator[tuple[str, int | str]]:
    """Each end of what is generated that a file names, after where that stands."""
    for name, values in ((MODEL, model), (GENERATION, generation)):
        given = values.get("eos_token_id")
        for one in given if isinstance(given, list) else [given] if given is not None else []:
            if not isinstance(one, int) or isinstance(one, bool) or one < 0:
                raise refused(folder / name, f"eos_token_id is {given!r}", "it is no id and no list of ids")
            yield f"{folder / name}: eos_token_id", one
    for name, values in ((CONFIG, config), (SPECIAL, special)):
        if values.get("eos_token"):
            yield f"{folder / name}: eos_token", added_token(values["eos_token"], folder / name).content
