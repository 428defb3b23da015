"""handloom generate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from handloom.cli.flags import ModelPath, PathFlag, flags_of, given
from handloom.cli.inputs import read_file, read_lines, read_standard_input
from handloom.cli.model_argument import AdapterFlag, load_named
from handloom.errors import RequestError
from handloom.inference.generation_config import GenerationConfig, SamplingParams, require_count, require_streamable
from handloom.inference.sequence import stop_strings, typed_stop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from handloom.inference.engine import TokenLogprob
    from handloom.inference.language_model import CompletionOutput, GenerationStats, LanguageModel
    from handloom.inference.prompts import Prompt

RequestFlags: Any = flags_of(GenerationConfig)
SamplingFlags: Any = flags_of(SamplingParams, several=False)


def generate(
    prompt: str | None = None,
    *,
    model: ModelPath = Path("runs/demo"),
    adapter: AdapterFlag = None,
    prompt_file: PathFlag | None = None,
    prompts: PathFlag | None = None,
    new_document: bool = False,
    raw: bool = False,
    stop: list[str] | None = None,
    n: Annotated[int, Parameter(name=["--n", "-n"])] = 1,
    stream: bool = False,
    json: bool = False,
    stats: bool = False,
    batch_size: int = 16,
    threads: int | None = None,
    request: Annotated[RequestFlags, Parameter(name="*")] = RequestFlags(),  # noqa: B008 - cyclopts wants an instance
    sampling: Annotated[SamplingFlags, Parameter(name="*")] = SamplingFlags(),  # noqa: B008
) -> None:
    """Continue a text with a model; one that learned conversations answers it instead.

    Parameters
    ----------
    prompt
        Text to continue; - reads it from standard input (without its last line end).
    model
        Run folder, checkpoint folder, Hugging Face folder, GGUF file, nanoGPT's ckpt.pt, adapter's folder, or the
        name of a pulled model.
    prompt_file
        Read the prompt from this file instead (without its last line end).
    prompts
        Continue each line of this file, many side by side; prints JSON.
    new_document
        Begin a new document instead of continuing a prompt.
    raw
        Continue the text as it is, even with a model that learned conversations and would answer it.
    stop
        End the text where this string appears; may be given several times. \\n is a line break, \\\\ a backslash.
    n
        How many texts to write.
    stream
        Show the text while it is being written.
    json
        Print one JSON object a line, with the reason of the end and the token ids.
    stats
        Also print on standard error how soon the first token came, and tokens a second.
    batch_size
        Lines of --prompts that are continued side by side.
    threads
        Threads for the matrix products [default: $OMP_NUM_THREADS, or the cores granted].
    """
    how = GenerationConfig().changed(**given(request), **given(sampling))
    json = json or prompts is not None
    stops = stop_strings([typed_stop(text) for text in stop or []])
    texts = _read_prompts(prompt, prompt_file, prompts, new_document)
    _require_sense(how, n, stream, json)
    for name, value in (("batch-size", batch_size), ("threads", threads)):
        if value is not None and value < 1:
            raise RequestError(f"--{name} is {value}; it must be at least 1.", "Leave it out for the usual.")

    from handloom import runtime
    from handloom.console import note
    from handloom.inference.language_model import GenerationStats

    runtime.set_num_threads(threads)
    lm = load_named(model, adapter)
    asked = [_asked(lm, text, raw) for text in texts]
    for prompt_ in asked:
        lm.check(prompt_, how)
    if asked != texts:
        note("The model learned conversations, so it answers; --no-chat-template continues the text.")
    timing = GenerationStats()
    for at in range(0, len(texts), batch_size):
        some = asked[at : at + batch_size]
        if stream:
            _stream(lm, some[0], how, stops, timing)
            continue
        done = lm.complete_batch(some, how, n, stops, timing=timing)
        for text, prompt_, completions in zip(texts[at : at + batch_size], some, done, strict=True):
            _print_all(lm, text, completions, how, json, answers=prompt_ != text)
    if stats:
        note(_told(timing), "Stats: ")


def _asked(lm: LanguageModel, text: str | None, raw: bool) -> Prompt:
    """What the model is given: a text to continue, or a user's message where it has learned to answer."""
    from handloom.tokenizer.chat import Message

    return text if text is None or raw or not lm.template else [Message("user", text)]


