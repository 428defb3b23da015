"""handloom classify"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from handloom.cli.flags import ModelPath, PathFlag
from handloom.cli.model_argument import AdapterFlag, load_named
from handloom.errors import RequestError

if TYPE_CHECKING:
    from handloom.inference.classify import Classification

_SHOWN = 5  # labels of a single text; more where it has more


def classify(
    text: str | None = None,
    *,
    model: ModelPath,
    adapter: AdapterFlag = None,
    texts: PathFlag | None = None,
    overlong: Literal["error", "truncate"] = "error",
    json: Annotated[bool, Parameter(negative="")] = False,
    batch_size: int = 16,
    threads: int | None = None,
) -> None:
    """Say which of its labels a model gives a text, and how likely it finds them.

    A model for regression gives values instead. One whose texts may have several labels gives each label a
    probability of its own; a text has those of at least 50 %.

    Parameters
    ----------
    text
        Text to classify; - reads it from standard input (without its last line end).
    model
        Run folder, or a checkpoint folder, of a model that was tuned with handloom finetune --task classify; or a
        Hugging Face folder with a GPT2ForSequenceClassification.
    texts
        Classify each line of this file instead; prints a line for each.
    overlong
        What to do with a text beyond the context: error, or cut its end.
    json
        Print one JSON object a line, with the probabilities (or values) of all labels.
    batch_size
        Texts that are read side by side.
    threads
        Threads for the matrix products [default: $OMP_NUM_THREADS, or the cores granted].
    """
    for name, value in (("batch-size", batch_size), ("threads", threads)):
        if value is not None and value < 1:
            raise RequestError(f"--{name} is {value}; it must be at least 1.", "Leave it out for the usual.")
    wanted = _read(text, texts)

    from handloom import runtime
    from handloom.console import write
    from handloom.inference import classify as classifying

    runtime.set_num_threads(threads)
    lm = load_named(model, adapter)
    found = classifying.classify(lm.model, lm.tokenizer, wanted, overlong, batch_size)
    if json:
        _print_json(wanted, found)
    elif texts is not None:
        shown = [_in_short(each) for each in found]
        width = max(map(len, shown))
        for one, each in zip(wanted, shown, strict=True):
            write(f"{each:{width}}  {one}")
    else:
        only = found[0]
        likeliest = sorted(only.probabilities.items(), key=lambda pair: -pair[1])
        for line in _lines(only, likeliest[: max(_SHOWN, len(only.labels))]):
            write(line)


def _lines(each: Classification, likeliest: list[tuple[str, float]]) -> list[str]:
    """A line for each of these labels, the likeliest first; of a model for regression, for each of its values."""
    pairs = likeliest or list(each.values.items())
    width = max(map(len, each.values))
    return [f"{label:{width}}  " + (f"{value:6.1%}" if likeliest else f"{value:.4f}") for label, value in pairs]


def _in_short(each: Classification) -> str:
    """The labels that a text has, or its values, in one line."""
    given = [(label, each.values[label]) for label in each.labels]
    return ", ".join(_lines(each, given)) if given or not each.probabilities else "no label"


def _read(text: str | None, file: Path | None) -> list[str]:
    from handloom.cli.inputs import read_file, read_standard_input

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


def _print_json(texts: list[str], found: list[Classification]) -> None:
    from handloom.console import print_json
    from handloom.model.config import MULTI_LABEL

    for text, each in zip(texts, found, strict=True):
        said: dict[str, object] = {"values": each.values}
        if each.probabilities:
            given = {"labels": each.labels} if each.problem_type == MULTI_LABEL else {"label": each.label}
            said = {**given, "probabilities": each.probabilities}
        print_json({"text": text, **said})
