"""The command line: names of commands, and what becomes of an error. Commands are imported when called."""

from __future__ import annotations

import io
import sys
from typing import Any, NoReturn

from cyclopts import App, CycloptsError, Parameter

import handloom
from handloom import screen, temporary
from handloom.errors import HandloomError, worded, wording
from handloom.training.signals import end_on_signals

COMMANDS = {
    "demo": ("handloom.cli.demo:demo", "Learn from Python's documentation for 90 seconds, then write."),
    "train": ("handloom.cli.train:train", "Train a model, or go on with a run."),
    "finetune": ("handloom.cli.finetune:finetune", "Tune a model that is there, or go on with a run."),
    "generate": ("handloom.cli.generate:generate", "Continue a text."),
    "chat": ("handloom.cli.chat:chat", "Talk with a model, or write a text together with it."),
    "classify": ("handloom.cli.classify:classify", "Say which of its labels a model gives a text."),
    "tokenize": ("handloom.cli.tokenize:tokenize", "Show how a text is cut into tokens."),
    "data": ("handloom.cli.data:app", "Prepare and check data, and look at the very batches of a run."),
    "pull": ("handloom.cli.pull:pull", "Fetch GPT-2 models from Hugging Face's hub."),
    "export": ("handloom.cli.export:export", "Write a model in a form that other programs read."),
    "evaluate": ("handloom.cli.evaluate:evaluate", "Measure a model: perplexity, or right answers."),
    "lm-eval": ("handloom.cli.lm_eval:lm_eval", "Measure a model with EleutherAI's evaluation harness."),
    "verify": ("handloom.cli.verify:verify", "Check that a model is computed as it should be."),
    "compare": ("handloom.cli.compare:compare", "Set models side by side: a table, JSON and a page."),
    "model": ("handloom.cli.model:app", "List local models and presets, and show the parts of one."),
}
RUNS = ("train", "finetune", "demo")
"""Commands whose product is a run: what they print is a view of it, and may be lost."""


def _default_shown(value: Any) -> str | None:
    """What `--help` says about a default: nothing where it is that a flag is not given."""
    return None if value is None or value is False else str(value)


app = App(
    name="handloom",
    help="A GPT written by hand, for the computer you already have.",
    help_epilogue="With --debug any command shows the traceback of an error.",
    help_format="plaintext",
    version=handloom.__version__,
    version_flags=["--version"],
    default_parameter=Parameter(negative=(), show_default=_default_shown),
    result_action="return_value",  # so that we come back here, and see what becomes of the output
    suppress_keyboard_interrupt=False,
)
for _name, (_path, _help) in COMMANDS.items():
    app.command(_path, name=_name, help=_help)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    The exit code is 0 when all is done, 2 after an error that the user can mend, 130 after Ctrl-C, 143 after SIGTERM
    and 129 after SIGHUP. Notes on standard error may always be lost; standard output only where it is no product.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    words, debug = _without_debug(words)
    words = [_Hyphen(word) if word == "-" else word for word in words]
    shield = screen.NAMES if words and words[0] in RUNS else ("stderr",)
    screen.fill_closed()
    _configure_stdio()
    try:
        with end_on_signals(), screen.shielded(*shield), wording(lambda text: _in_flags(text, words)):
            temporary.sweep()
            _run_command(words, debug)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                screen.abandon(stream)


def _in_flags(text: str, words: list[str]) -> str:
    from handloom.cli.flags import in_flags

    return in_flags(text, app, words) if "`" in text else text


def _run_command(words: list[str], debug: bool) -> NoReturn:
    """Run a command; an error becomes a paragraph, and every end an exit code."""
    try:
        app(words, exit_on_error=False, print_error=False)
        sys.stdout.flush()  # a reader that has gone is noticed here, not after us
    except HandloomError as error:
        _show_traceback(debug)
        fail(worded(str(error)))
    except CycloptsError as error:
        _show_traceback(debug)
        from handloom.cli.usage_errors import usage_error

        fail(usage_error(error, words))
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        screen.abandon(sys.stdout)
        sys.exit(130)
    except BrokenPipeError:
        screen.abandon(sys.stdout)  # the reader of our output (`| head`) has what it wanted
    except (ImportError, OSError) as error:
        from handloom.packages import import_failure

        if told := import_failure(error):
            _show_traceback(debug)
            fail(worded(str(told)))
        if isinstance(error, ImportError):
            raise
        screen.abandon(sys.stdout)
        _show_traceback(debug)
        fail(_refused(error))
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        _show_traceback(debug)
        fail(
            "This needs more memory than the machine has. Choose a smaller --micro-batch-size, --batch-size, "
            "--context-length or model; for writing, a smaller --n."
        )
    sys.exit(0)


class _Hyphen(str):
    """The word - that stands for standard input. To cyclopts it is a flag, unless it does not begin with a hyphen."""

    __slots__ = ()

    def startswith(self, *_: Any) -> bool:
        return False


def _show_traceback(debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()


def fail(message: str) -> NoReturn:
    """Print one clear paragraph on standard error and exit with 2."""
    from rich.text import Text

    from handloom.console import new_console, visible

    console = new_console(stderr=True)
    # Only a terminal's lines are broken, and no word: paths stay whole, for copying and for other programs.
    paragraph = visible(" ".join(message.split()))
    text = Text.assemble(("Error: ", "bold red"), paragraph, overflow="ignore")
    console.print(text, soft_wrap=not console.is_terminal)
    sys.exit(2)


def _without_debug(words: list[str]) -> tuple[list[str], bool]:
    """The words without the flag --debug, which is ours unless it stands behind a `--`."""
    end = words.index("--") if "--" in words else len(words)
    flags = [word for word in words[:end] if word != "--debug"]
    return flags + words[end:], len(flags) < end


def _configure_stdio() -> None:
    """Files and pipes get UTF-8 on every system; a terminal what it can show, and never an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                encoding=None if stream.isatty() else "utf-8",
                errors="replace" if stream is sys.stdout else "backslashreplace",
            )


def _refused(error: OSError) -> str:
    where = f" {error.filename}" if error.filename is not None else ""
    reason = error.strerror or str(error)
    return f"The system refused{where}: {reason}. With --debug the same command shows where it happened."
