"""What published models are known to compute: values from public test suites, for the models that bear their names.

Whether a model is the published one is decided by its name alone, its repository's or its folder's. So a damaged
one fails, where a comparison of its weights would only have found that it is another model.

Every other check holds this program against itself or against transformers, which read the same file. These values
were computed by others, elsewhere, from the weights as they were published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from handloom.checkpoints import model_store
from handloom.inference.engine import Engine
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.language_model import LanguageModel
from handloom.inspection.check import Outcome
from handloom.model.loss import next_token_loss
from handloom.tokenizer.base import Tokenizer

LOSS_TOLERANCE = 1e-3
"""Nats. Rounding in float32 moves the mean of 256 losses by a hundredth of that; its source allows 1e-2."""


@dataclass(frozen=True)
class Greedy:
    """A prompt, and the whole text, prompt included, that the model makes of it by taking the likeliest tokens."""

    prompt: str
    whole: str
    source: str


@dataclass(frozen=True)
class Loss:
    """The mean cross entropy of the model at the 256 tokens that follow others in `SHAKESPEARE`."""

    nats: float
    source: str


# transformers: tests/models/gpt2/test_modeling_gpt2.py, greedy to 20 tokens (the shorter prompt of a batch to 16);
# that of distilgpt2 was there until 2020, as tests/test_modeling_gpt2.py. llm.c: test_gpt2.c, which compares with the
# float32 loss of its train_gpt2.py, on what its dev/data/tinyshakespeare.py writes.
_DOG = Greedy(
    "The dog",
    "The dog was found in a field near the intersection of West and West Streets.\n\nThe dog",
    "transformers, test_lm_generate_gpt2",
)
_MESS = Greedy(
    "Hello, my dog is a little",
    "Hello, my dog is a little bit of a mess. I'm not sure if he's going",
    "transformers, test_batch_generation",
)
_TODAY = Greedy(
    "Today, I", "Today, I'm going to be doing a lot of research on this. I", "transformers, test_batch_generation"
)
_PRESIDENT = Greedy(
    "The president",
    "The president of the United States, and the president of the United Kingdom, have been in the White",
    "transformers, test_lm_generate_distilgpt2",
)
_SHAKESPEARE = Loss(5.270007133483887, "llm.c, test_gpt2.c")

PUBLISHED: dict[str, tuple[Greedy | Loss, ...]] = {
    "openai-community/gpt2": (_DOG, _MESS, _TODAY, _SHAKESPEARE),
    "distilbert/distilgpt2": (_PRESIDENT,),
}
"""Repository -> what its model is known to compute."""

GPT2_FINGERPRINT = "05d5e85fd1d0b15ce2d527245017f8a6ae2172678f7751885c9e61dd6a576eac"
"""Of GPT-2's tokenizer, which all of them have; see `Tokenizer.fingerprint`."""

ALIASES = {"gpt2": "openai-community/gpt2", "distilgpt2": "distilbert/distilgpt2"}
"""Shorter name -> repository. The hub knows both, and a folder may bear either."""


def golden(lm: LanguageModel) -> Iterator[tuple[str, Callable[[], Outcome]]]:
    """The checks that hold a model against what is known of it, if it bears the name of a published one.

    By name, one for its tokenizer and one for each value; or a single one that says why there are none.
    """
    known = PUBLISHED.get(published_name(lm.origin) or "")
    if known is None:
        names = " and ".join(sorted(ALIASES))
        absent = f"weights absent: values are published for {names}, and this is neither"
        yield "golden values", lambda: (None, absent)
        return
    if lm.tokenizer.fingerprint != GPT2_FINGERPRINT:
        yield "golden: tokenizer", lambda: (False, f"it is not GPT-2's. {_NAMESAKE}")
        return
    yield "golden: tokenizer", lambda: (True, "it is GPT-2's")
    for number, value in enumerate(known, start=1):
        if isinstance(value, Loss):
            yield "golden: loss", partial(_loss, lm, value)
        else:
            yield f"golden: text {number}", partial(_greedy, lm, value)


def published_name(folder: Path | None) -> str | None:
    """The repository in `PUBLISHED` whose model lies in a folder, by its `origin.json`, or else by its name."""
    if folder is None:
        return None
    told = (model_store.read_origin(folder) or {}).get("repository")
    name = told if isinstance(told, str) else model_store.name_of(folder.resolve())
    name = ALIASES.get(name, name)
    return name if name in PUBLISHED else None


def shakespeare_ids(tokenizer: Tokenizer) -> list[int]:
    """The tokens of `SHAKESPEARE` as llm.c prepares them: the end of text before each section, 257 in all."""
    ids: list[int] = []
    for section in SHAKESPEARE.split("\n\n"):
        ids += [tokenizer.eos_token_id, *tokenizer.encode(f"{section}\n\n")]
    return ids[:257]


def _greedy(lm: LanguageModel, known: Greedy) -> Outcome:
    prompt = lm.tokenizer.encode(known.prompt)
    expected = lm.tokenizer.encode(known.whole)[len(prompt) :]
    engine = Engine(lm.model)
    how = GenerationConfig(max_new_tokens=len(expected), temperature=0, vocab_size=lm.tokenizer.vocab_size)
    engine.add(prompt, how)
    for number, (event, wanted) in enumerate(zip(engine.run(), expected, strict=True), start=1):
        if event.error is not None:
            raise event.error
        if event.token != wanted:
            shown, should = (lm.tokenizer.decode([one]) for one in (event.token or 0, wanted))
            detail = f"after {known.prompt!r}, new token {number} is {shown!r} instead of {should!r}"
            return False, f"{detail} ({known.source}). {_NAMESAKE}"
    return True, f"after {known.prompt!r} the same {len(expected)} tokens as in {known.source}"


def _loss(lm: LanguageModel, known: Loss) -> Outcome:
    ids = torch.tensor(shakespeare_ids(lm.tokenizer))  # (257)
    inputs, targets = ids[:-1].view(4, 64), ids[1:].view(4, 64)  # each (B, T)
    total, count = next_token_loss(lm.model.hidden(inputs), lm.model.lm_head, targets)
    found = total.item() / count
    passed = abs(found - known.nats) <= LOSS_TOLERANCE
    return passed, f"{found:.6f} nats; {known.nats:.6f} in {known.source}" + ("" if passed else f". {_NAMESAKE}")


_NAMESAKE = "If this is a model of your own, give its folder another name."

SHAKESPEARE = """First Citizen:
Before we proceed any further, hear me speak.

All:
Speak, speak.

First Citizen:
You are all resolved rather to die than to famish?

All:
Resolved. resolved.

First Citizen:
First, you know Caius Marcius is chief enemy to the people.

All:
We know't, we know't.

First Citizen:
Let us kill him, and we'll have corn at our own price.
Is't a verdict?

All:
No more talking on't; let it be done: away, away!

Second Citizen:
One word, good citizens.

First Citizen:
We are accounted poor citizens, the patricians good.
What authority surfeits on would relieve us: if they
would yield us but the superfluity, while it were
wholesome, we might guess they relieved us humanely;
but they think we are too dear: the leanness that
afflicts us, the object of our misery, is as an
inventory to particularise their abundance; our
sufferance is a gain to them Let us revenge this with
our pikes, ere we become rakes: for the gods know I
speak this in hunger for bread, not in thirst for revenge."""
"""The beginning of Coriolanus, as Karpathy's collection "tiny Shakespeare" has it."""
