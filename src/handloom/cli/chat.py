"""handloom chat"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from handloom.cli import arguments
from handloom.cli.arguments import AdapterFlag, ModelFlag, PrecisionFlag, ThreadsFlag, flag
from handloom.cli.flags import flags_of
from handloom.console import note, write
from handloom.errors import HandloomError, RequestError, did_you_mean
from handloom.inference.generation_config import NOT_IN_CHAT, GenerationConfig
from handloom.settings import setting_names

if TYPE_CHECKING:
    from handloom.inference.chat import TextSession
    from handloom.inference.engine import TokenEvent

ConfigFlags: Any = flags_of(GenerationConfig, several=False, without=NOT_IN_CHAT)
HOW = {
    False: "Write a line, and the model goes on from there; an empty line lets it go on by itself.",
    True: "Write a line, and the model answers it. /system TEXT sets the system message, which comes before all turns.",
}
HELP = """\
\\ at the end of a line goes on to the next one, // at the beginning stands for /. Ctrl-C stops an answer and
keeps what is written. An error changes nothing.

/retry        write the last answer again       /history    show all of the text
/edit TEXT    say something else instead        /save FILE  write it to a new file
/undo         take back the last turn           /settings   show the settings
/clear        take back all turns               /quit       leave (or /exit, Ctrl-D)
/help         this

