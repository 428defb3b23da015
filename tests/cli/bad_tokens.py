"""What the files around a vocabulary say, and is refused by name: a part of the second table of docs/errors.md."""

from __future__ import annotations

from contextlib import ExitStack

from bad_inputs import BadInput
from foreign_models import THEIRS, model, text
from foreign_tokenizers import BPETokenizer, tokenizer, tokenizer_case, vocabulary

import gpt2_folders
from handloom.model.config import GPTConfig
from hf_tokenizers import write_json


def config_case(what: str, name: str = "tokenizer_config.json", **said: object) -> BadInput:
    """A sound vocabulary with a file beside it that says something."""
    return tokenizer_case(what, lambda: write_json(THEIRS, name, **said))


def single_and_pair() -> None:
    write_json(THEIRS, "tokenizer.json", **_single())
    vocabulary(a=999)()


def _single() -> dict[str, object]:
    own = tokenizer()
    model = {"type": "BPE", "vocab": own.vocabulary, "merges": own.word_merges}
    return {"model": model, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}}


def of_another_kind(stack: ExitStack) -> None:
    """A model of GPT-2's vocabulary size with SentencePiece's file."""
    small = gpt2_folders.random_model(GPTConfig(50257, 8, 1, 1, 2))
    gpt2_folders.write(THEIRS, small)
    (THEIRS / "spiece.model").write_bytes(b"\x0a\x0e")


def more_ids(stack: ExitStack) -> None:
    _with_added(290)


def end_beyond(stack: ExitStack) -> None:
    _with_added(280, {"280": {"content": "[PAD]", "special": True}}, eos_token="[PAD]")


def _with_added(end: int, more: dict[str, object] | None = None, **said: object) -> None:
    """A model of 280 ids and a vocabulary of 258, with added tokens from there to `end`, and one more."""
    gpt2_folders.write(THEIRS, model())
    BPETokenizer([(68, 71)]).save(THEIRS)
    token = {"content": "loom", "special": False}
    added = {str(number): token | {"content": f"loom{number}"} for number in range(258, end)}
    write_json(THEIRS, "tokenizer_config.json", added_tokens_decoder=added | (more or {}), **said)


def model_case(what: str, command: str, **said: object) -> BadInput:
    """A model with a sound tokenizer, whose tokenizer_config.json says something."""

    def before(stack: ExitStack) -> None:
        gpt2_folders.write(THEIRS, model())
        tokenizer().save(THEIRS)
        write_json(THEIRS, "tokenizer_config.json", **said)

    return BadInput(what, command, before)


CASES = [
    model_case(
        "A chat template that refuses",
        "handloom generate Hello --model theirs",
        chat_template="{{ raise_exception('Ask me nothing') }}",
    ),
    model_case(
        "A tokenizer that llama.cpp reads in another way", "handloom export theirs out --to gguf", add_prefix_space=True
    ),
    BadInput("An end without a row in the model", "handloom generate Hello --model theirs", end_beyond),
    BadInput("A tokenizer of SentencePiece", "handloom generate Hello --model theirs", of_another_kind),
    BadInput("Added tokens beyond the model's ids", "handloom generate Hello --model theirs", more_ids),
    config_case("Unknown keys of a tokenizer", speed=3, do_lower_case=True),
    config_case("A key of another kind", added_tokens_decoder=3),
    config_case("A class of tokenizer that we do not know", tokenizer_class="BertTokenizer"),
    config_case("A class that needs another file", tokenizer_class="PreTrainedTokenizerFast"),
    config_case("An end without an id", eos_token="</s>"),
    config_case("An added token with another's id", added_tokens_decoder={"7": {"content": "<x>"}}),
    config_case("An added token without a content", added_tokens_decoder={"260": {}}),
    config_case("An added token whose id is not a number", "added_tokens.json", **{"<x>": "last"}),
    config_case("A chat template that is not text", chat_template=3),
    config_case("An end that is not an id", "generation_config.json", eos_token_id="last"),
    tokenizer_case("A vocabulary that contradicts tokenizer.json", single_and_pair),
    tokenizer_case("A tokenizer_config.json that is not JSON", text("tokenizer_config.json", "{")),
]
