"""Our models in EleutherAI's lm-evaluation-harness: `python -m pip install lm_eval`.

    import handloom, lm_eval
    from handloom.evaluation.lm_eval_adapter import HandloomLM

    lm_eval.simple_evaluate(HandloomLM(handloom.load("runs/demo")), tasks=["hellaswag"])

`handloom lm-eval MODEL ...` is the harness's own command line with our model. Only this module imports the harness.
Every kind of request is answered as the harness's own Hugging Face model answers it, but for one thing: text that reads
<|endoftext|> is ordinary text here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM  # type: ignore[import-untyped]
from lm_eval.models.utils import normalize_gen_kwargs  # type: ignore[import-untyped]

from handloom.data.windows import Window, windows_of
from handloom.errors import HandloomError, RequestError
from handloom.evaluation.chat_text import chat_ids, chat_text, is_chat
from handloom.evaluation.multiple_choice import READ_AHEAD, encode_pair, window_of
from handloom.evaluation.scoring import score_windows
from handloom.inference.engine import Engine
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.language_model import LanguageModel

MAX_NEW_TOKENS = 256
"""Tokens to generate where a task does not name a number; the harness's own default."""
_MODEL_FLAG = "--model"  # of the harness
_KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"}


class HandloomLM(TemplateLM):
    """A model with the harness's interface.

    `batch_size` requests are computed together, `max_length` tokens read at once, `max_gen_toks` generated where a task
    does not name a number; request r samples from (seed, r). Raises RequestError for settings outside their limits.
    """

    def __init__(
        self,
        lm: LanguageModel,
        batch_size: int | str | None = 8,
        max_length: int | None = None,
        max_gen_toks: int = MAX_NEW_TOKENS,
        seed: int = 0,
        **others: Any,
    ) -> None:
        super().__init__()
        # The harness passes these to every model; they are about devices that we do not have.
        if unknown := set(others) - {"device", "max_batch_size"}:
            raise RequestError(
                f"The model does not take the argument {sorted(unknown)[0]!r}.",
                "It takes model, batch_size, max_length, max_gen_toks and seed.",
            )
        self.lm = lm
        self._chats = False
        self.batch_size = 8 if batch_size in (None, "auto") else int(batch_size or 1)
        self.max_length = min(int(max_length or lm.config.context_length), lm.config.context_length)
        self.max_gen_toks = int(max_gen_toks)
        self.seed = int(seed)
        if self.batch_size < 1 or self.max_length < 1 or self.max_gen_toks < 1:
            raise RequestError("batch_size, max_length and max_gen_toks must be at least 1.", "Choose others.")

    @property
    def eot_token_id(self) -> int:
        """The end of text, which also stands before a text that nothing else stands before."""
        return self.lm.tokenizer.eos_token_id

    @property
    def tokenizer_name(self) -> str:
        """The key of the tokenizer in the harness's cache of requests."""
        return f"handloom-{self.lm.tokenizer.fingerprint}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text, or of a conversation from `apply_chat_template`; there are no special tokens to add."""
        if self._chats and is_chat(string):
            return chat_ids(self.lm.tokenizer, string)
        return self.lm.tokenizer.encode(string)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The name of the model's template; raises RequestError for a model without one, or another name."""
        if self.lm.template is None:
            raise RequestError(
                "The model was not trained on conversations, so there is no chat template to apply.",
                "Leave the harness's `apply_chat_template` out, or tune a model with `task=sft`.",
            )
        if chat_template not in (True, self.lm.template):
            raise RequestError(
                f"The model does not have the chat template {chat_template!r}.",
                "Give the harness's `apply_chat_template` without a name.",
            )
        return self.lm.template

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text, whose ids are those of training; without the prompt its last answer is continued."""
        self.chat_template(True)
        self._chats = True
        return chat_text(chat_history, answered=not add_generation_prompt)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """`encode_pair`; the two apart where an answer begins."""
        if self._chats and is_chat(context):
            return self.tok_encode(context), self.lm.tokenizer.encode(continuation)
        return encode_pair(self.lm.tokenizer, context, continuation)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """(log probability, whether greedy decoding gives it) of each continuation."""

        def windows() -> Iterator[Window]:
            for _, context, continuation in requests:
                if not 0 < len(continuation) <= self.max_length:
                    raise RequestError(
                        f"A continuation has {len(continuation)} tokens; it must have from 1 to {self.max_length}.",
                        "Leave that item out, or use a model with a larger context.",
                    )
                yield window_of(context, continuation, self.max_length)

        scores = score_windows(self.lm.model, windows(), self.batch_size, READ_AHEAD)
        found = [(-score.total, score.is_greedy) for score in scores]
        for (texts, _, _), one in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, one)
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log probability of each text after an end of text, by windows that do not overlap."""
        texts: list[int] = []  # of each window, the number of its text

        def windows() -> Iterator[Window]:
            for number, request in enumerate(requests):
                ids = self.tok_encode(request.args[0])
                for window in windows_of([ids], context_length=self.max_length, begin=self.prefix_token_id):
                    texts.append(number)
                    yield window

        found = [0.0] * len(requests)
        for at, score in enumerate(score_windows(self.lm.model, windows(), self.batch_size, READ_AHEAD)):
            found[texts[at]] -= score.total
        for request, total in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Continue each text until one of its stop strings, an end of text, or its length.

        A text that leaves no room for the new one loses its beginning.
        """
        engine = Engine(self.lm.model, self.lm.tokenizer, max_rows=self.batch_size)
        running: dict[int, tuple[int, GenerationConfig, list[int]]] = {}
        for number in sorted(range(len(requests)), key=lambda number: len(requests[number].args[0])):
            text, settings = requests[number].args
            config = self._config(settings)
            prompt = self.tok_encode(text)[config.max_new_tokens - self.max_length :] or [self.eot_token_id]
            running[engine.add(prompt, config, row=number)] = number, config, []
        found = [""] * len(requests)
        for event in engine.run():
            if event.error is not None:
                raise event.error
            number, config, ids = running[event.request]
            ids += [] if event.token is None else [event.token]
            if event.finish_reason is not None:
                found[number] = self._text(ids, config.stop)
                self.cache_hook.add_partial("generate_until", requests[number].args, found[number])
        return found

    def _text(self, ids: list[int], stop: Sequence[str]) -> str:
        """What was written, up to the first stop string: half a character at the end is shown, as the harness does."""
        text = self.lm.tokenizer.decode(ids[:-1] if ids[-1] == self.eot_token_id else ids)
        return text[: min((at for term in stop if (at := text.find(term)) >= 0), default=len(text))]

    def _config(self, settings: dict[str, Any]) -> GenerationConfig:
        """The harness's settings in ours; what does not exist here is refused rather than left out."""
        wanted = normalize_gen_kwargs(settings, self.max_gen_toks)
        if unknown := set(wanted) - _KNOWN:
            raise RequestError(
                f"A task asks for the setting {sorted(unknown)[0]!r} when writing, which is not known here.",
                f"Known are {', '.join(sorted(_KNOWN))}.",
            )
        if wanted["max_gen_toks"] >= self.max_length:
            raise RequestError(
                f"A task asks for {wanted['max_gen_toks']} new tokens, which leaves no room for a prompt in a context "
                f"of {self.max_length}.",
                "Lower `max_gen_toks` in the harness's `gen_kwargs`.",
            )
        until, top_p = wanted.get("until") or [], wanted.get("top_p")
        how: dict[str, Any] = {"temperature": 0.0}
        if wanted.get("do_sample"):
            how["temperature"] = float(wanted.get("temperature") or 1.0)
            # In transformers 0 and 1 switch these off.
            how["top_k"] = int(wanted.get("top_k") or 0) or None
            how["top_p"] = float(top_p) if top_p is not None and float(top_p) < 1 else None
            how["min_p"] = float(wanted.get("min_p") or 0) or None
        return self.lm.in_ids(
            GenerationConfig(
                **how,
                repetition_penalty=float(wanted.get("repetition_penalty") or 1.0),
                max_new_tokens=wanted["max_gen_toks"],
                stop=tuple(term for term in ([until] if isinstance(until, str) else until) if term),
                seed=self.seed,
            )
        )


