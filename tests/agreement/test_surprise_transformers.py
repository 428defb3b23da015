"""The surprise at a text is transformers' loss: over one window, and over a text by the published sliding recipe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from published import saved, sharpened, tokens
from transformers import GPT2Config

from handloom.checkpoints import hf_folder
from handloom.evaluation.scoring import token_nll_of_ids


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """transformers' model, and ours read from the folder that it was saved in."""
    config = GPT2Config(
        vocab_size=97, n_positions=32, n_layer=2, n_head=2, n_embd=32, bos_token_id=None, eos_token_id=None
    )
    theirs = sharpened(config, deviation=0.2)
    return theirs, hf_folder.open_folder(saved(theirs, tmp_path_factory.mktemp("published"))).load_model()


def test_the_loss_of_one_window_is_the_same(pair):
    theirs, ours = pair
    x = tokens(theirs.config, 1, 32)
    with torch.no_grad():
        expected = theirs(x, labels=x).loss.item()
    nats = np.concatenate(list(token_nll_of_ids(ours, x[0].numpy(), context_length=31)))
    assert len(nats) == 31
    assert nats.mean(dtype=np.float64) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stride", [31, 16, 5])
def test_the_sliding_recipe_gives_the_same_perplexity(pair, stride):
    """Hugging Face's guide masks what was predicted before with -100. Its windows hold our inputs and the last target.

    The length is one at which both end with a full window; elsewhere theirs is cut short and ours moved back.
    """
    theirs, ours = pair
    x = tokens(theirs.config, 1, 32 + 6 * stride)
    total, count, ended = 0.0, 0, 0
    for begin in range(0, x.shape[1] - 31, stride):
        end = begin + 32
        labels = x[:, begin:end].clone()
        labels[:, : -(end - ended)] = -100
        with torch.no_grad():
            predicted = int((labels[:, 1:] != -100).sum())
            total += theirs(x[:, begin:end], labels=labels).loss.item() * predicted
        count, ended = count + predicted, end
    assert ended == x.shape[1]
    nats = np.concatenate(list(token_nll_of_ids(ours, x[0].numpy(), context_length=31, stride=stride)))
    assert len(nats) == count
    assert nats.mean(dtype=np.float64) == pytest.approx(total / count, rel=1e-5)
