"""handloom generate"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from handloom.cli import arguments
from handloom.cli.arguments import AdapterFlag, ModelFlag, PrecisionFlag, ThreadsFlag, flag
from handloom.cli.flags import PathFlag, flags_of
from handloom.console import note, pluralize, print_json, write
from handloom.errors import RequestError, worded
from handloom.inference.generation_config import GenerationConfig, require_count, require_streamable
from handloom.tokenizer.chat import Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from handloom.inference.completions import CompletionOutput, GenerationStats
    from handloom.inference.language_model import LanguageModel
    from handloom.inference.logprobs import TokenLogprob
    from handloom.inference.prompts import Prompt

_PROMPTS = (
    "Continue each line of this file; prints JSON. The lines of a file .jsonl are JSON: a string, or an object with "
    "prompt or messages."
)
ConfigFlags: Any = flags_of(GenerationConfig, several=False)


def generate(
    prompt: Annotated[str | None, flag("Essentials", "Text to continue; - reads it from standard input.")] = None,
    *,
    model: ModelFlag = Path("runs/demo"),
    adapter: AdapterFlag = None,
    prompt_file: Annotated[PathFlag | None, flag("Essentials", "Read the prompt from this file instead.")] = None,
    prompts: Annotated[PathFlag | None, flag("Essentials", _PROMPTS)] = None,
    new_document: Annotated[bool, flag("Essentials", "Begin a new document instead of continuing a prompt.")] = False,
    no_chat_template: Annotated[
        bool, flag("Essentials", "Continue the text, even if the model would answer it.")
    ] = False,
    n: Annotated[int, flag("Search and length", "How many texts to generate.", name=["--n", "-n"])] = 1,
    stream: Annotated[bool, flag("Output", "Print the text while it is being generated.")] = False,
    json: Annotated[
        bool, flag("Output", "Print one JSON object a line, with finish_reason and the token ids.")
    ] = False,
    stats: Annotated[bool, flag("Output", "Also print times and tokens per second on standard error.")] = False,
    batch_size: Annotated[
        int,
        flag("Precision and threads", "Prompts whose texts are generated together.", name=["--batch-size", "--batch"]),
    ] = 16,
    precision: PrecisionFlag = "auto",
    threads: ThreadsFlag = None,
    flags: ConfigFlags = None,
) -> None:
    """Continue a text with a model; a model with a chat template answers it instead.

    A prompt from standard input or a file is read without its last line end.
    """
    config = GenerationConfig().changed(**arguments.typed_settings(flags))
    json = json or prompts is not None
    texts = _read_prompts(prompt, prompt_file, prompts, new_document)
    _require_sense(config, n, stream, json)
    arguments.require_positive(batch_size=batch_size, threads=threads)

    from handloom.inference.completions import GenerationStats

    lm = arguments.load_for_inference(model, adapter, precision, threads)
    answers = lm.template is not None and not no_chat_template
    asked = [[Message("user", text)] if answers and isinstance(text, str) else text for text in texts]
    if prompts is None:
        lm.check(asked[0], config)
    if asked != texts:
        note("This model has a chat template, so it answers; --no-chat-template continues the text.")
    counts = GenerationStats()
    try:
        if stream:
            _stream(lm, asked[0], config, counts)
        elif prompts is None:
            (output,) = lm.complete_each(asked, config, n, max_rows=batch_size * n, stats=counts)
            _print_all(lm, texts[0], output, config.seed if json else None, answers=asked != texts)
        else:
            _print_each(lm, zip(texts, asked, strict=True), config, n, batch_size=batch_size, counts=counts)
    finally:
        if stats and counts.new_tokens:
            arguments.note_stats(counts, lm)


def _require_sense(config: GenerationConfig, n: int, stream: bool, json: bool) -> None:
    require_count(n)
    if stream:
        require_streamable(config)
    if stream and (n > 1 or json):
        raise RequestError("--stream shows one text as it comes; --n and --json need whole ones.", "Leave one out.")
    if (config.echo or config.logprobs is not None) and not json:
        raise RequestError("--logprobs and --echo are shown in JSON only.", "Add --json.")


def _read_prompts(prompt: str | None, file: Path | None, many: Path | None, new_document: bool) -> list[Any]:
    """The prompts; None is the start of a document, and an error a line that cannot be used."""
    if sum((prompt is not None, file is not None, many is not None, new_document)) > 1:
        raise RequestError(
            "Several prompts were given.", "Give a text, or --prompt-file, or --prompts, or --new-document."
        )
    if many is not None:
        return arguments.read_prompts(many)
    if new_document:
        return [None]
    if file is not None:
        return [arguments.read_file(file)]
    if prompt is None:
        raise RequestError(
            "There is no prompt.",
            'Give a text: handloom generate "Learning is". Or --new-document, or - to read it from standard input.',
        )
    return [arguments.read_standard_input("the prompt") if prompt == "-" else prompt]


def _stream(lm: LanguageModel, prompt: Prompt, config: GenerationConfig, stats: GenerationStats) -> None:
    events = lm.stream(prompt, config, stats=stats)
    first = next(events)  # errors in the request come before any output
    write((prompt if isinstance(prompt, str) else "") + first.text, end="")
    for event in events:
        write(event.text, end="")
    write("")


def _print_each(
    lm: LanguageModel,
    prompts: Iterable[tuple[Any, Any]],
    config: GenerationConfig,
    n: int,
    *,
    batch_size: int,
    counts: GenerationStats,
) -> None:
    """A record for each text, in order, as soon as it is complete; after Ctrl-C those of all that have begun."""
    from handloom.training.signals import stop_on_signals

    shown: list[Any] = []  # prompts that were taken up, without their records yet

    def taken() -> Iterator[Any]:
        for text, asked in prompts:
            shown.append(text)
            yield asked

    failed = 0
    with stop_on_signals() as request:
        how: dict[str, Any] = {"should_stop": lambda: request.stop, "keep_errors": True, "stats": counts}
        for output in lm.complete_each(taken(), config, n, max_rows=batch_size * n, **how):
            text = shown.pop(0)
            _print_all(lm, text, output, config.seed, answers=False)
            sys.stdout.flush()
            failed += output.error is not None
    if request.stop:
        raise KeyboardInterrupt
    if failed:
        raise RequestError(f"{pluralize(failed, 'prompt')} failed.", "Their records say why, as 'error'.")


def _print_all(lm: LanguageModel, text: Any, output: CompletionOutput, seed: int | None, answers: bool) -> None:
    """The texts of one prompt; as JSON where a seed is given, to name it, or the error that it failed with."""
    if output.error is not None:
        print_json({"prompt": None if isinstance(text, Exception) else text, "error": worded(str(output.error))})
    for row, completion in enumerate(output.completions):
        if seed is None:
            if len(output.completions) > 1:
                print(f"--- {row + 1}")
            write(completion.text if answers else (text or "") + completion.text)
            continue
        record: dict[str, Any] = {"prompt": text, "text": completion.text, "finish_reason": completion.finish_reason}
        record |= {"ids": completion.ids, "prompt_tokens": output.prompt_tokens, "seed": seed, "row": row}
        record["precision"] = lm.precision
        for name, tokens in (("logprobs", completion.logprobs), ("prompt_logprobs", output.prompt_logprobs)):
            if tokens is not None:
                record[name] = _records(lm, tokens)
        print_json(record)


def _records(lm: LanguageModel, tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Tokens for JSON. Bytes too: a token may be half a character, which text cannot show."""

    def shown(token: int, logprob: float | None) -> dict[str, Any]:
        raw = lm.tokenizer.token_bytes(token)
        text = raw.decode("utf-8", errors="replace")
        return {"id": token, "text": text, "bytes": list(raw), "logprob": logprob}

    return [{**shown(one.token, one.logprob), "top": [shown(*each) for each in one.top]} for one in tokens]