def command_line(words: Sequence[str], model: str, load: Callable[[str], LanguageModel]) -> None:
    """The harness's own command line with its flags `words`, and with the model that `load` opens by its name.

    Raises RequestError for what the harness cannot do, in its own words: an unknown task, a benchmark out of reach.
    """
    if chosen := [word for word in words if word.partition("=")[0] in (_MODEL_FLAG, "-M")]:
        raise RequestError(
            f"{chosen[0]} selects a model of the harness, and this command measures {model} with Handloom.",
            "Leave it out; the harness's own models are measured by its own command, lm-eval.",
        )
    from lm_eval.__main__ import cli_evaluate  # type: ignore[import-untyped]
    from lm_eval.api.registry import model_registry  # type: ignore[import-untyped]

    class Named(HandloomLM):
        """A model by its name."""

        def __init__(self, model: str, **settings: Any) -> None:
            super().__init__(load(str(model)), **settings)

    if "handloom" not in model_registry:
        model_registry.register("handloom")(Named)
    before = sys.argv
    sys.argv = ["lm-eval", "run", _MODEL_FLAG, "handloom", f"{_MODEL_FLAG}_args", f"model={model}", *words]
    try:
        cli_evaluate()
    except (HandloomError, MemoryError):
        raise
    except Exception as error:  # whatever the harness raises at what a user gave it
        raise RequestError(
            f"The evaluation harness fails: {' '.join(map(str, error.args)) or type(error).__name__}.",
            "`lm-eval ls tasks` lists its tasks; those that are not on this machine come from Hugging Face's hub.",
        ) from error
    finally:
        sys.argv = before
