"""Flags: either spelling, lists, and a dataclass turned into them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from cyclopts import App

import handloom as package
from handloom import console
from handloom.cli import flags
from handloom.cli.main import app
from handloom.errors import RequestError
from handloom.inference.generation_config import GenerationConfig, SamplingParams, setting_names
from handloom.training.config import TrainConfig

SOURCE = Path(package.__file__).parent


def parsed(*words):
    """What the command would be called with."""
    _, bound, _ = app.parse_args(list(words), exit_on_error=False, print_error=False)
    return bound.arguments


def flattened(arguments):
    """The same, with the flags that come from dataclasses beside the others."""
    groups = {name: value for name, value in arguments.items() if dataclasses.is_dataclass(value)}
    found = {name: value for name, value in arguments.items() if name not in groups}
    for group in groups.values():
        found.update(flags.given(group))
    return found


SAMPLES = {"str": "x", "int": "3", "float": "0.5", "bool": None, "tuple": "x"}


@pytest.mark.parametrize("field", dataclasses.fields(TrainConfig), ids=lambda field: field.name)
@pytest.mark.parametrize("joint", ["-", "_"])
def test_every_setting_is_a_flag_in_either_spelling(field, joint):
    kind = str(field.type).split(" ")[0].split("[")[0]
    value = SAMPLES[kind]
    given = flags.given(parsed("train", f"--{field.name.replace('_', joint)}", *([value] if value else []))["flags"])
    wanted = {"str": "x", "int": 3, "float": 0.5, "bool": True, "tuple": ["x"]}[kind]
    assert given == {field.name: wanted}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("generate x --top_p 0.5 --top-k 3", {"top_p": 0.5, "top_k": 3}),
        ("generate x --max_new_tokens 7 --prompt_file f", {"max_new_tokens": 7}),
        ("generate --new_document -n 3", {"new_document": True, "n": 3}),
        ("generate x --n=3 --max_new_tokens=4", {"n": 3, "max_new_tokens": 4}),
        ("generate --stop A --stop B x", {"stop": ["A", "B"], "prompt": "x"}),
        ("generate x --overflow slide", {"overflow": "slide"}),
        ("generate --bad-words A --bad_words B x", {"bad_words": ["A", "B"], "prompt": "x"}),
        ("generate --logit-bias 7=-1.5 x --forced-eos", {"logit_bias": ["7=-1.5"], "forced_eos": True}),
        ("generate x --no-repeat-ngram-size 3 --num-beams 2", {"no_repeat_ngram_size": 3, "num_beams": 2}),
        ("generate --temperature 0 -- -x", {"temperature": 0.0, "prompt": "-x"}),
        ("train --stop_after 3", {"stop_after": 3}),
        ("tokenize x --explain", {"explain": True}),
    ],
)
def test_flags_arrive(words, found):
    assert found.items() <= flattened(parsed(*words.split())).items()


def test_lists_take_several_words_or_come_several_times():
    for words in ("--data a b", "--data a --data b"):
        assert flags.given(parsed("train", *words.split(), "--steps", "2")["flags"]) == {"data": ["a", "b"], "steps": 2}


def test_subcommands_take_either_spelling_too():
    assert parsed("data", "show", "--batch_size", "3")["batch_size"] == 3


def test_a_hyphen_alone_is_standard_input_wherever_text_is_wanted(inside):
    for words in (["data", "prepare", "--data", "-"], ["data", "prepare", "--json", "--data", "-"], ["tokenize", "-"]):
        result = inside(*words, stdin=b"The quick brown fox. " * 50)
        assert result.returncode == 0, result.err
    assert inside("generate", "--stream", "-", stdin=b"x").err.startswith("Error: There is no model")


@pytest.mark.parametrize("kind", [GenerationConfig, SamplingParams])
def test_every_setting_of_writing_is_a_flag_in_either_spelling(kind):
    for name in setting_names(kind):
        field = next(field for field in dataclasses.fields(kind) if field.name == name)
        annotation = str(field.type).split(" ")[0].split("[")[0]
        value = {"int": "3", "float": "0.5", "bool": None, "tuple": "x", "Literal": "slide"}[annotation]
        for joint in "-_":
            words = [f"--{name.replace('_', joint)}", *([value] if value else [])]
            assert set(flattened(parsed("generate", *words))) == {name}


def test_nothing_given_is_nothing_set():
    assert "flags" not in parsed("train") or flags.given(parsed("train")["flags"]) == {}


@dataclasses.dataclass(frozen=True)
class Paint:
    colour: str = dataclasses.field(default="red", metadata={"help": "Of the door."})
    coats: int | None = dataclasses.field(default=None, metadata={"help": "How many; None: as the wood needs."})
    rooms: tuple[str, ...] = dataclasses.field(default=("hall", "guest room"), metadata={"help": "Where."})
    glossy: bool = dataclasses.field(default=False, metadata={"help": "Shine."})


def test_help_says_what_holds_where_no_flag_is_given():
    made = flags.flags_of(Paint)
    told = {field.name: field.type.__metadata__[0].help for field in dataclasses.fields(made)}
    assert told == {
        "colour": "Of the door. [default: red]",
        "coats": "How many. [default: as the wood needs]",
        "rooms": 'Where. [default: hall "guest room"]',
        "glossy": "Shine.",
    }
    assert flags.given(made()) == {}
    assert flags.given(made(coats=0)) == {"coats": 0}


def test_what_is_on_by_itself_can_be_switched_off(handloom):
    """`--no-cache-activations` and `--no-pack`; what is off by itself has no such flag."""
    from handloom.cli.flags import given
    from handloom.cli.main import app
    from handloom.cli.train import FinetuneFlags

    for words, expected in (
        (["--no-cache-activations", "--no-pack"], {"cache_activations": False, "pack": False}),
        (["--cache-activations"], {"cache_activations": True}),
        ([], {}),
    ):
        _, bound, _ = app.parse_args(["finetune", *words], exit_on_error=False, print_error=False)
        found = given(bound.arguments.get("flags", FinetuneFlags()))
        assert found == expected
    assert "no flag --no-dora" in handloom("finetune", "--no-dora").err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Pass `overflow=slide`.", "Pass --overflow slide."),
        ("Lower `max_new_tokens`.", "Lower --max-new-tokens."),
        ("Add `overwrite=true`.", "Add --overwrite."),
        ("Set `pack=false` or `cache_activations=false`.", "Set --no-pack or --no-cache-activations."),
        ("Set `json=true`.", "Set --json."),
        ("Or (`chat_template=false`).", "Or (--no-chat-template)."),
        ("Choose `method=last:N`, not `rank=8`.", "Choose --method last:N, not --rank 8."),
        ("Read `config.json`; `handloom pull gpt2` fetches `n_layer=3`.",) * 2,
        ("Nothing here.",) * 2,
        ("Write `name = value`, `x` or ``.",) * 2,
    ],
)
def test_settings_in_backticks_become_flags(text, shown):
    assert flags.in_flags(text, app) == shown


def test_the_command_at_hand_comes_first():
    assert flags.in_flags("Check `model`.", app, ["chat", "x", "--seed", "1"]) == "Check MODEL."
    assert flags.in_flags("Check `model`.", app, ["generate", "x"]) == "Check --model."
    assert flags.in_flags("Check `data`.", app, ["data", "show"]) == "Check --data."


def test_errors_and_notes_reach_the_terminal_with_flags(inside, monkeypatch, capsys):
    def fails(*, seed: int = -1, temperature: float = 0.0) -> None:
        console.note(f"`temperature={temperature:g}` is greedy.")
        raise RequestError(f"The setting seed is {seed}.", "Raise `seed`.", setting="seed")

    stand_in = App(result_action="return_value")
    stand_in.default(fails)
    monkeypatch.setattr("handloom.cli.main.app", stand_in)
    assert inside().err == "Note: --temperature 0 is greedy.\nError: The setting seed is -1. Raise --seed.\n"
    with pytest.raises(RequestError, match="Raise `seed`"):
        fails()
    assert capsys.readouterr().err == "Note: `temperature=0` is greedy.\n"


def test_what_is_switched_off_below_the_command_line_has_such_a_flag():
    """Every `name=false` in a text of ours becomes a flag that the parser takes."""
    texts = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py") if path.parent.name != "cli")
    negatives = {
        name
        for command in flags._commands(app)
        if command.default_command is not None
        for argument in command.assemble_argument_collection()
        for name in (*argument.names, *argument.negatives)
    }
    for name in re.findall(r"`([a-z][a-z0-9_]*)=false`", texts):
        assert f"--no-{name.replace('_', '-')}" in negatives, name
