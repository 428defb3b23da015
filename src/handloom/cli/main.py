"""The command line: names of commands, and what becomes of an error. A command is imported when it is called."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, NoReturn

from cyclopts import App, CycloptsError, Group, Parameter

import handloom
from handloom import locks, screen
from handloom.cli.flags import in_flags
from handloom.cli.help import HelpFormatter, describe
from handloom.cli.usage_errors import usage_error
from handloom.errors import HandloomError, worded, wording
from handloom.packages import import_failure
from handloom.training.signals import end_on_signals

GROUPS = {
    "Start here": {"demo": ("train:demo", "Train on Python's documentation for 90 seconds, then generate.")},
    "Train": {
        "train": ("train:train", "Train a model from scratch, or resume a run."),
        "finetune": ("train:finetune", "Fine-tune a pretrained model, or resume a run."),
        "plan": ("plan:plan", "Propose a run that suits this machine, and predict it."),
        "data": ("data:app", "Prepare and check data, and show the batches of a run."),
        "tokenize": ("tokenize:tokenize", "Show the tokens of a text."),
    },
    "Use a model": {
        "generate": ("generate:generate", "Continue a text."),
        "chat": ("chat:chat", "Chat with a model, or write a text together with it."),
        "classify": ("classify:classify", "Label a text."),
    },
    "Measure and check": {
        "evaluate": ("evaluate:evaluate", "Measure perplexity, or accuracy on a benchmark."),
        "compare": ("compare:compare", "Compare models: a table, JSON and an HTML page."),
        "lm-eval": ("lm_eval:lm_eval", "Run EleutherAI's evaluation harness."),
        "verify": ("verify:verify", "Check that a model computes what it should."),
        "bench": ("bench:app", "Measure the speed of a model on this machine."),
        "tune": ("tune:tune", "Find the fastest settings for a model on this machine."),
        "doctor": ("doctor:doctor", "Show what this machine is, how fast, and what to fix."),
    },
    "Models on disk": {
        "pull": ("models:pull", "Download GPT-2 models from the Hugging Face hub."),
        "model": ("models:app", "List local models and presets, and show the parts of one."),
        "export": ("models:export", "Write a model in another program's format."),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
"""Each command with where its function is, below `cli`, and its line in the list of commands."""
RUNS = ("train", "finetune", "demo")
"""Commands whose product is a run: what they print is a view of it, and may be lost."""


def _default_shown(value: Any) -> str | None:
    """What `--help` says about a default: nothing where it is that a flag is not given."""
    return None if value is None or value is False else str(value)


app = App(
    name="handloom",
    help="A GPT written by hand, for the computer you already have.",
    help_epilogue="handloom COMMAND --help shows the flags of a command and examples.\n"
    "handloom --version prints the version. With --debug any command shows the traceback of an error.",
    help_format="plaintext",
    help_formatter=HelpFormatter(),
    version=handloom.__version__,
    version_flags=["--version"],
    default_parameter=Parameter(negative=(), show_default=_default_shown),
    result_action="return_value",  # so that we come back here, and see what becomes of the output
    suppress_keyboard_interrupt=False,
)
for _flag in ("--help", "-h", "--version"):
    app[_flag].show = False
for _number, _title in enumerate(GROUPS):
    _group = Group(_title, sort_key=_number)
    for _place, (_name, (_path, _help)) in enumerate(GROUPS[_title].items()):
        app.command(f"handloom.cli.{_path}", name=_name, help=_help, group=_group, sort_key=_place)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    The exit code is 0 when all is done, 2 after an error that the user can fix, 130 after Ctrl-C, 143 after SIGTERM
    and 129 after SIGHUP. Notes on standard error may always be lost; standard output only where it is not the product.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    words, debug = _without_debug(words)
    words = [_Hyphen(word) if word == "-" else word for word in words]
    _limit_spinning()
    shield = screen.NAMES if words and words[0] in RUNS else ("stderr",)
    screen.fill_closed()
    _configure_stdio()
    try:
        with end_on_signals(), screen.shielded(*shield), wording(lambda text: in_flags(text, app, words)):
            locks.sweep()
            _run_command(words, debug)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                screen.abandon(stream)


def _run_command(words: list[str], debug: bool) -> NoReturn:
    """Run a command; an error becomes a paragraph, and every end an exit code."""
    try:
        describe(app, words)
        app(words, exit_on_error=False, print_error=False)
        sys.stdout.flush()  # a reader that has gone is noticed here, not after us
    except HandloomError as error:
        fail(str(error), debug)
    except CycloptsError as error:
        fail(usage_error(error, words), debug)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        screen.abandon(sys.stdout)
        sys.exit(130)
    except BrokenPipeError:
        screen.abandon(sys.stdout)  # the reader of our output (`| head`) has what it wanted
    except (ImportError, OSError) as error:
        if failure := import_failure(error):
            fail(str(failure), debug)
        if isinstance(error, ImportError):
            raise
        screen.abandon(sys.stdout)
        where = f" {error.filename}" if error.filename is not None else ""
        reason = error.strerror or str(error)
        fail(f"The system refused{where}: {reason}. With --debug the same command shows where it happened.", debug)
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        fail(
            "This needs more memory than the machine has. Lower `micro_batch_size`, `batch_size` or `context_length`, "
            "or choose a smaller model; for generation, lower `n`.",
            debug,
        )
    sys.exit(0)


class _Hyphen(str):
    """The word - that stands for standard input. To cyclopts it is a flag, unless it does not begin with a hyphen."""

    __slots__ = ()

    def startswith(self, *_: Any) -> bool:
        return False


def fail(message: str, debug: bool = False) -> NoReturn:
    """Print one paragraph on standard error, its settings as flags, after a traceback to debug; exit with 2."""
    from rich.text import Text

    from handloom.console import new_console, visible

    if debug:
        import traceback

        traceback.print_exc()
    console = new_console(stderr=True)
    # Only a terminal's lines are broken, and no word: paths stay whole, for copying and for other programs.
    paragraph = visible(worded(" ".join(message.split())))
    text = Text.assemble(("Error: ", "bold red"), paragraph, overflow="ignore")
    console.print(text, soft_wrap=not console.is_terminal)
    sys.exit(2)


def _without_debug(words: list[str]) -> tuple[list[str], bool]:
    """The words without the flag --debug, which is ours unless it stands behind a `--`."""
    end = words.index("--") if "--" in words else len(words)
    flags = [word for word in words[:end] if word != "--debug"]
    return flags + words[end:], len(flags) < end


def _limit_spinning() -> None:
    """Have OpenMP's threads spin for some 50 microseconds while they wait, then sleep; torch loads it later.

    By itself it spins for milliseconds. Where another process uses a core, threads spin until they are preempted, and
    the others wait for them: 30 % of the idle speed is left instead of 70 % (`benchmarks/busy_neighbour.py`).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def _configure_stdio() -> None:
    """Files and pipes get UTF-8 on every system; a terminal what it can show, and never an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                encoding=None if stream.isatty() else "utf-8",
                errors="replace" if stream is sys.stdout else "backslashreplace",
            )
