"""A GGUF file holds the model to the bit, and says of it what is so. What llama.cpp makes of it: tests/agreement."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, LlamaFileType, TokenType

from handloom.checkpoints import hf_folder
from handloom.checkpoints.gguf_export import export_gguf
from handloom.errors import CheckpointError, ConfigError
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer.train import train_bpe

TOKENIZER = train_bpe(["the cat sat on the mat, it's naïve 日本語 " * 3], 290)
V = TOKENIZER.vocab_size
TINY = GPTConfig(V, context_length=8, layers=1, heads=1, embed_dim=4)

IN_BLOCK = {
    "attention_norm": "attn_norm",
    "attention.qkv": "attn_qkv",
    "attention.out": "attn_output",
    "feedforward_norm": "ffn_norm",
    "feedforward.up": "ffn_up",
    "feedforward.down": "ffn_down",
}
OUTSIDE = {
    "embedding.token_embedding.weight": "token_embd.weight",
    "embedding.position_embedding.weight": "position_embd.weight",
    "final_norm.weight": "output_norm.weight",
    "final_norm.bias": "output_norm.bias",
    "lm_head.weight": "output.weight",
}


def llama_name(ours: str) -> str:
    """Written down once more, by hand: what the library gguf says of GPT-2's names must come to this."""
    if ours in OUTSIDE:
        return OUTSIDE[ours]
    _, block, rest = ours.split(".", 2)
    place, kind = rest.rsplit(".", 1)
    return f"blk.{block}.{IN_BLOCK[place]}.{kind}"


