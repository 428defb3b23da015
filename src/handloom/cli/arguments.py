"""Arguments that several commands take: the model, adapters, counts, stop strings, texts from files and pipes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

from cyclopts import Parameter

from handloom.cli.flags import given, heading, path_of
from handloom.console import note, pluralize
from handloom.errors import RequestError
from handloom.values import parse_json

if TYPE_CHECKING:
    from handloom.inference.completions import GenerationStats
    from handloom.inference.language_model import LanguageModel
    from handloom.model.config import GPTConfig


def flag(group: str, help: str, **more: Any) -> Parameter:  # noqa: A002 - cyclopts calls it so
    """What describes a flag: its heading in `--help`, and its help."""
    return Parameter(group=heading(group), help=help, **more)


_MODEL = (
    "Run, checkpoint or Hugging Face folder, GGUF file, nanoGPT's ckpt.pt, adapter's folder, or a pulled model's name."
)
_ADAPTER = (
    "Add an adapter to the model: a run tuned with LoRA, or a folder in PEFT's format. B:0.5 gives it the weight 0.5. "
    "May be given several times."
)
_THREADS = "Threads for the matrix products [default: $OMP_NUM_THREADS, or the available cores]."
ModelFlag = Annotated[Path, path_of("MODEL"), flag("Essentials", _MODEL)]
AdapterFlag = Annotated[list[str] | None, flag("Essentials", _ADAPTER, name="--adapter")]
_PRECISION = (
    "Of the weights. fp32 is exact; fp16, int8 and int4 are smaller and faster; bf16 needs a processor with bfloat16 "
    "arithmetic; auto: $HANDLOOM_PRECISION, else int8 where a C compiler is, or fp32."
)
Precision = Literal["fp32", "auto", "fp16", "bf16", "int8", "int4"]
PrecisionFlag = Annotated[Precision, flag("Precision and threads", _PRECISION)]
ThreadsFlag = Annotated[int | None, flag("Precision and threads", _THREADS)]
_MAX_LABELS = 6
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def load_for_inference(model: Path, adapter: list[str] | None, precision: str, threads: int | None) -> LanguageModel:
    """The model with its adapters merged; with neither threads nor a precision given, as `handloom tune` found it.

    A note says where `auto` is another precision than fp32.
    """
    from handloom import runtime
    from handloom.loading import load
    from handloom.tuned import profile_for

    found = profile_for(model, note) if precision == "auto" and threads is None and not adapter else None
    runtime.set_num_threads(found.threads if found else threads)
    lm = load(model, note, adapter or (), found.precision if found else precision, merge=True)
    if found:
        note(f"{found}, as `handloom tune` measured (`precision=fp32` for exact results).")
    elif precision == "auto" and lm.precision != "fp32":
        note(f"{lm.precision} weights (--precision fp32 for exact results).")
    return lm


def note_stats(counts: GenerationStats, lm: LanguageModel) -> None:
    """Note times, tokens per second, and what computes the model."""
    from handloom.quantization.precision import described

    after, speculation = counts.seconds - counts.first_token_seconds, counts.speculation
    rate = f", {counts.later_tokens / after:,.1f} tokens/s after the first" if after else ""
    note(
        f"{counts.prompt_tokens:,} prompt tokens, first token after {counts.first_token_seconds:.3f} s, "
        f"{counts.new_tokens:,} new tokens in {counts.seconds:.3f} s{rate}; {described(lm.model)}.",
        "Stats: ",
    )
    if speculation.cost is not None:
        note(
            f"Speculation: {speculation.accepted:,} of {speculation.proposed:,} proposed tokens accepted in "
            f"{pluralize(speculation.passes, 'pass', 'passes')}; a pass costs {speculation.cost:.2f} tokens.",
            "Stats: ",
        )


def note_labels(name: str, config: GPTConfig) -> None:
    """Note that the labels of a model with a classification head are not measured."""
    if config.label_names:
        names = ", ".join(config.label_names[:_MAX_LABELS])
        names += ", ..." if len(config.label_names) > _MAX_LABELS else ""
        note(
            f"{name} has a classification head ({names}), which is not measured: the metrics are of its language model."
        )


def require_positive(**counts: int | None) -> None:
    """Raise RequestError for a count below 1; None is the default."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise RequestError(
                f"`{name}` is {value}; it must be at least 1.", f"Leave out `{name}` for the default.", setting=name
            )