/temperature 0.7 and the like change a setting, /top-k off takes it back, /stop TEXT adds a stop string, where \\n is
a line break, \\t a tab and \\\\ a backslash."""
PLAIN = ("/retry", "/undo", "/clear", "/history", "/settings", "/help", "/quit", "/exit")
COMMANDS = (*PLAIN, "/edit", "/save", "/system")


def chat(
    model: ModelFlag = Path("runs/demo"),
    *,
    adapter: AdapterFlag = None,
    system: Annotated[str | None, flag("Essentials", "The system message, if the model has a chat template.")] = None,
    stats: Annotated[bool, flag("Output", "Also print times and tokens per second of each answer.")] = False,
    precision: PrecisionFlag = "auto",
    threads: ThreadsFlag = None,
    flags: ConfigFlags = None,
) -> None:
    """Talk with a model, or write a text together with it, in turn.

    A model with a chat template (handloom finetune --task sft) answers. Any other continues all of the text. The model
    reads what fits its context, the newest first. Inside, /help shows the commands.
    """
    config = GenerationConfig().changed(**arguments.typed_settings(flags))
    arguments.require_positive(threads=threads)

    from handloom.inference.chat import ChatSession, TextSession

    lm = arguments.load_for_inference(model, adapter, precision, threads)
    session = ChatSession(lm, config, note) if lm.template else TextSession(lm, config)
    if system is not None:
        session.set_system(system.strip() or None)
    asked = arguments.standard_input("a conversation")
    if asked.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives input() a history and its keys
        does = "answers" if lm.template else "goes on"
        print(f"Write, and the model {does}. /help shows the commands, /quit leaves.", file=sys.stderr)
    saved: set[Path] = set()
    for line in _lines(_typed() if asked.isatty() else _piped(asked)):
        if line.strip() in ("/quit", "/exit"):
            return
        try:
            with session.unchanged_by_errors():
                if _run_line(session, line, saved) and stats:
                    arguments.note_stats(session.stats, lm)
        except BrokenPipeError:
            raise  # the output is closed
        except HandloomError as error:
            note(str(error), "Error: ")
        except KeyboardInterrupt:
            if not asked.isatty():
                raise
            print("\n/quit or Ctrl-D leaves.", file=sys.stderr)
        except Exception as error:  # the text is worth more than the traceback
            note(f"{error or type(error).__name__}. That line changed nothing; /save keeps the text.", "Error: ")


def _run_line(session: TextSession, line: str, saved: set[Path]) -> bool:
    """A line of text, or a command. Returns whether the model answered."""
    command, _, rest = line.partition(" ")
    if not line.startswith("/") or line.startswith("//"):
        _show(lambda should_stop: session.send(line[1:] if line.startswith("//") else line, should_stop))
        return True
    _require_command(command, rest)
    value = rest.strip()
    commands: dict[str, Callable[[], None]] = {
        "/retry": lambda: _show(session.retry),
        "/edit": lambda: _show(lambda should_stop: session.edit(rest, should_stop)),
        "/undo": session.undo,
        "/clear": session.clear,
        "/history": lambda: write(session.text),
        "/save": lambda: _save(session, rest, saved),
        "/settings": lambda: _show_settings(session),
        "/help": lambda: print(f"{HOW[session.has_roles]}\n{HELP}"),
        "/system": lambda: session.set_system(value or None),
        "/stop": lambda: session.set("stop", arguments.typed_stop(value)),
    }
    commands.get(command, lambda: session.set(command[1:], value))()
    return command in ("/retry", "/edit")


def _require_command(command: str, rest: str) -> None:
    """Raise RequestError for a command that does not exist, lacks its value, or has one too many."""
    settings = [f"/{name.replace('_', '-')}" for name in setting_names(GenerationConfig)]
    known = [*COMMANDS, *settings]
    name = command.replace("_", "-")
    if name not in known:
        raise RequestError(
            f"There is no command {command}.",
            f"{did_you_mean(name, known)} /help shows what there is; // begins a text with a /.".strip(),
        )
    if command in PLAIN and rest.strip():
        raise RequestError(f"{command} takes no value.", f"Write {command} alone.")
    if name in settings and not rest.strip():
        raise RequestError(f"{command} needs a value.", f"For example {command} off; /settings shows all.")


def _show(answer: Callable[[Callable[[], bool]], Iterator[TokenEvent]]) -> None:
    """Print an answer as it comes, until it ends or Ctrl-C is pressed."""
    signals: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: signals.append(number))
    try:
        for event in answer(lambda: bool(signals)):
            write(event.text, end="")
    finally:
        signal.signal(signal.SIGINT, before)
        write("")


def _save(session: TextSession, name: str, saved: set[Path]) -> None:
    """Write the text to a file: a new one, or one that this chat has saved before."""
    from handloom.runtime import user_path
    from handloom.storage import write_output

    if not name.strip():
        raise RequestError("/save needs the name of a file.", "For example /save story.txt.")
    path = user_path(name.strip(), "/save")
    if path.is_file() and path.resolve() not in saved:
        raise RequestError(f"{path} exists already; it is not written over.", "Name another file.")
    write_output(path, session.text + "\n")
    saved.add(path.resolve())
    note(f"{path}.", "Saved to ")


def _show_settings(session: TextSession) -> None:
    for name in setting_names(GenerationConfig):
        value = getattr(session.config, name)
        shown = " ".join(map(repr, value)) if name == "stop" else value
        if name not in NOT_IN_CHAT:
            write(f"/{name.replace('_', '-')} {'off' if value is None or value == () else shown}")


def _lines(given: Iterable[str | None]) -> Iterator[str]:
    """The lines of the person, those that end in a backslash joined with the next."""
    held: list[str] = []
    for line in given:
        if line is None:  # Ctrl-C
            held = []
        elif line.endswith("\\"):
            held.append(line[:-1])
        else:
            yield "\n".join([*held, line])
            held = []


def _typed() -> Iterator[str | None]:
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n/quit or Ctrl-D leaves.", file=sys.stderr)
            yield None
        except UnicodeDecodeError:
            print("\nError: That was not text in this terminal's encoding. Write it again.", file=sys.stderr)


def _piped(stream: BinaryIO) -> Iterator[str]:
    for number, raw in enumerate(stream, 1):
        try:
            yield raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise RequestError(
                f"Line {number} of standard input is not UTF-8 text: the byte at offset {error.start} is wrong.",
                "Convert it first, for example with iconv.",
            ) from None
