"""The command line: names of commands, and what becomes of an error. Commands are imported when called."""

from __future__ import annotations

import os
import sys

from cyclopts import App, CycloptsError

from handloom.errors import HandloomError

app = App(
    name="handloom",
    help="A GPT written by hand, for the computer you already have.",
    help_format="plaintext",
    version_flags=[],
)
COMMANDS = {
    "demo": ("handloom.cli.demo:demo", "Learn from Python's documentation for 90 seconds, then write."),
    "train": ("handloom.cli.train:train", "Train a model, or go on with a run."),
    "generate": ("handloom.cli.generate:generate", "Continue a text."),
    "tokenize": ("handloom.cli.tokenize:tokenize", "Show how a text is cut into tokens."),
    "data": ("handloom.cli.data:app", "Prepare text, and look at the very batches of a run."),
    "model": ("handloom.cli.model:app", "Show what a model is made of."),
}
for _name, (_path, _help) in COMMANDS.items():
    app.command(_path, name=_name, help=_help)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done or stopped by Ctrl-C, 2 an error that the user can mend."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    if debug:
        words.remove("--debug")
    try:
        app(words, exit_on_error=False, print_error=False)
    except (HandloomError, CycloptsError) as error:
        if debug:
            raise
        fail(str(error))
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; that is no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def fail(message: str) -> None:
    """Print one clear paragraph and exit with 2."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, highlight=False).print(Text.assemble(("Error: ", "bold red"), message))
    sys.exit(2)
