"""handloom chat"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from handloom.cli.flags import ModelPath, flags_of, given
from handloom.cli.named import AdapterFlag, load_named
from handloom.console import note, write
from handloom.errors import RequestError
from handloom.inference.settings import Request, Sampling

if TYPE_CHECKING:
    from handloom.inference.conversation import Conversation

# The names of FIXED in inference/conversation.py, which imports torch; a test keeps them the same.
WITHOUT = ("overflow", "beams", "length_penalty", "logprobs", "echo")
RequestFlags: Any = flags_of(Request, without=WITHOUT)
SamplingFlags: Any = flags_of(Sampling, several=False)
HOW = {
    False: "Write a line, and the model goes on from there; an empty line lets it go on by itself.",
    True: "Write a line, and the model answers it. /system TEXT tells it something before all turns.",
}
HELP = """\
\\ at the end of a line goes on to the next one, // at the beginning stands for /. Ctrl-C stops an answer and
keeps what is written.

/retry        write the last answer anew        /history    show all of the text
/edit TEXT    say something else instead        /save FILE  write it to a file
/undo         take back the last turn           /settings   show the settings
/help         this                              /quit       leave (or Ctrl-D)

/temperature 0.7 and the like change a setting, /top-k off takes it back, /stop TEXT adds a stop string."""


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

    A model that learned conversations (handloom finetune --task instruct) answers. Any other knows no questions and
    answers; it continues all that was written so far. What is beyond its context is out of its sight. Inside, /help
    shows the commands.

    Parameters
    ----------
    model
        Run folder, checkpoint folder, Hugging Face folder, adapter's folder, or the name of a pulled model.
    system
        Tell a model that learned conversations this before all turns.
    stop
        End an answer where this string appears; may be given several times.
    threads
        Threads for the matrix products [default: the cores granted].
    """
    how = Request().changed(**given(request), **given(sampling))
    if threads is not None and threads < 1:
        raise RequestError(
            f"--threads is {threads}; it must be at least 1.", "Leave it out for all granted cores."
        )

    from handloom import runtime
    from handloom.inference.conversation import Conversation
    from handloom.inference.dialogue import Dialogue
    from handloom.inference.row import stop_strings

    runtime.use_threads(threads)
    stops = stop_strings(stop or [])
    lm = load_named(model, adapter)
    conversation = Dialogue(lm, how, stops, on_note=note) if lm.template else Conversation(lm, how, stops)
    if system is not None:
        _tell(conversation, system)
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives input() a history and its keys
        does = "answers" if lm.template else "goes on"
        print(f"Write, and the model {does}. /help shows the commands, /quit leaves.", file=sys.stderr)
    for line in _lines():
        if line == "/quit":
            return
        try:
            _obey(conversation, line)
        except RequestError as error:
            note(str(error), "Error: ")


def _tell(conversation: Conversation, system: str) -> None:
    """Tell the model something before all turns, if it has learned to be told."""
    from handloom.inference.dialogue import Dialogue

    if not isinstance(conversation, Dialogue):
        raise RequestError(
            "This model learned no conversations, so it has no ear for the system.",
            "Write what it is to go on from as a line.",
        )
    conversation.tell(system.strip() or None)


def _obey(conversation: Conversation, line: str) -> None:
    command, _, rest = line.partition(" ")
    if not line.startswith("/") or line.startswith("//"):
        _show(lambda halted: conversation.say(line[1:] if line.startswith("//") else line, halted))
    elif command == "/retry":
        _show(conversation.retry)
    elif command == "/edit":
        _show(lambda halted: conversation.edit(rest, halted))
    elif command == "/undo":
        conversation.undo()
    elif command == "/history":
        write(conversation.text)
    elif command == "/save":
        _save(conversation, rest)
    elif command == "/settings":
        _show_settings(conversation)
    elif command == "/help":
        from handloom.inference.dialogue import Dialogue

        print(f"{HOW[isinstance(conversation, Dialogue)]}\n{HELP}")
    elif command == "/system":
        _tell(conversation, rest)
    elif rest.strip():
        conversation.set(command[1:], rest.strip())
    else:
        raise RequestError(
            f"There is no command {command}, or it needs a value.", "/help shows what there is."
        )


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


def _save(conversation: Conversation, name: str) -> None:
    if not name.strip():
        raise RequestError("/save needs the name of a file.", "For example /save story.txt.")
    path = Path(name.strip()).expanduser()
    try:
        path.write_text(conversation.text + "\n", encoding="utf-8", newline="\n")
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}.", "Name another file.") from None
    note(f"{path}.", "Saved to ")


def _show_settings(conversation: Conversation) -> None:
    from handloom.inference.conversation import settable

    request = conversation.request
    for name in settable():
        value = getattr(request if hasattr(request, name) else request.sampling, name)
        print(f"/{name.replace('_', '-')} {'off' if value is None or value == () else value}")
    print(f"/stop {' '.join(map(repr, conversation.stop)) or 'off'}")


def _lines() -> Iterator[str]:
    """The lines of the person, those that end in a backslash joined with the next."""
    held: list[str] = []
    for line in _typed() if sys.stdin.isatty() else _piped():
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


def _piped() -> Iterator[str]:
    for number, raw in enumerate(sys.stdin.buffer, 1):
        try:
            yield raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise RequestError(
                f"Line {number} of standard input is not UTF-8 text: the byte at offset {error.start} is wrong.",
                "Convert it first, for example with iconv.",
            ) from None