def typed_settings(flags: Any) -> dict[str, Any]:
    """The settings of generation that were given as flags; stop strings as `typed_stop` reads them."""
    settings = given(flags)
    return {**settings, "stop": [typed_stop(text) for text in settings.get("stop", ())]}


def typed_stop(text: str) -> str:
    r"""A stop string as it is typed: \n, \t, \r and \\ are escapes; raises RequestError for any other backslash."""

    def character(found: re.Match[str]) -> str:
        if found[1] not in _ESCAPES:
            raise RequestError(
                f"The stop string {text} has a backslash that is not part of an escape.",
                r"Write \\ for a backslash, \n for a line break, \t for a tab, \r for a carriage return.",
                setting="stop",
            )
        return _ESCAPES[found[1]]

    return re.sub(r"\\(.?)", character, text, flags=re.DOTALL)


# Texts from files and pipes: each raises RequestError for what cannot be read, or is not UTF-8


def read_lines(file: Path) -> list[str]:
    """One prompt a line; an empty line is refused."""
    lines = read_file(file).split("\n")
    if "" in lines:
        raise RequestError(
            f"Line {lines.index('') + 1} of {file} is empty, so there is nothing to continue.",
            "Write one prompt a line.",
        )
    return lines


def read_prompts(file: Path) -> list[Any]:
    """One prompt a line: text, or in a file .jsonl JSON, of which a line that cannot be used becomes its error."""
    lines = read_lines(file)
    if file.suffix.lower() not in (".jsonl", ".ndjson"):
        return lines
    return [_json_prompt(line, f"Line {number} of {file}") for number, line in enumerate(lines, 1)]


def _json_prompt(line: str, where: str) -> Any:
    try:
        value = parse_json(line)
    except ValueError as error:
        return RequestError(f"{where} is not JSON: {error}.", 'Write a string, or {"prompt": "..."}.')
    if not isinstance(value, dict):
        return value
    if list(value) not in (["prompt"], ["messages"]):
        names = ", ".join(map(repr, value)) or "nothing"
        return RequestError(f"{where} has {names}; it may have 'prompt' or 'messages'.", "Leave the others out.")
    return next(iter(value.values()))


def standard_input(what: str) -> BinaryIO:
    """Standard input as bytes; a process may be started without one, as services are."""
    stream: BinaryIO | None = getattr(sys.stdin, "buffer", None)
    if stream is None or stream.closed:
        raise RequestError(
            f"There is no standard input to read {what} from: it is closed.",
            "Pipe something into the command, or name a text or a file instead.",
        )
    return stream


def read_standard_input(what: str, *, exact: bool = False) -> str:
    """The text of standard input, as `decoded`."""
    stream = standard_input(what)
    if stream.isatty():
        print(f"Reading {what} until Ctrl-D.", file=sys.stderr)
    try:
        return decoded(stream.read(), "Standard input", exact=exact)
    except OSError as error:
        problem = f"Standard input cannot be read: {error.strerror or error}."
        raise RequestError(problem, "Pipe a text into the command.") from None


def read_file(file: Path, what: str = "The prompt file", *, exact: bool = False) -> str:
    """The text of a file, as `decoded`."""
    try:
        return decoded(file.read_bytes(), f"{what} {file}", exact=exact)
    except OSError as error:
        raise RequestError(f"{what} {file} cannot be read: {error.strerror}.", "Give a UTF-8 text file.") from None


def decoded(raw: bytes, where: str, *, exact: bool = False) -> str:
    """Bytes as text, without a byte order mark and the last line end, which editors and `echo` add, unless `exact`."""
    try:
        text = raw.decode("utf-8" if exact else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{where} is not UTF-8 text: the byte at offset {error.start} is wrong.",
            "Convert it first, for example with iconv.",
        ) from None
    return text if exact else text.replace("\r\n", "\n").removesuffix("\n")
