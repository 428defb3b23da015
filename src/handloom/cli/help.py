"""How `--help` looks: headings, two columns, choices and defaults in one spelling, examples. cyclopts does the rest."""

from __future__ import annotations

import re
import textwrap
import typing
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Group, Parameter

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel

HEADINGS = {
    "Essentials": "model data task method run steps minutes epochs preset",
    "Options": "",
    "Run": "",
    "Data": "text-field json-as-text encoding-errors document-separator validation-fraction split overlong "
    "detokenize documents without-end-of-text labels general training text-bytes",
    "Model": "",
    "LoRA": "",
    "Optimization": "",
    "Sampling": "temperature top-k top-p min-p typical-p repetition-penalty frequency-penalty presence-penalty "
    "no-repeat-ngram-size logit-bias bad-words seed",
    "Search and length": "max-new-tokens min-new-tokens stop overflow forced-eos num-beams length-penalty",
    "Precision and threads": "threads batch-size workers",
    "Output": "stream json out items stats logprobs echo all ids explain",
}
"""The groups of flags in the order of `--help`, each with the parameters of commands that belong to it where neither
the command nor a setting names a group; those of the first group stand first wherever they are."""
_PLACES = {name.replace("-", "_"): heading for heading, names in HEADINGS.items() for name in names.split()}
_FEW = 6
"""A command with so many parameters needs no groups."""

_INDENT, _WIDTH = "  ", 100


EXAMPLES = {
    "demo": ("handloom demo", "handloom demo --run runs/longer --minutes 5"),
    "train": (
        "handloom train --data notes/*.txt --run runs/notes --minutes 10",
        "handloom train --resume runs/notes --steps 4000",
    ),
    "finetune": (
        "handloom finetune --model gpt2 --data chats.jsonl --task sft --run runs/chat",
        "handloom finetune --data reviews.csv --task classify --method last:2",
    ),
    "plan": ("handloom plan --minutes 20 --memory 8GB --data notes/",),
    "data": (),
    "data prepare": ("handloom data prepare --data notes/*.txt --tokenizer gpt2",),
    "data check": ("handloom data check --data chats.jsonl --task sft --context-length 1024",),
    "data show": ("handloom data show --run runs/notes --step 3",),
    "tokenize": ('handloom tokenize "An unbelievable story" --explain', "handloom tokenize --decode '464 3290'"),
    "generate": (
        'handloom generate "The moon" --model runs/notes --stream',
        "handloom generate --prompts prompts.txt --model gpt2 --temperature 0",
    ),
    "chat": ("handloom chat runs/chat", "handloom chat gpt2 --temperature 0.6"),
    "classify": (
        'handloom classify "Great film." --model runs/reviews',
        "handloom classify --texts reviews.txt --model runs/reviews --json",
    ),
    "evaluate": (
        "handloom evaluate gpt2 --data wikitext.txt",
        "handloom evaluate runs/notes --data hellaswag.jsonl --limit 500",
    ),
    "compare": ("handloom compare gpt2 runs/notes --data held-out.txt --out compare.html",),
    "lm-eval": ("handloom lm-eval gpt2 --tasks lambada_openai --limit 100",),
    "verify": ("handloom verify runs/notes", "handloom verify gpt2 --against runs/notes"),
    "bench": (),
    "bench decode": ("handloom bench decode", "handloom bench decode --model runs/notes --precision int8 int4 --json"),
    "bench prefill": ("handloom bench prefill --prompt-tokens 512",),
    "bench batch": ("handloom bench batch --streams 8",),
    "bench train": ("handloom bench train --model nano --batch-size 16 --context-length 128",),
    "bench speedrun": ("handloom bench speedrun --data tinyshakespeare.txt",),
    "bench lora": ("handloom bench lora --rank 8",),
    "bench start": ("handloom bench start --model runs/notes",),
    "bench tokenize": ("handloom bench tokenize",),
    "tune": ("handloom tune runs/notes", "handloom tune gpt2 --json"),
    "doctor": ("handloom doctor",),
    "pull": ("handloom pull gpt2",),
    "model": (),
    "model list": ("handloom model list",),
    "model presets": ("handloom model presets",),
    "model show": ("handloom model show gpt2", "handloom model show nano"),
    "export": ("handloom export runs/notes --to hf exported", "handloom export runs/notes --to gguf notes.gguf"),
}
"""What stands below each command; a test parses every line."""


def heading(name: str) -> Group:
    """The group of flags of that name."""
    return Group(name, sort_key=list(HEADINGS).index(name) if name in HEADINGS else len(HEADINGS))


