"""handloom generate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from handloom.cli.flags import PathFlag, flags_of
from handloom.cli.inputs import read_file, read_lines, read_standard_input
from handloom.cli.model_argument import (
    AdapterFlag,
    ModelFlag,
    ThreadsFlag,
    flag,
    load_named,
    require_positive,
    typed_settings,
)
from handloom.errors import RequestError
from handloom.inference.generation_config import GenerationConfig, require_count, require_streamable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from handloom.inference.language_model import CompletionOutput, GenerationStats, LanguageModel
    from handloom.inference.logprobs import TokenLogprob
    from handloom.inference.prompts import Prompt

ConfigFlags: Any = flags_of(GenerationConfig, several=False)


def generate(
    prompt: Annotated[str | None, flag("Essentials", "Text to continue; - reads it from standard input.")] = None,
    *,
    model: ModelFlag = Path("runs/demo"),
    adapter: AdapterFlag = None,
    prompt_file: Annotated[PathFlag | None, flag("Essentials", "Read the prompt from this file instead.")] = None,
    prompts: Annotated[PathFlag | None, flag("Essentials", "Continue each line of this file; prints JSON.")] = None,
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
    batch_size: Annotated[int, flag("Precision and threads", "Prompts whose texts are generated together.")] = 16,
    threads: ThreadsFlag = None,
    flags: Annotated[ConfigFlags, Parameter(name="*")] = ConfigFlags(),  # noqa: B008 - cyclopts wants an instance
) -> None:
    """Continue a text with a model; a model with a chat template answers it instead.

    A prompt from standard input or a file is read without its last line end.
    """
    config = GenerationConfig().changed(**typed_settings(flags))
    json = json or prompts is not None
    texts = _read_prompts(prompt, prompt_file, prompts, new_document)
    _require_sense(config, n, stream, json)
    require_positive(batch_size=batch_size, threads=threads)

    from handloom import runtime
    from handloom.console import note
    from handloom.inference.language_model import GenerationStats

    runtime.set_num_threads(threads)
    lm = load_named(model, adapter)
    answers = lm.template is not None and not no_chat_template
    asked = [_message(text) if answers and text is not None else text for text in texts]
    for one in asked:
        lm.check(one, config)
    if asked != texts:
        note("This model has a chat template, so it answers; --no-chat-template continues the text.")
    counts = GenerationStats()
    if stream:
        _stream(lm, asked[0], config, counts)
    else:
        outputs = lm.complete_each(asked, config, n, max_rows=batch_size * n, stats=counts)
        for text, one, output in zip(texts, asked, outputs, strict=True):
            _print_all(lm, text, output, config.seed if json else None, answers=one != text)
    if stats:
        note(_in_words(counts), "Stats: ")


def _message(text: str) -> Prompt:
    from handloom.tokenizer.chat import Message

    return [Message("user", text)]


def _require_sense(config: GenerationConfig, n: int, stream: bool, json: bool) -> None:
    require_count(n)
    if stream:
        require_streamable(config)
    if stream and (n > 1 or json):
        raise RequestError("--stream shows one text as it comes; --n and --json need whole ones.", "Leave one out.")
    if (config.echo or config.logprobs is not None) and not json:
        raise RequestError("--logprobs and --echo are shown in JSON only.", "Add --json.")


def _in_words(counts: GenerationStats) -> str:
    after = counts.seconds - counts.first_token_seconds
    rate = f", {counts.later_tokens / after:,.1f} tokens/s after the first" if after else ""
    return (
        f"{counts.prompt_tokens:,} prompt tokens, first token after {counts.first_token_seconds:.3f} s, "
        f"{counts.new_tokens:,} new tokens in {counts.seconds:.3f} s{rate}."
    )


def _read_prompts(prompt: str | None, file: Path | None, many: Path | None, new_document: bool) -> list[str | None]:
    """The prompts; None is the start of a document."""
    if sum((prompt is not None, file is not None, many is not None, new_document)) > 1:
        raise RequestError(
            "Several prompts were given.", "Give a text, or --prompt-file, or --prompts, or --new-document."
        )
    if many is not None:
        return list(read_lines(many))
    if new_document:
        return [None]
    if file is not None:
        return [read_file(file)]
    if prompt is None:
        raise RequestError(
            "There is no prompt.",
            'Give a text: handloom generate "Learning is". Or --new-document, or - to read it from standard input.',
        )
    return [read_standard_input("the prompt") if prompt == "-" else prompt]


def _stream(lm: LanguageModel, prompt: Prompt, config: GenerationConfig, stats: GenerationStats) -> None:
    from handloom.console import write

    events = lm.stream(prompt, config, stats=stats)
    first = next(events)  # errors in the request come before any output
    write((prompt if isinstance(prompt, str) else "") + first.text, end="")
    for event in events:
        write(event.text, end="")
    write("")


def _print_all(lm: LanguageModel, text: str | None, output: CompletionOutput, seed: int | None, answers: bool) -> None:
    """The texts of one prompt; as JSON where a seed is given, to name it."""
    from handloom.console import print_json, write

    for row, completion in enumerate(output.completions):
        if seed is not None:
            record: dict[str, Any] = {
                "prompt": text,
                "text": completion.text,
                "finish_reason": completion.finish_reason,
                "ids": completion.ids,
                "prompt_tokens": output.prompt_tokens,
                "seed": seed,
                "row": row,
            }
            if completion.logprobs is not None:
                record["logprobs"] = _records(lm, completion.logprobs)
            if output.prompt_logprobs is not None:
                record["prompt_logprobs"] = _records(lm, output.prompt_logprobs)
            print_json(record)
            continue
        if len(output.completions) > 1:
            print(f"--- {row + 1}")
        write(completion.text if answers else (text or "") + completion.text)


def _records(lm: LanguageModel, tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Tokens for JSON. Bytes too: a token may be half a character, which text cannot show."""

    def shown(token: int, logprob: float | None) -> dict[str, Any]:
        raw = lm.tokenizer.token_bytes(token)
        text = raw.decode("utf-8", errors="replace")
        return {"id": token, "text": text, "bytes": list(raw), "logprob": logprob}

    return [{**shown(one.token, one.logprob), "top": [shown(*each) for each in one.top]} for one in tokens]