def _require_sense(how: GenerationConfig, n: int, stream: bool, json: bool) -> None:
    require_count(n)
    if stream:
        require_streamable(how)
    if stream and (n > 1 or json):
        raise RequestError("--stream shows one text as it comes; --n and --json need whole ones.", "Leave one out.")
    if (how.echo or how.logprobs is not None) and not json:
        raise RequestError("--logprobs and --echo have a place in JSON only.", "Add --json.")


def _told(timing: GenerationStats) -> str:
    """The timing in words."""
    after = timing.seconds - timing.first_token_seconds
    rate = f", {timing.later_tokens / after:,.1f} tokens/s after the first" if after else ""
    return (
        f"{timing.prompt_tokens:,} prompt tokens, first token after {timing.first_token_seconds:.3f} s, "
        f"{timing.new_tokens:,} new tokens in {timing.seconds:.3f} s{rate}."
    )


def _read_prompts(prompt: str | None, file: Path | None, many: Path | None, new_document: bool) -> list[str | None]:
    if many is None:
        return [_read_prompt(prompt, file, new_document)]
    if prompt is not None or file is not None or new_document:
        raise RequestError(
            "Several prompts were given.", "Give a text, or --prompt-file, or --prompts, or --new-document."
        )
    return list(read_lines(many))


def _read_prompt(prompt: str | None, file: Path | None, new_document: bool) -> str | None:
    if sum((prompt is not None, file is not None, new_document)) > 1:
        raise RequestError("Several prompts were given.", "Give the text, or --prompt-file, or --new-document.")
    if new_document:
        return None
    if file is not None:
        return read_file(file)
    if prompt == "-":
        return read_standard_input("the prompt")
    if prompt is None:
        raise RequestError(
            "There is no prompt.",
            'Give a text: handloom generate "Learning is". Or --new-document, or - to read it from standard input.',
        )
    return prompt


def _stream(
    lm: LanguageModel, prompt: Prompt, request: GenerationConfig, stop: Sequence[str], timing: GenerationStats
) -> None:
    from handloom.console import write

    pieces = lm.stream_request(prompt, request, stop, timing=timing)
    first = next(pieces, "")  # errors in the request come before any output
    write(prompt if isinstance(prompt, str) else "", end="")
    write(first, end="")
    for piece in pieces:
        write(piece, end="")
    write("")


def _print_all(
    lm: LanguageModel, text: str | None, done: CompletionOutput, request: GenerationConfig, as_json: bool, answers: bool
) -> None:
    from handloom.console import print_json, write

    for i, completion in enumerate(done.completions):
        if as_json:
            record: dict[str, Any] = {
                "prompt": text,
                "text": completion.text,
                "finish": completion.finish,
                "ids": completion.ids,
                "prompt_tokens": done.prompt_tokens,
                "seed": request.seed,
                "row": i,
            }
            if completion.logprobs is not None:
                record["logprobs"] = _records(lm, completion.logprobs)
            if done.prompt_logprobs is not None:
                record["prompt_logprobs"] = _records(lm, done.prompt_logprobs)
            print_json(record)
            continue
        if len(done.completions) > 1:
            print(f"--- {i + 1}")
        write(completion.text if answers else (text or "") + completion.text)


def _records(lm: LanguageModel, choices: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Tokens for JSON. Bytes too: a token may be half a character, which text cannot show."""

    def shown(token: int, logprob: float | None) -> dict[str, Any]:
        raw = lm.tokenizer.token_bytes(token)
        text = raw.decode("utf-8", errors="replace")
        return {"id": token, "text": text, "bytes": list(raw), "logprob": logprob}

    return [{**shown(choice.token, choice.logprob), "top": [shown(*each) for each in choice.top]} for choice in choices]
