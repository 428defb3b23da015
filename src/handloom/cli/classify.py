"""handloom classify"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from handloom.cli.arguments import (
    AdapterFlag,
    ModelFlag,
    PrecisionFlag,
    ThreadsFlag,
    flag,
    load_for_inference,
    read_file,
    read_standard_input,
    require_positive,
)
from handloom.cli.flags import PathFlag
from handloom.errors import RequestError

if TYPE_CHECKING:
    from handloom.inference.classify import Classification

_SHOWN = 5  # labels of a single text; more where it has more


def classify(
    text: Annotated[str | None, flag("Essentials", "Text to classify; - reads it from standard input.")] = None,
    *,
    model: ModelFlag,
    adapter: AdapterFlag = None,
    texts: Annotated[PathFlag | None, flag("Essentials", "Classify each line of this file instead.")] = None,
    overlong: Annotated[
        Literal["error", "truncate"], flag("Essentials", "A text beyond the context: refuse it, or leave out its end.")
    ] = "error",
    json: Annotated[
        bool,
        flag("Output", "Print one JSON object a line, with the probabilities (or values) of all labels.", negative=""),
    ] = False,
    batch_size: Annotated[int, flag("Precision and threads", "Texts that are read together.")] = 16,
    precision: PrecisionFlag = "auto",
    threads: ThreadsFlag = None,
) -> None:
    """Classify a text by a model that was tuned for it: its labels, with their probabilities.

    A model for regression gives values instead. One whose texts may have several labels gives each label a
    probability of its own; a text has those of at least 50 %. The model comes from handloom finetune --task classify,
    or is a Hugging Face folder with a GPT2ForSequenceClassification.
    """
    require_positive(batch_size=batch_size, threads=threads)
    wanted = _read(text, texts)

    from handloom.console import print_json, write
    from handloom.inference import classify as classifying

    lm = load_for_inference(model, adapter, precision, threads)
    found = classifying.classify(lm.model, lm.tokenizer, wanted, overlong=overlong, batch_size=batch_size)
    if json:
        for one, each in zip(wanted, found, strict=True):
            print_json({**_record(one, each), "precision": lm.precision})
    elif texts is not None:
        shown = [_in_short(each) for each in found]
        width = max(map(len, shown))
        for one, short in zip(wanted, shown, strict=True):
            write(f"{short:{width}}  {one}")
    else:
        likeliest = sorted(found[0].probabilities.items(), key=lambda pair: -pair[1])
        for line in _lines(found[0], likeliest[: max(_SHOWN, len(found[0].labels))]):
            write(line)


def _lines(each: Classification, likeliest: list[tuple[str, float]]) -> list[str]:
    """A line for each of these labels, the likeliest first; for regression, for each value."""
    pairs = likeliest or list(each.values.items())
    width = max(map(len, each.values))
    return [f"{label:{width}}  " + (f"{value:6.1%}" if likeliest else f"{value:.4f}") for label, value in pairs]


def _in_short(each: Classification) -> str:
    """The labels of a text, or its values, in one line."""
    given = [(label, each.values[label]) for label in each.labels]
    return ", ".join(_lines(each, given)) if given or not each.probabilities else "no label"


def _record(text: str, each: Classification) -> dict[str, Any]:
    from handloom.model.config import MULTI_LABEL

    if not each.probabilities:
        return {"text": text, "values": each.values}
    given = {"labels": each.labels} if each.problem_type == MULTI_LABEL else {"label": each.label}
    return {"text": text, **given, "probabilities": each.probabilities}


def _read(text: str | None, file: Path | None) -> list[str]:
    if file is not None and text is None:
        lines = read_file(file, "The file").split("\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                raise RequestError(f"Line {number} of {file} is empty.", "Write one text a line.")
        return lines
    if text is None or file is not None:
        raise RequestError(
            "There is no text to classify." if text is None else "A text and a file of texts were given.",
            'Give a text: handloom classify "Buy now" --model runs/spam. Or --texts FILE, or - for standard input.',
        )
    return [read_standard_input("the text") if text == "-" else text]