def find_command(app: App, words: Sequence[str]) -> tuple[App, str]:
    """The command that a command line names, as far as it is one, and its name."""
    names = []
    for word in words:
        if word.startswith("-") or word not in app:
            break
        app = app[word]
        names.append(word)
    return app, " ".join(names)


def describe(app: App, words: Sequence[str]) -> None:
    """Let the help of the command that the words name be the docstring of its function, and its examples."""
    command, name = find_command(app, words)
    if command is app:
        return
    if command.default_command is not None:
        command.help = command.default_command.__doc__
        _place(command.default_command)
    command.help_epilogue = "\n  ".join(["Examples", *EXAMPLES[name]]) if EXAMPLES[name] else ""


def _place(function: Callable[..., Any]) -> None:
    """Put the parameters of a command that are in the table into their group, if more than one belongs there."""
    hints = typing.get_type_hints(function, include_extras=True)
    groups = {name: _PLACES.get(name.removeprefix("as_"), "Essentials") for name in hints}
    for name, group in groups.items():
        if group != "Essentials" and list(groups.values()).count(group) > 1 and len(hints) > _FEW:
            function.__annotations__[name] = Annotated[hints[name], Parameter(group=heading(group))]


class HelpFormatter:
    """Renders one group of flags or commands; cyclopts calls it for each."""

    def __call__(self, console: Any, options: Any, panel: HelpPanel) -> None:
        """Print the heading and its entries."""
        if panel.entries:
            ungrouped = "Arguments" if all(entry.positional_label for entry in panel.entries) else "Options"
            _print(console, f"\n{_plain(panel.title).replace('Parameters', ungrouped)}", style="bold")
        for entry in sorted(panel.entries, key=_rank):
            _print(console, _entry(entry, 12 if panel.format == "command" else 26, min(console.width, _WIDTH)))

    def render_usage(self, console: Any, options: Any, usage: Any) -> None:
        """Print how the command is called."""
        _print(console, f"Usage: {_plain(usage).strip().removeprefix('Usage: ')}")

    def render_description(self, console: Any, options: Any, description: Any) -> None:
        """Print what the command does, a paragraph at a time."""
        for paragraph in filter(None, _plain(description).split("\n\n")):
            _print(console, "\n" + textwrap.fill(" ".join(paragraph.split()), min(console.width, _WIDTH)))


def _rank(entry: HelpEntry) -> int:
    """Positional parameters, then the essential flags, then the others as they come."""
    if entry.positional_label:
        return -1
    essential = HEADINGS["Essentials"].split()
    return min((essential.index(name[2:]) for name in entry.names if name[2:] in essential), default=len(essential))


def _entry(entry: HelpEntry, labels: int, width: int) -> str:
    """The flag on the left, what it means on the right."""
    text = " ".join(_plain(entry.description).split())
    extras = [f"[choices: {', '.join(entry.choices)}]"] if entry.choices else []
    while found := re.search(r"\s*(\[(?:choices|default): [^\]]*\])\.?$", text):  # those that are stated in words
        text = text[: found.start()]
        extras.insert(0, found[1])
    extras += [f"[default: {entry.default}]"] * bool(entry.default) + ["[required]"] * entry.required
    text = text if not text or text[-1] in ".?!" else f"{text}."
    body = " ".join([text, *(extra.replace(" ", "\0") if len(extra) < 40 else extra for extra in extras)])
    left = len(_INDENT) + labels + 2
    lines = textwrap.wrap(body, width - left, break_on_hyphens=False, break_long_words=False)
    label = _INDENT + _label(entry)
    if not lines or len(label) > left - 2:
        lines.insert(0, "")
    columns = zip([label, *[""] * len(lines)], lines, strict=False)
    return "\n".join(f"{one:{left}}{other}".rstrip() for one, other in columns).replace("\0", " ")


def _label(entry: HelpEntry) -> str:
    """`--steps N`, `--[no-]pack`, `MODEL`."""
    if entry.positional_label:
        return entry.positional_label
    off = {name.replace("--no-", "--", 1) for name in entry.negative_names}
    names = [f"--[no-]{name[2:]}" if name in off else name for name in (*entry.positive_shorts, *entry.positive_names)]
    kinds = {"INT": "N", "FLOAT": "X", "STR": "TEXT"}
    metavar = re.sub(r"[A-Z]+", lambda kind: kinds.get(kind[0], kind[0]), entry.metavar or "")
    return f"{', '.join(names)} {metavar}".rstrip()


def _plain(value: Any) -> str:
    """The characters of a text of rich, of cyclopts or of Python."""
    value = getattr(value, "primary_renderable", value)
    return str(getattr(value, "plain", value) or "")


def _print(console: Any, text: str, style: str = "") -> None:
    console.print(text, style=style, markup=False, highlight=False, emoji=False, soft_wrap=True)