@pytest.mark.parametrize("precision", ["f32", "f16"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_is_there_to_the_bit(tmp_path, tied, precision):
    config = GPTConfig(V + 3, context_length=12, layers=2, heads=3, embed_dim=33, ffn_dim=50, tie_embeddings=tied)
    model = GPT(config, seed=1)
    reader = GGUFReader(export_gguf(tmp_path / "m", model, TOKENIZER, precision=precision))
    found = {tensor.name: tensor for tensor in reader.tensors}
    mine = {llama_name(name): tensor for name, tensor in model.state_dict().items()}
    assert found.keys() == mine.keys()
    for name, expected in mine.items():
        matrix = expected.dim() == 2 and name != "position_embd.weight"
        half = precision == "f16" and matrix
        if name in ("token_embd.weight", "output.weight"):
            expected = expected[:V]  # of the other ids no text can come
        data = found[name].data
        assert found[name].tensor_type == (GGMLQuantizationType.F16 if half else GGMLQuantizationType.F32)
        assert np.array_equal(data, expected.half().numpy() if half else expected.numpy()), name


def test_a_model_that_was_read_from_a_hugging_face_folder(tmp_path):
    """Its matrices are views of the other orientation."""
    from handloom.checkpoints.hf_export import export_folder

    model = GPT(TINY, seed=2)
    export_folder(tmp_path / "hf", model, TOKENIZER)
    again = hf_folder.open_folder(tmp_path / "hf")
    one = export_gguf(tmp_path / "one", model, TOKENIZER)
    two = export_gguf(tmp_path / "two", again.load_model(), again.load_tokenizer())
    tensors = [[tensor.data for tensor in GGUFReader(file).tensors] for file in (one, two)]
    assert len(tensors[0]) == len(tensors[1])
    assert all(np.array_equal(a, b) for a, b in zip(*tensors, strict=True))


def test_what_the_file_says(tmp_path):
    config = GPTConfig(V, context_length=12, layers=2, heads=3, embed_dim=33, ffn_dim=50, norm_eps=1e-3, dropout=0.1)
    training = {
        "progress": {"step": 1200, "tokens": 34567, "best_loss": 2.5},
        "settings": {"data": ["a|b.txt"], "learning_rate": 0.003, "steps": None},
        "versions": {"torch": "2.13.0"},
        "tokenizer": TOKENIZER.fingerprint,
    }
    file = export_gguf(tmp_path / "cat.gguf", GPT(config), TOKENIZER, training)
    assert file == tmp_path / "cat.gguf" / "cat.gguf"
    fields = {name: field.contents() for name, field in GGUFReader(file).fields.items()}
    expected = {
        "general.architecture": "gpt2",
        "general.type": "model",
        "general.name": "cat",
        "general.file_type": LlamaFileType.ALL_F32,
        "gpt2.context_length": 12,
        "gpt2.embedding_length": 33,
        "gpt2.block_count": 2,
        "gpt2.feed_forward_length": 50,
        "gpt2.attention.head_count": 3,
        "gpt2.attention.layer_norm_epsilon": np.float32(1e-3),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": V - 1,
        "tokenizer.ggml.eos_token_id": V - 1,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.token_type": [TokenType.NORMAL] * (V - 1) + [TokenType.CONTROL],
    }
    assert {key: fields[key] for key in expected} == expected
    assert "1,200 steps over 34,567 tokens, to a best validation loss of 2.5" in fields["general.description"]
    told = json.loads(fields["handloom.training"])
    assert told == {key: training[key] for key in ("progress", "settings", "versions")}
    tokens = fields["tokenizer.ggml.tokens"]
    assert len(tokens) == V
    assert tokens[-1] == "<|endoftext|>"
    assert len(fields["tokenizer.ggml.merges"]) == V - 257
    assert fields["tokenizer.ggml.merges"][0].replace(" ", "") == tokens[256]


def test_the_folder_holds_the_file_and_a_model_card(tmp_path):
    training = {"progress": {"step": 3, "tokens": 5}, "settings": {"seed": 7}, "versions": {"torch": "2"}}
    file = export_gguf(tmp_path / "my cat", GPT(TINY), TOKENIZER, training)
    assert file.name == "my cat.gguf"
    names = {path.name for path in file.parent.iterdir()}
    assert names == {"my cat.gguf", "README.md", "manifest.json"}
    card = (file.parent / "README.md").read_text(encoding="utf-8")
    assert "3 steps over 5 tokens." in card
    assert "| seed | 7 |" in card
    assert "llama-completion -m 'my cat.gguf'" in card
    assert 'FROM ./my cat.gguf\nTEMPLATE "{{ .Prompt }}"\n' in card
    assert "transformers" not in card


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"activation": "relu"}, "activation is relu"),
        ({"activation": "gelu"}, "activation is gelu,"),
        ({"scale_attention_weights": False}, "scale_attention_weights is false"),
        ({"scale_attention_by_inverse_layer": True}, "scale_attention_by_inverse_layer is true"),
        ({"label_names": ("good", "bad")}, "labels"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused_by_name(tmp_path, changes, named):
    model = GPT(GPTConfig(V, context_length=8, layers=1, heads=1, embed_dim=4, **changes))
    with pytest.raises(CheckpointError, match=named):
        export_gguf(tmp_path / "m", model, TOKENIZER)
    assert not (tmp_path / "m").exists()


def test_a_vocabulary_of_bytes_alone_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="without merges"):
        export_gguf(tmp_path / "m", GPT(GPTConfig(257, 8, 1, 1, 4)), train_bpe([], 257))


def test_weights_too_large_for_halves_are_refused_and_nothing_stays_behind(tmp_path):
    model = GPT(TINY)
    with torch.no_grad():
        model.blocks[0].feedforward.up.weight[1, 2] = 70000.0
    with pytest.raises(CheckpointError, match=r"blk\.0\.ffn_up\.weight.*Export with `dtype=f32`"):
        export_gguf(tmp_path / "m", model, TOKENIZER, precision="f16")
    assert list(tmp_path.iterdir()) == []
    export_gguf(tmp_path / "m", model, TOKENIZER)


def test_a_folder_that_is_there_is_not_replaced_unasked(tmp_path):
    export_gguf(tmp_path / "m", GPT(TINY), TOKENIZER)
    with pytest.raises(ConfigError, match="is there already"):
        export_gguf(tmp_path / "m", GPT(TINY), TOKENIZER)
    export_gguf(tmp_path / "m", GPT(TINY), TOKENIZER, overwrite=True)


def test_without_the_library_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"python -m pip install gguf$"):
        export_gguf(tmp_path / "m", GPT(TINY), TOKENIZER)
