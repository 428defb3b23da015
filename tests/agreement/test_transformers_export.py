"""What we export, transformers loads: the same scores, the same ids, and GPT-2's weights to the bit."""

from __future__ import annotations

import json

import pytest
import torch
from published import saved, sharpened, tokens
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from handloom.checkpoints import hf_folder
from handloom.checkpoints.hf_export import export_folder
from handloom.errors import ConfigError
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.model.surgery import add_classification_head
from handloom.tokenizer import load_tokenizer
from handloom.tokenizer.train import train_bpe

TEXTS = [
    "Hello  world, it's naïve: 123 4567!\n\n\tx ",
    "Ελλάδα 日本語 😀👩‍👩‍👧 \u00a0 café\r\n",
    "",
    " ",
    "def f(x):\n    return x  # don't",
]


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_of_ours_with_its_own_vocabulary(tmp_path, tied):
    tokenizer = train_bpe(["the cat sat on the mat, it's naïve, def return 日本語 " * 3], 300)
    config = GPTConfig(
        tokenizer.vocab_size,
        context_length=32,
        layers=2,
        heads=2,
        embed_dim=16,
        tie_embeddings=tied,
        activation="gelu",
        dropout=0.2,
    )
    model = GPT(config, seed=3).eval()
    export_folder(tmp_path / "cat", model, tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "cat")
    x = tokens(theirs.config, 2, 32)
    with torch.no_grad():
        assert (theirs(x).logits - model(x)).abs().max() <= 1e-5
    assert theirs.config.eos_token_id == theirs.generation_config.eos_token_id == tokenizer.eos_token_id
    back = hf_folder.open_folder(tmp_path / "cat")
    assert back.config == config
    assert back.load_tokenizer().fingerprint == tokenizer.fingerprint
    mine, again = model.state_dict(), back.load_model().state_dict()
    assert all(again[name].equal(mine[name]) for name in mine)


@pytest.mark.parametrize("kind", ["gpt2", "own"])
@pytest.mark.parametrize("files", ["all", "tokenizer.json", "vocab.json"])
def test_token_ids_are_the_same(tmp_path, kind, files):
    own = train_bpe(["the cat sat on the mat, it's naïve, def return 日本語 " * 3], 320)
    tokenizer = load_tokenizer("gpt2") if kind == "gpt2" else own
    export_folder(tmp_path / "m", GPT(GPTConfig(tokenizer.vocab_size, 16, 1, 1, 4)), tokenizer)
    if files == "vocab.json":
        (tmp_path / "m" / "tokenizer.json").unlink()
    if files == "tokenizer.json":
        (tmp_path / "m" / "vocab.json").unlink()
        (tmp_path / "m" / "merges.txt").unlink()
    theirs = AutoTokenizer.from_pretrained(tmp_path / "m")
    for text in TEXTS:
        assert theirs(text).input_ids == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.eos_token_id == theirs.bos_token_id == tokenizer.eos_token_id
    assert theirs.model_max_length == 16
    assert load_tokenizer(tmp_path / "m").fingerprint == tokenizer.fingerprint
    theirs.save_pretrained(tmp_path / "again")  # newer versions write tokenizer.json alone
    assert load_tokenizer(tmp_path / "again").fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("tied", [True, False])
def test_in_and_out_is_the_same_to_the_bit(tmp_path, tied):
    config = GPT2Config(
        n_layer=2, n_head=3, n_embd=33, n_inner=50, n_positions=20, tie_word_embeddings=tied, attn_pdrop=0.3,
        activation_function="relu", scale_attn_by_inverse_layer_idx=True,
    )  # fmt: skip
    theirs = sharpened(config)
    found = hf_folder.open_folder(saved(theirs, tmp_path / "in"))
    export_folder(tmp_path / "out", found.load_model(), found.load_tokenizer())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(after[name].equal(before[name]) for name in before)
    keys = ("n_inner", "attn_pdrop", "embd_pdrop", "activation_function", "scale_attn_by_inverse_layer_idx")
    assert [getattr(again.config, key) for key in keys] == [getattr(config, key) for key in keys]


def test_a_folder_that_is_there_is_not_replaced_unasked(tmp_path):
    tokenizer = train_bpe([], 257)
    model = GPT(GPTConfig(257, 8, 1, 1, 4))
    (tmp_path / "m").mkdir()
    export_folder(tmp_path / "m", model, tokenizer)  # an empty one may be filled
    with pytest.raises(ConfigError, match="is there already"):
        export_folder(tmp_path / "m", model, tokenizer)
    export_folder(tmp_path / "m", model, tokenizer, overwrite=True)


def test_the_model_card_says_how_it_was_trained(tmp_path):
    training = {
        "progress": {"step": 1200, "tokens": 34567, "best_loss": 2.5},
        "settings": {"data": ["a|b.txt"], "learning_rate": 0.003, "steps": None},
        "versions": {"torch": "2.13.0"},
    }
    export_folder(tmp_path / "m", GPT(GPTConfig(257, 8, 1, 1, 4)), train_bpe([], 257), training)
    card = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    assert "1,200 steps over 34,567 tokens" in card
    assert "2.5000 nats" in card
    assert "| learning_rate | 0.003 |" in card
    assert "a\\|b.txt" in card
    assert "| steps |" not in card
    assert json.loads((tmp_path / "m" / "manifest.json").read_text(encoding="utf-8")).keys() >= {"README.md"}


def test_a_classifier_is_exported_as_one_and_comes_back_bit_for_bit(tmp_path):
    from transformers import AutoModelForSequenceClassification

    from handloom.inference.classify import classify

    model = GPT(GPTConfig(vocab_size=280, context_length=24, layers=2, heads=2, embed_dim=16), seed=1).eval()
    add_classification_head(model, ("ham", "spam", "eggs"), seed=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.1)
    tokenizer = train_bpe(["the quick brown fox"] * 5, 280)
    export_folder(tmp_path / "hf", model, tokenizer)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()
    texts = ["the fox", "a quick brown dog", "x"]
    batch = AutoTokenizer.from_pretrained(tmp_path / "hf")(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        scores = theirs(**batch).logits.softmax(-1)
    ours = classify(model, tokenizer, texts)
    for row, found in zip(scores, ours, strict=True):
        assert found.label == theirs.config.id2label[int(row.argmax())]
        assert list(found.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-5)
    again = hf_folder.open_folder(tmp_path / "hf")
    assert again.config.label_names == ("ham", "spam", "eggs")
    mine, read = model.state_dict(), again.load_model().state_dict()
    assert all(read[name].equal(mine[name]) for name in mine)
