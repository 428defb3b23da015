"""Our models in EleutherAI's lm-evaluation-harness: `python -m pip install lm_eval`.

    import handloom, lm_eval
    from handloom.evaluation.lm_eval_adapter import HandloomLM

    lm_eval.simple_evaluate(HandloomLM(handloom.load("runs/demo")), tasks=["hellaswag"])

`handloom lm-eval MODEL ...` is the harness's own command line with our model. This module alone imports the harness,
and is imported by nobody that does not ask for it. All the harness's kinds of requests are answered as its own Hugging
Face model answers them. One thing differs on purpose: text that reads <|endoftext|> is ordinary text here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM  # type: ignore[import-untyped]
from lm_eval.models.utils import normalize_gen_kwargs  # type: ignore[import-untyped]

from handloom.errors import HandloomError, RequestError
from handloom.evaluation.chat_text import chat_ids, chat_text, is_chat
from handloom.evaluation.multiple_choice import encode_pair, window_of
from handloom.evaluation.scoring import Window, read_windows, windows_of
from handloom.inference.engine import Engine
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.language_model import LanguageModel

MAX_NEW_TOKENS = 256
"""Tokens to write where a task does not say; the harness's own default."""
_AHEAD = 16  # batches read in the order of their lengths
_KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"}


class HandloomLM(TemplateLM):
    """A model as the harness wants one.

    Args:
        lm: reads and writes.
        batch_size: requests handled together; has no influence on the results beyond rounding.
        max_length: tokens read at once; the model's context if not given.
        max_gen_toks: tokens to write where a task does not say.
        seed: of what is drawn, where a task asks for that; request number r draws from (seed, r).
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
        # The harness hands these to every model; they are about devices that we do not have.
        unknown = set(others) - {"device", "max_batch_size"}
        if unknown:
            raise RequestError(
                f"The model takes no argument {sorted(unknown)[0]!r}.",
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
        """Tells tokenizers apart in the harness's cache of requests."""
        return f"handloom-{self.lm.tokenizer.fingerprint}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text, or of a conversation that `apply_chat_template` made; there are no special tokens to add."""
        if self._chats and is_chat(string):
            return chat_ids(self.lm.tokenizer, string)
        return self.lm.tokenizer.encode(string)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The name of the model's template.

        Raises:
            RequestError: for a model that learned no conversations, or another template's name.
        """
        if self.lm.template is None:
            raise RequestError(
                "The model learned no conversations, so there is no chat template to apply.",
                "Leave out --apply_chat_template, or tune a model with handloom finetune --task sft.",
            )
        if chat_template not in (True, self.lm.template):
            raise RequestError(
                f"The model has no chat template {chat_template!r}.", "Give --apply_chat_template without a name."
            )
        return self.lm.template

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text, whose ids are those of training; without the prompt its last answer goes on."""
        self.chat_template(True)
        self._chats = True
        return chat_text(chat_history, answered=not add_generation_prompt)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """As the harness does it; the two apart where else nothing would be left, and where an answer begins."""
        if self._chats and is_chat(context):
            return self.tok_encode(context), self.lm.tokenizer.encode(continuation)
        return encode_pair(self.lm.tokenizer, context, continuation)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """(log probability, whether it is what the model would write) of each continuation."""
        windows = (self._window(context, continuation) for _, context, continuation in requests)
        found = []
        scored = read_windows(self.lm.model, windows, self.batch_size, _AHEAD)
        for (texts, _, _), one in zip(requests, scored, strict=True):
            answer = (-float(one.nats.sum(dtype=np.float64)), one.greedy)
            self.cache_hook.add_partial("loglikelihood", texts, answer)
            found.append(answer)
        return found

    def _window(self, context: list[int], continuation: list[int]) -> Window:
        if not 0 < len(continuation) <= self.max_length:
            raise RequestError(
                f"A continuation has {len(continuation)} tokens; it must have from 1 to {self.max_length}.",
                "Leave that item out, or use a model with a larger context.",
            )
        return window_of(context, continuation, self.max_length)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log probability of each text from an end of text on, read through windows that lie side by side."""
        counts: list[int] = []

        def windows() -> Iterator[Window]:
            for (text,) in texts:
                own = list(
                    windows_of([self.tok_encode(text)], context_length=self.max_length, begin=self.prefix_token_id)
                )
                counts.append(len(own))
                yield from own

        texts = [request.args for request in requests]
        scored = read_windows(self.lm.model, windows(), self.batch_size, _AHEAD)
        sums = [-float(one.nats.sum(dtype=np.float64)) for one in scored]
        found, at = [], 0
        for args, count in zip(texts, counts, strict=True):
            found.append(float(sum(sums[at : at + count])))
            self.cache_hook.add_partial("loglikelihood_rolling", args, found[-1])
            at += count
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
                "Ask for fewer: --gen_kwargs max_gen_toks=32.",
            )
        until = wanted.get("until") or []
        drawn = bool(wanted.get("do_sample"))
        how: dict[str, Any] = {"temperature": 0.0}
        if drawn:
            how["temperature"] = float(wanted.get("temperature") or 1.0)
            # In transformers 0 and 1 switch these off.
            how["top_k"] = int(wanted.get("top_k") or 0) or None
            how["top_p"] = _below_one(wanted.get("top_p"))
            how["min_p"] = float(wanted.get("min_p") or 0) or None
        how["repetition_penalty"] = float(wanted.get("repetition_penalty") or 1.0)
        return self.lm.in_ids(
            GenerationConfig(
                **how,
                max_new_tokens=wanted["max_gen_toks"],
                stop=tuple(term for term in ([until] if isinstance(until, str) else until) if term),
                seed=self.seed,
            )
        )


def _below_one(share: Any) -> float | None:
    return float(share) if share is not None and float(share) < 1 else None


def command_line(words: Sequence[str], model: str, load: Callable[[str], LanguageModel]) -> None:
    """The harness's own command line, where `--model handloom` is known and chosen.

    Args:
        words: the harness's flags.
        model: what to load, as `model=` in --model_args.
        load: finds it.

    Raises:
        RequestError: what the harness cannot do, in its own words: a task there is not, a benchmark out of reach.
    """
    if chosen := [word for word in words if word.partition("=")[0] in ("--model", "-M")]:
        raise RequestError(
            f"{chosen[0]} chooses a model of the harness, and this command measures {model} with Handloom.",
            "Leave it out; the harness's own models are measured by its own command, lm-eval.",
        )
    from lm_eval.__main__ import cli_evaluate  # type: ignore[import-untyped]
    from lm_eval.api.registry import model_registry  # type: ignore[import-untyped]

    class Named(HandloomLM):
        """A model by its name: --model handloom --model_args model=NAME."""

        def __init__(self, model: str, **settings: Any) -> None:
            super().__init__(load(str(model)), **settings)

    if "handloom" not in model_registry:
        model_registry.register("handloom")(Named)
    before = sys.argv
    sys.argv = ["lm-eval", "run", "--model", "handloom", "--model_args", f"model={model}", *words]
    try:
        cli_evaluate()
    except (HandloomError, MemoryError):
        raise
    except Exception as error:  # whatever the harness raises at what a user gave it
        raise RequestError(
            f"The evaluation harness gives up: {' '.join(map(str, error.args)) or type(error).__name__}.",
            "`lm-eval ls tasks` lists its tasks; those that are not on this machine come from Hugging Face's hub.",
        ) from error
    finally:
        sys.argv = before
