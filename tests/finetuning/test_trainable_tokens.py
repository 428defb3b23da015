"""Rows of the token embedding that learn: nothing at first, their gradient that of the whole matrix, and undone."""

from __future__ import annotations

import pytest
import torch
from test_lora import CONFIG, IDS, model, stir

from handloom.finetuning import lora, trainable, trainable_tokens
from handloom.finetuning.lora import LoRAConfig
from handloom.finetuning.memory_estimate import MicroBatch, estimate_memory
from handloom.model.embedding import TiedHead
from handloom.model.loss import next_token_loss, token_nll
from handloom.model.surgery import untie_embeddings

TOKENS = torch.tensor([3, 4, 17, 59])  # 17 and 4 are read below, 59 never is
TARGETS = IDS.roll(-1)


def with_rows(ids=TOKENS, name="adapter", made=None):
    """Detours and rows, the rows moved somewhere."""
    made = made or model()
    lora.add_adapter(made, LoRAConfig(r=2), 1, name, ids)
    rows = trainable_tokens.token_deltas(made)[name].rows
    with torch.no_grad():
        rows.add_(torch.empty_like(rows).normal_(0.0, 0.3, generator=torch.Generator().manual_seed(len(name))))
    return made


def trainable_rows(made):
    return getattr(made.lm_head, "trainable_tokens", None)


@torch.no_grad()
def test_a_fresh_set_changes_no_bit():
    made = model()
    lora.add_adapter(made, LoRAConfig(r=2), 1, tokens=TOKENS)
    assert made(IDS).equal(model()(IDS))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("told", [True, False], ids=["only theirs", "of all"])
@pytest.mark.parametrize("loss", [next_token_loss, token_nll], ids=["summed", "single"])
def test_their_gradient_is_that_of_the_same_rows_of_the_whole_matrix(tied, told, loss, monkeypatch):
    if not told:
        monkeypatch.setattr(TiedHead, "trainable_tokens", None)

    def gradient(made, parameter):
        for other in made.parameters():
            other.requires_grad_(other is parameter)
        found = loss(made.hidden(IDS), made.lm_head, TARGETS)
        (found[0] if isinstance(found, tuple) else found.square().sum()).backward()
        return parameter.grad

    def fresh():
        made = model()
        if not tied:
            untie_embeddings(made)
        return made

    rows, whole = fresh(), fresh()
    assert trainable_rows(rows) is None
    learned = trainable_tokens.insert_adapter(rows, "adapter", TOKENS).rows
    with torch.no_grad():  # both somewhere else than where they began
        learned.add_(0.1)
        whole.embedding.token_embedding.weight[TOKENS] += 0.1
    found = gradient(rows, learned)
    assert torch.allclose(found, gradient(whole, whole.embedding.token_embedding.weight)[TOKENS], rtol=1e-5, atol=1e-6)
    assert bool(found[3].abs().max() > 0) == tied  # a token that is never read learns as an answer alone
    assert rows.lm_head.weight.equal(whole.lm_head.weight)
    assert (trainable_rows(rows) is not None) == (tied and told)


def test_what_is_computed_without_the_loss_of_ours_leads_back_too():
    made = with_rows()
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    rows = trainable_tokens.token_deltas(made)["adapter"].rows.requires_grad_(True)
    cross_entropy = torch.nn.functional.cross_entropy
    cross_entropy(made(IDS).flatten(0, 1), TARGETS.flatten(), reduction="sum").backward()
    by_logits, rows.grad = rows.grad, None
    next_token_loss(made.hidden(IDS), made.lm_head, TARGETS)[0].backward()
    assert torch.allclose(by_logits, rows.grad, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_only_their_rows_change_and_unmerging_restores_every_bit():
    made = stir(with_rows())
    before, apart = model().embedding.token_embedding.weight, made(IDS)
    changed = (made.embedding.token_embedding.weight != before).any(dim=1)
    assert changed.nonzero()[:, 0].equal(TOKENS)
    lora.merge(made)
    assert torch.allclose(made(IDS), apart, atol=1e-5)
    lora.merge(made)  # a second time changes nothing
    assert torch.allclose(made(IDS), apart, atol=1e-5)
    lora.unmerge(made)
    assert made(IDS).equal(apart)
    lora.unload(made)
    assert made(IDS).equal(model()(IDS))
    assert made.state_dict().keys() == model().state_dict().keys()


@torch.no_grad()
def test_baked_they_stay_in_a_plain_model():
    made = stir(with_rows())
    apart, rows = made(IDS), trainable_tokens.token_deltas(made)["adapter"].rows.clone()
    lora.merge_and_unload(made)
    assert made.state_dict().keys() == model().state_dict().keys()
    assert torch.allclose(made(IDS), apart, atol=1e-5)
    assert made.embedding.token_embedding.weight[TOKENS].equal(rows)  # all of them is exactly them


@torch.no_grad()
def test_sets_stack_with_shares_and_are_switched_also_where_they_share_a_token():
    made = with_rows(torch.tensor([5, 17]), "b", with_rows(TOKENS, "aa"))
    assert lora.adapters(made) == {"aa": 1.0, "b": 1.0}
    was = model().embedding.token_embedding.weight.clone()
    moved = {}
    for name, rows in trainable_tokens.token_deltas(made).items():
        moved[name] = torch.zeros_like(was)
        moved[name][rows.ids] = rows.rows - was[rows.ids]
        assert moved[name][17].abs().max() > 0
    for shares in ({"aa": 1.0, "b": 1.0}, {"aa": 0.25, "b": -2.0}, {"b": 0.5}, {}):
        lora.set_adapters(made, shares)
        expected = was + sum(share * moved[name] for name, share in shares.items())
        assert torch.allclose(made.embedding.token_embedding.weight, expected, atol=1e-6)
    assert made(IDS).equal(model()(IDS))


def test_what_they_are_written_into_is_memory_of_its_own():
    made = model()
    lent = made.embedding.token_embedding.weight.data
    before = lent.clone()
    with_rows(made=made)(IDS)
    assert lent.equal(before)


def test_the_ledger_counts_them():
    learned = []
    for how in (LoRAConfig(r=2), LoRAConfig(r=2, trainable_tokens=7)):
        ledger = estimate_memory(CONFIG, "lora", how, MicroBatch(2, 12, bf16=False))
        learned.append(ledger.chosen.cost.parameters)
    assert learned[1] == learned[0] + 7 * CONFIG.embed_dim
    assert ("rows of the token embedding", 1, 7 * CONFIG.embed_dim) in ledger.groups
    assert not ledger.chosen.remark
    made = with_rows()
    trainable.set_trainable(made, trainable.patterns_of("lora", CONFIG))
    assert trainable.first_trainable_layer(made) is None  # what the lowest block reads is not always the same
