"""Is this model computed as it should be? A list of checks, each against another way to the same numbers.

Offline: the reference for the whole model is transformers, where it is installed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from handloom import storage
from handloom.checkpoints import hf_folder
from handloom.checkpoints.hf_export import export_folder
from handloom.checkpoints.hf_tokenizer import lacks_tokenizer
from handloom.errors import HandloomError
from handloom.inference.engine import Engine
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.language_model import LanguageModel
from handloom.inspection import activations
from handloom.inspection.check import TOLERANCE, Check, Outcome
from handloom.inspection.golden import golden
from handloom.inspection.quality import quality_checks
from handloom.locks import TemporaryFolder
from handloom.model.gpt import GPT
from handloom.model.surgery import set_attention
from handloom.tokenizer.gpt2 import TiktokenTokenizer

_TEXTS = (
    "It's naïve: 123 4567!\n\n\tx  ",
    "Ελλάδα 日本語 😀👩‍👩‍👧 \u00a0 café\r\n",
    "<|endoftext|> is ordinary text",
    " ",
)
_RANDOM_TEXTS = 200


def verify(
    lm: LanguageModel, tolerance: float = TOLERANCE, rounded: Mapping[str, Callable[[], GPT]] | None = None
) -> Iterator[Check]:
    """Run every check on a model, one after another; each result comes as soon as it is there.

    `rounded` has, for precisions whose quality is checked too, what loads the model in it.

    A model that was read from a Hugging Face folder is compared with what transformers makes of that folder, any other
    with what it makes of our export. A check that cannot be ended, as with weights that are NaN, fails.
    """
    with TemporaryFolder("verify") as scratch:
        subject = _Subject(lm, tolerance, Path(scratch) / "exported")
        for name, check in (*subject.checks().items(), *golden(lm), *quality_checks(lm, rounded or {})):
            yield Check(name, *_outcome(check))


class _Subject:
    """A model, what it is given to read, the checks, and a folder where it may be exported to."""

    def __init__(self, lm: LanguageModel, tolerance: float, folder: Path) -> None:
        self.lm, self.model, self.tolerance, self.folder = lm, lm.model, tolerance, folder
        self.context_length, self.vocabulary = lm.config.context_length, lm.tokenizer.vocab_size
        self.generator = torch.Generator().manual_seed(0)
        self.ids = self.random_ids(2, min(64, self.context_length))  # (B, T)

    def checks(self) -> dict[str, Callable[[], Outcome]]:
        """Every check by its name, in order."""
        return {
            "tokenizer = tiktoken": self.tokenizer,
            "causality": self.causality,
            "sdpa = eager": self.sdpa,
            "cached = uncached": self.cached,
            "batch = single": self.batch,
            "decode after overflow": self.overflow,
            "export and import": self.round_trip,
            "ids = transformers": self.transformers_ids,
            "ours = transformers": self.transformers,
        }

    @cached_property
    def texts(self) -> list[str]:
        """What the tokenizer is given: hard cases, and random tokens."""
        chance, decode = random.Random(0), self.lm.tokenizer.decode
        drawn = (chance.choices(range(self.vocabulary), k=20) for _ in range(_RANDOM_TEXTS))
        return [*_TEXTS, *map(decode, drawn)]

    @cached_property
    def their_folder(self) -> Path:
        """What transformers is given: the folder that the model was read from, or our export of it."""
        config = self.lm.origin / hf_folder.CONFIG if self.lm.origin else self.folder
        if config.is_file() and storage.read_json(config).get("model_type") == "gpt2":
            return config.parent
        if not self.folder.exists():
            export_folder(self.folder, self.model, self.lm.tokenizer)
        return self.folder

    @cached_property
    def plain(self) -> Tensor:
        """The scores of `ids`, (B, T, V)."""
        return self.model(self.ids)

    def random_ids(self, rows: int, length: int) -> Tensor:
        """(rows, length) ids of the vocabulary."""
        return torch.randint(self.vocabulary, (rows, length), generator=self.generator)

    def tokenizer(self) -> Outcome:
        """tiktoken gives the ids that the hand-written merges give, and they decode to the text."""
        tokenizer = self.lm.tokenizer
        if not isinstance(tokenizer, TiktokenTokenizer):
            return None, "this model is used without tiktoken"
        settings = tokenizer.settings
        exact = not (settings.add_prefix_space or settings.unk or any(t.lstrip or t.rstrip for t in settings.added))
        for text in self.texts:
            found = tokenizer.encode(text)
            if found != tokenizer.reference.encode(text):
                return False, f"{text!r} has other ids by tiktoken than by hand"
            if exact and tokenizer.decode(found) != text:
                return False, f"{text!r} does not come back from its ids"
        back = " and come back from them" if exact else ""
        return True, f"{len(self.texts)} texts have the same ids both ways{back}"

    def transformers_ids(self) -> Outcome:
        """transformers reads texts as the same ids, and ends where we do."""
        if not activations.has_reference():
            return None, "transformers is not installed"
        if self.lm.origin == self.their_folder and lacks_tokenizer(self.their_folder, self.lm.config):
            return None, "the folder has no tokenizer"
        return activations.compare_ids(self.their_folder, self.lm.tokenizer, self.texts)

    def causality(self) -> Outcome:
        """Other tokens later on change nothing before them."""
        middle = max(1, self.ids.shape[1] // 2)
        changed = self.ids.clone()
        changed[:, middle:] = (changed[:, middle:] + 1) % self.vocabulary
        return self.compare(self.model(changed)[:, :middle], self.plain[:, :middle])

    def sdpa(self) -> Outcome:
        """PyTorch's attention kernel computes what the spelled-out softmax does."""
        scores = []
        for implementation in ("sdpa", "eager"):
            set_attention(self.model, implementation)
            scores.append(self.model(self.ids))
        set_attention(self.model, None)
        return self.compare(*scores)

    def cached(self) -> Outcome:
        """A text read in pieces has the scores that it has as a whole."""
        cache, T = self.model.new_cache(len(self.ids)), self.ids.shape[1]
        half = max(1, T // 2)
        lengths = [half, *[1] * (T - half)]
        found = [self.model(piece, cache) for piece in self.ids.split(lengths, dim=1)]  # each (B, t, V)
        return self.compare(torch.cat(found, dim=1), self.plain)

    def batch(self) -> Outcome:
        """Texts of different lengths that are written side by side have the scores that each has alone."""
        longest = max(1, self.ids.shape[1] // 2)
        lengths = {1, max(1, longest // 2), longest}
        prompts = [self.random_ids(1, length)[0].tolist() for length in sorted(lengths)]
        prompts += prompts[-1:]
        news = [self.random_ids(1, len(prompts))[0].tolist() for _ in range(3)]
        found = [self.model(self.ids[1:])[0], *self.decoded(prompts, news)]
        alone = [self.decoded([prompt], [[step[row]] for step in news]) for row, prompt in enumerate(prompts)]
        expected = [self.plain[1], *map(torch.cat, zip(*alone, strict=True))]
        return self.compare(torch.cat(found), torch.cat(expected))

    def overflow(self) -> Outcome:
        """Text beyond the context is read from the context's last half on, as if nothing stood before that."""
        text, news = self.random_ids(1, self.context_length), [self.random_ids(1, 1) for _ in range(3)]  # (1, T)
        found, expected = self.decoded(text.tolist(), [new[0].tolist() for new in news]), []
        half = max(1, self.context_length // 2)
        for read, new in zip((self.context_length, half, half + 1), news, strict=True):
            hidden = self.model.hidden(text[:, -min(read, self.context_length) :])[:, -1]  # (1, C)
            expected.append(self.model.unembed(hidden))  # (1, V)
            text = torch.cat([text, new], dim=1)
        return self.compare(torch.cat(found), torch.cat(expected))

    def decoded(self, prompts: list[list[int]], news: list[list[int]]) -> list[Tensor]:
        """The logits (B, V) of each step, where the engine is given the next token of each row in its place."""
        found: list[Tensor] = []

        def given(logits: Tensor, _: object) -> list[int]:
            found.append(logits)
            return news[len(found) - 1]

        engine = Engine(self.model, choose=given)
        for prompt in prompts:
            engine.add(prompt, GenerationConfig(max_new_tokens=len(news), overflow="slide"))
        for _ in engine.run():
            pass
        return found

    def round_trip(self) -> Outcome:
        """A Hugging Face folder that we write gives the same weights back, bit for bit, and the same tokenizer."""
        export_folder(self.folder, self.model, self.lm.tokenizer)
        stored = hf_folder.open_folder(self.folder)
        again, mine = stored.load_model().state_dict(), self.model.state_dict()
        differing = [name for name in mine if name in again and not activations.same_bits(again[name], mine[name])]
        if stored.load_tokenizer().fingerprint != self.lm.tokenizer.fingerprint:
            differing.append("the tokenizer")
        detail = f"{differing[0]} differs" if differing else f"{len(again)} tensors are the same to the bit"
        if lost := sorted(mine.keys() - again.keys()):
            detail += f"; that form has no place for {', '.join(lost)}"
        return not differing, detail

    def transformers(self) -> Outcome:
        """transformers computes the same, activation by activation."""
        if not activations.has_reference():
            return None, "transformers is not installed"
        try:
            model = activations.reference(self.their_folder)
        except Exception as error:  # whatever it is, it is transformers' and not ours
            return activations.unreadable(self.their_folder, error)
        theirs = activations.reference_activations(model, self.ids)
        differences = activations.compare(activations.activations(self.model, self.ids), theirs)
        first = activations.first_difference(differences, self.tolerance)
        if first is not None:
            place = f"batch and position {first.where}"
            return False, f"first differs: {first.name}, by {first.worst:.1e} at {place}"
        worst = max(difference.worst for difference in differences if difference.name == "logits")
        return True, f"{len(differences)} activations are the same; worst score differs by {worst:.1e}"

    def compare(self, found: Tensor, expected: Tensor) -> Outcome:
        """Whether scores of the same shape differ by no more than the tolerance."""
        (difference,) = activations.compare({"logits": found}, {"logits": expected})
        passed = not difference.exceeds(self.tolerance)
        if difference.worst == torch.inf:
            return False, f"the model's logits are not finite numbers, at {difference.where}"
        place = "" if passed else f", at {difference.where}"
        return passed, f"worst score differs by {difference.worst:.1e} of {difference.scale:.1f}{place}"


@torch.inference_mode()
def _outcome(check: Callable[[], Outcome]) -> Outcome:
    try:
        return check()
    except HandloomError as error:
        return False, error.problem
