"""handloom chat"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from cyclopts import Parameter

from handloom.cli.flags import ModelPath, flags_of, given
from handloom.cli.inputs import standard_input
from handloom.cli.model_argument import AdapterFlag, load_named
from handloom.console import note, write
from handloom.errors import HandloomError, RequestError, did_you_mean
from handloom.inference.generation_config import GenerationConfig, SamplingParams

if TYPE_CHECKING:
    from handloom.inference.conversation import TextSession

# The names of FIXED in inference/conversation.py, which imports torch; a test keeps them the same.
WITHOUT = ("overflow", "num_beams", "length_penalty", "logprobs", "echo")
RequestFlags: Any = flags_of(GenerationConfig, without=WITHOUT)
SamplingFlags: Any = flags_of(SamplingParams, several=False)
HOW = {
    False: "Write a line, and the model goes on from there; an empty line lets it go on by itself.",
    True: "Write a line, and the model answers it. /system TEXT tells it something before all turns.",
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
COMMANDS = (*PLAIN, "/edit", "/save", "/system", "/stop")


def chat(
    model: ModelPath = Path("runs/demo"),
    *,
    adapter: AdapterFlag = None,
    system: str | None = None,
    stop: list[str] | None = None,
    threads: int | None = None,
    request: Annotated[RequestFlags, Parameter(name="*")] = RequestFlags(),  # noqa: B008 - cyclopts wants an instance
    sampling: Annotated[SamplingFlags, Parameter(name="*")] = SamplingFlags(),  # noqa: B008
) -> None:
    """Talk with a model, or write a text together with it, in turn.

    A model that learned conversations (handloom finetune --task sft) answers. Any other knows no questions and
    answers; it continues all that was written so far. What is beyond its context is out of its sight. Inside, /help
    shows the commands.

    Parameters
    ----------
    model
        Run folder, checkpoint folder, Hugging Face folder, GGUF file, nanoGPT's ckpt.pt, adapter's folder, or the
        name of a pulled model.
    system
        Tell a model that learned conversations this before all turns.
    stop
        End an answer where this string appears; may be given several times. \\n is a line break, \\\\ a backslash.
    threads
        Threads for the matrix products [default: $OMP_NUM_THREADS, or the cores granted].
    """
    how = GenerationConfig().changed(**given(request), **given(sampling))
    if threads is not None and threads < 1:
        raise RequestError(f"--threads is {threads}; it must be at least 1.", "Leave it out for all granted cores.")

    from handloom import runtime
    from handloom.inference.conversation import TextSession
    from handloom.inference.dialogue import ChatSession
    from handloom.inference.sequence import stop_strings, typed_stop

    runtime.set_num_threads(threads)
    stops = stop_strings([typed_stop(text) for text in stop or []])
    lm = load_named(model, adapter)
    conversation = ChatSession(lm, how, stops, on_note=note) if lm.template else TextSession(lm, how, stops)
    if system is not None:
        _tell(conversation, system)
    asked = standard_input("a conversation")
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
            with conversation.unchanged_by_errors():
                _obey(conversation, line, saved)
        except BrokenPipeError:
            raise  # nobody reads the answers
        except HandloomError as error:
            note(str(error), "Error: ")
        except KeyboardInterrupt:
            if not asked.isatty():
                raise
            print("\n/quit or Ctrl-D leaves.", file=sys.stderr)
        except Exception as error:  # the conversation is worth more than where this came from
            note(f"{error or type(error).__name__}. That line changed nothing; /save keeps the text.", "Error: ")


def _tell(conversation: TextSession, system: str) -> None:
    """Tell the model something before all turns, if it has learned to be told."""
    from handloom.inference.dialogue import ChatSession

    if not isinstance(conversation, ChatSession):
        raise RequestError(
            "This model learned no conversations, so it has no ear for the system.",
            "Write what it is to go on from as a line.",
        )
    conversation.tell(system.strip() or None)


def _obey(conversation: TextSession, line: str, saved: set[Path]) -> None:
    command, _, rest = line.partition(" ")
    if not line.startswith("/") or line.startswith("//"):
        _show(lambda halted: conversation.say(line[1:] if line.startswith("//") else line, halted))
        return
    _require_command(command, rest)
    if command == "/retry":
        _show(conversation.retry)
    elif command == "/edit":
        _show(lambda halted: conversation.edit(rest, halted))
    elif command == "/undo":
        conversation.undo()
    elif command == "/clear":
        conversation.clear()
    elif command == "/history":
        write(conversation.text)
    elif command == "/save":
        _save(conversation, rest, saved)
    elif command == "/settings":
        _show_settings(conversation)
    elif command == "/help":
        from handloom.inference.dialogue import ChatSession

        print(f"{HOW[isinstance(conversation, ChatSession)]}\n{HELP}")
    elif command == "/system":
        _tell(conversation, rest)
    else:
        conversation.set(command[1:], rest.strip())


def _require_command(command: str, rest: str) -> None:
    """Raise RequestError for a command that there is not, or that lacks its value, or has one too many."""
    from handloom.inference.conversation import FIXED, settable

    settings = [f"/{name.replace('_', '-')}" for name in (*settable(), *FIXED)]
    known = [*COMMANDS, *settings]
    name = command.replace("_", "-")
    if name not in known:
        raise RequestError(
            f"There is no command {command}.",
            f"{did_you_mean(name, known)} /help shows what there is; // begins a text with a /.".strip(),
        )
    if command in PLAIN and rest.strip():
        raise RequestError(f"{command} takes no value.", f"Write {command} alone.")
    if name in ("/stop", *settings) and not rest.strip():
        raise RequestError(f"{command} needs a value.", f"For example {command} off; /settings shows all.")


def _show(answer: Callable[[Callable[[], bool]], Iterator[str]]) -> None:
    """Print an answer as it comes, until it ends or Ctrl-C is pressed."""
    halts: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: halts.append(number))
    try:
        for piece in answer(lambda: bool(halts)):
            write(piece, end="")
    finally:
        signal.signal(signal.SIGINT, before)
        write("")


def _save(conversation: TextSession, name: str, saved: set[Path]) -> None:
    """Write the text to a file: a new one, or one that this chat has saved before."""
    from handloom.runtime import user_path
    from handloom.storage import write_output

    if not name.strip():
        raise RequestError("/save needs the name of a file.", "For example /save story.txt.")
    path = user_path(name.strip(), "/save")
    if path.is_file() and path.resolve() not in saved:
        raise RequestError(f"{path} exists already; it is not written over.", "Name another file.")
    write_output(path, conversation.text + "\n")
    saved.add(path.resolve())
    note(f"{path}.", "Saved to ")


def _show_settings(conversation: TextSession) -> None:
    from handloom.inference.conversation import settable

    request = conversation.request
    for name in settable():
        value = getattr(request if hasattr(request, name) else request.sampling, name)
        write(f"/{name.replace('_', '-')} {'off' if value is None or value == () else value}")
    write(f"/stop {' '.join(map(repr, conversation.stop)) or 'off'}")


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
            print("\nError: That was no text in this terminal's encoding. Write it again.", file=sys.stderr)


def _piped(stream: BinaryIO) -> Iterator[str]:
    for number, raw in enumerate(stream, 1):
        try:
            yield raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise RequestError(
                f"Line {number} of standard input is not UTF-8 text: the byte at offset {error.start} is wrong.",
                "Convert it first, for example with iconv.",
            ) from None
