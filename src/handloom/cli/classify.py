"""handloom classify"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from handloom.cli.flags import ModelPath, PathFlag
from handloom.cli.named import AdapterFlag, load_named
from handloom.errors import RequestError

if TYPE_CHECKING:
    from handloom.inference.classify import Classified

_SHOWN = 5  # labels of a single text


def classify(
    text: str | None = None,
    *,
    model: ModelPath,
    adapter: AdapterFlag = None,
    texts: PathFlag | None = None,
    overlong: Literal["error", "cut"] = "error",
    json: Annotated[bool, Parameter(negative="")] = False,
    batch_size: int = 16,
    threads: int | None = None,
) -> None:
    """Say which of its labels a model gives a text, and how likely it finds them.

    Parameters
    ----------
    text
        Text to classify; - reads it from standard input (without its last line end).
    model
        Run folder, or a checkpoint folder, of a model that was tuned with handloom finetune --task classify.
    texts
        Classify each line of this file instead; prints a line for each.
    overlong
        What to do with a text beyond the context: error, or cut its end.
    json
        Print one JSON object a line, with the probabilities of all labels.
    batch_size
        Texts that are read side by side.
    threads
        Threads for the matrix products [default: the cores granted].
    """
    for name, value in (("batch-size", batch_size), ("threads", threads)):
        if value is not None and value < 1:
            raise RequestError(f"--{name} is {value}; it must be at least 1.", "Leave it out for the usual.")
    wanted = _read(text, texts)

    from handloom import runtime
    from handloom.console import write
    from handloom.inference import classify as classifying

    runtime.use_threads(threads)
    lm = load_named(model, adapter)
    found = classifying.classify(lm.model, lm.tokenizer, wanted, overlong, batch_size)
    if json:
        _print_json(wanted, found)
    elif texts is not None:
        width = max(map(len, lm.config.labels))
        for one, each in zip(wanted, found, strict=True):
            write(f"{each.label:{width}}  {each.probability:6.1%}  {one}")
    else:
        likeliest = sorted(found[0].probabilities.items(), key=lambda pair: -pair[1])[:_SHOWN]
        width = max(len(label) for label, _ in likeliest)
        for label, probability in likeliest:
            write(f"{label:{width}}  {probability:6.1%}")


def _read(text: str | None, file: Path | None) -> list[str]:
    from handloom.cli.prompts import read_file, read_standard_input

    if (text is None) == (file is None):
        raise RequestError(
            "There is no text to classify." if text is None else "A text and a file of texts were given.",
            'Give a text: handloom classify "Buy now" --model runs/spam. Or --texts FILE, or - for standard input.',
        )
    if file is not None:
        lines = read_file(file, "The file").split("\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                raise RequestError(f"Line {number} of {file} is empty.", "Write one text a line.")
        return lines
    assert text is not None
    return [read_standard_input("the text") if text == "-" else text]


def _print_json(texts: list[str], found: list[Classified]) -> None:
    from handloom.console import print_json

    for text, each in zip(texts, found, strict=True):
        answer = {"text": text, "label": each.label, "probabilities": each.probabilities}
        print_json(answer)
