"""One log probability for one token, whoever reports it: `evaluate`, `generate` with log probabilities, a new token.

A model may have more ids than its tokenizer. Likelihoods are the model's own over all of them.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from handloom.data.windows import Window
from handloom.evaluation.scoring import score_windows
from handloom.inference.engine import Engine
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.logprobs import prompt_logprobs
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_a_token_has_one_log_probability_where_the_vocabulary_is_padded(tied):
    model = GPT(GPTConfig(300, context_length=16, layers=2, heads=2, embed_dim=8, tie_embeddings=tied)).eval()
    for parameter in model.parameters():
        parameter.mul_(8)
    ids = np.random.default_rng(0).integers(257, size=12)
    (scored,) = score_windows(model, [Window(ids[:-1], ids[1:])], 1)
    of_prompt = [token.logprob for token in prompt_logprobs(model, ids.tolist(), 2)][1:]
    np.testing.assert_allclose(of_prompt, -scored.nll, rtol=1e-6, atol=1e-6)
    expected = model(torch.from_numpy(ids)[None])[0].log_softmax(-1)  # (T, V), over all 300 ids
    np.testing.assert_allclose(of_prompt, [float(expected[at, ids[at + 1]]) for at in range(11)], atol=1e-5)
    engine = Engine(model)
    engine.add(ids.tolist(), GenerationConfig(max_new_tokens=1, temperature=0, vocab_size=257, logprobs=1))
    (event,) = engine.step()
    assert event.token < 257  # only drawing a token leaves out the padded ids
    assert event.logprob is not None
    assert event.logprob == pytest.approx(float(expected[-1, event.token]), abs=1e-5)
