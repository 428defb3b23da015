"""Beam search: the same texts as transformers finds, on small models with random weights."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel

from handloom.errors import RequestError
from handloom.inference.beam import beam_search
from handloom.inference.generation_config import GenerationConfig
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT

END = 12
OURS = {
    "token_embedding": "wte",
    "position_embedding": "wpe",
    "attention_norm": "ln_1",
    "feedforward_norm": "ln_2",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "feedforward.up": "mlp.c_fc",
    "feedforward.down": "mlp.c_proj",
    "final_norm": "ln_f",
    "embedding.": "",
    "blocks.": "h.",
}


def theirs_of(model):
    """The same weights in transformers' own model."""
    c = model.config
    shape = GPT2Config(
        vocab_size=c.vocab_size,
        n_positions=c.context_length,
        n_embd=c.embed_dim,
        n_layer=c.layers,
        n_head=c.heads,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=END,
    )
    other = GPT2LMHeadModel(shape).eval()
    values = {}
    for name, tensor in model.state_dict().items():
        for here, there in OURS.items():
            name = name.replace(here, there)
        transposed = name.endswith("weight") and ("attn" in name or "mlp" in name)
        values[f"transformer.{name}"] = tensor.T.contiguous() if transposed else tensor
    missing, unexpected = other.load_state_dict(values, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    return other


@pytest.fixture(scope="module", params=range(3))
def pair(request):
    config = GPTConfig(vocab_size=END + 1, context_length=32, layers=2, heads=2, embed_dim=16)
    model = GPT(config, seed=request.param).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(12)
    transformers.logging.set_verbosity_error()
    return model, theirs_of(model)


@dataclasses.dataclass(frozen=True)
class Ended:
    """At END, or never."""

    end: int | None = END
    finish_reason: str | None = None

    def after(self, token):
        return dataclasses.replace(self, finish_reason="stop" if token == self.end else None)


SETTINGS = [
    {},
    {"length_penalty": 0.0},
    {"length_penalty": 2.0},
    {"length_penalty": -1.0},
    {"min_new_tokens": 6},
    {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
]


@pytest.mark.parametrize("changed", SETTINGS, ids=str)
@pytest.mark.parametrize("beams", [2, 3, 5])
def test_the_same_texts_with_the_same_scores(pair, changed, beams):
    ours, theirs = pair
    prompt = [3, 1, 4]
    request = GenerationConfig.of(max_new_tokens=12, num_beams=beams, **changed)
    request = dataclasses.replace(request, eos_token_ids=(END,))
    found = beam_search(ours, prompt, request, beams, Ended())
    names = {"no_repeat_ngram_size": "no_repeat_ngram_size"}
    wanted = theirs.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        do_sample=False,
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=12,
        return_dict_in_generate=True,
        output_scores=True,
        **{names.get(name, name): value for name, value in changed.items()},
    )
    texts = []
    for row in wanted.sequences[:, len(prompt) :].tolist():
        length = row.index(END) + 1 if END in row else len(row)
        texts.append(row[:length])
    assert [[choice.token for choice in one.token_logprobs] for one in found] == texts
    assert [one.score for one in found] == pytest.approx(wanted.sequences_scores.tolist(), abs=1e-4)


def test_beams_as_many_as_there_are_texts_find_the_likeliest(pair):
    model, _ = pair
    with torch.no_grad():
        texts = list(itertools.product(range(END), repeat=2))
        rows = torch.tensor([[3, *text] for text in texts])
        logprobs = model(rows).log_softmax(-1)
        totals = logprobs[:, 0].gather(1, rows[:, 1:2]) + logprobs[:, 1].gather(1, rows[:, 2:3])
    best = texts[int(totals.argmax())]
    request = GenerationConfig(max_new_tokens=2, bad_words=((END,),), num_beams=END + 1)
    found = beam_search(model, [3], request, 1, Ended())
    assert tuple(choice.token for choice in found[0].token_logprobs) == best


def test_one_beam_is_greedy_and_more_texts_than_beams_are_refused(pair):
    model, _ = pair
    (found,) = beam_search(model, [3], GenerationConfig(max_new_tokens=5), 1, Ended(None))
    tokens = [3]
    for choice in found.token_logprobs:
        with torch.no_grad():
            assert choice.token == model(torch.tensor([tokens]))[0, -1].argmax().item()
        tokens.append(choice.token)
    with pytest.raises(RequestError, match="3 texts are asked of 2 beams"):
        beam_search(model, [3], GenerationConfig(max_new_tokens=5, num_beams=2), 3, Ended())
