"""handloom generate"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from handloom.errors import RequestError

if TYPE_CHECKING:
    from handloom.inference.engine import Request
    from handloom.inference.text import LanguageModel


def generate(
    prompt: str | None = None,
    *,
    model: Path = Path("runs/demo"),
    prompt_file: Path | None = None,
    new_document: bool = False,
    max_new_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: list[str] | None = None,
    seed: int = 0,
    n: Annotated[int, Parameter(name=["--n", "-n"])] = 1,
    overflow: Literal["error", "slide"] = "error",
    stream: bool = False,
    json: bool = False,
    threads: int | None = None,
) -> None:
    """Continue a text with a model.

    Parameters
    ----------
    prompt
        Text to continue; - reads it from standard input (without its last line end).
    model
        Run folder, or a checkpoint folder inside one.
    prompt_file
        Read the prompt from this file instead (without its last line end).
    new_document
        Begin a new document instead of continuing a prompt.
    max_new_tokens
        The most tokens to add.
    temperature
        0 takes the likeliest token always; higher is livelier.
    top_k
        Choose among the k likeliest tokens only.
    top_p
        Choose among the likeliest tokens that hold this probability together.
    stop
        End the text where this string appears; may be given several times.
    seed
        The same seed gives the same text.
    n
        How many texts to write.
    overflow
        Text beyond the model's context: refuse it, or slide: go on from the context's last half.
    stream
        Show the text while it is being written.
    json
        Print one JSON object a line, with the reason of the end and the token ids.
    threads
        Threads for the matrix products [default: the cores granted].
    """
    text = _read_prompt(prompt, prompt_file, new_document)
    if stream and (n > 1 or json):
        raise RequestError(
            "--stream shows one text as it comes; --n and --json need whole ones.", "Leave one out."
        )

    from handloom import runtime
    from handloom.inference.engine import Request
    from handloom.inference.sampling import Sampling
    from handloom.loading import load

    request = Request(max_new_tokens, Sampling(temperature, top_k, top_p), seed, overflow)
    if threads is not None and threads < 1:
        raise RequestError(
            f"--threads is {threads}; it must be at least 1.", "Leave it out for all granted cores."
        )
    runtime.use_threads(threads)
    lm = load(model, lambda note: print(f"Note: {note}", file=sys.stderr))
    if stream:
        _stream(lm, text, request, stop or [])
    else:
        _print_all(lm, text, request, n, stop or [], json)


def _read_prompt(prompt: str | None, file: Path | None, new_document: bool) -> str | None:
    if sum((prompt is not None, file is not None, new_document)) > 1:
        raise RequestError(
            "Several prompts were given.", "Give the text, or --prompt-file, or --new-document."
        )
    if new_document:
        return None
    if file is not None:
        try:
            return _decoded(file.read_bytes(), f"The prompt file {file}")
        except OSError as error:
            raise RequestError(
                f"The prompt file {file} cannot be read: {error.strerror}.", "Give a UTF-8 text file."
            ) from None
    if prompt == "-":
        if sys.stdin.isatty():
            print("Reading the prompt until Ctrl-D.", file=sys.stderr)
        return _decoded(sys.stdin.buffer.read(), "Standard input")
    if prompt is None:
        raise RequestError(
            "There is no prompt.",
            'Give a text: handloom generate "Learning is". Or --new-document, or - to read it from standard input.',
        )
    return prompt


def _decoded(raw: bytes, where: str) -> str:
    """The text of a prompt that came as bytes. The line end that editors and `echo` put last is not meant."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{where} is not UTF-8 text: the byte at offset {error.start} is wrong.",
            "Convert it first, for example with iconv.",
        ) from None
    return text.replace("\r\n", "\n").removesuffix("\n")


def _stream(lm: LanguageModel, prompt: str | None, request: Request, stop: list[str]) -> None:
    pieces = lm.stream_request(prompt, request, stop)
    first = next(pieces, "")  # errors in the request come before any output
    print(prompt or "", end="", flush=True)
    print(first, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _print_all(
    lm: LanguageModel, prompt: str | None, request: Request, n: int, stop: list[str], as_json: bool
) -> None:
    import json

    done = lm.complete(prompt, request, n, stop)
    for i, completion in enumerate(done.completions):
        if as_json:
            record = {
                "prompt": prompt,
                "text": completion.text,
                "finish": completion.finish,
                "ids": completion.ids,
                "prompt_tokens": done.prompt_tokens,
                "seed": request.seed,
                "row": i,
            }
            print(json.dumps(record, ensure_ascii=False))
            continue
        if n > 1:
            print(f"--- {i + 1}")
        print((prompt or "") + completion.text)
