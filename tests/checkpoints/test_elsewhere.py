"""Models of other programs: wrapped ones, ones with more heads, and those in a single file."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize
from torch import nn
from torch.nn import functional as F

import handloom
from gpt2_folders import edit_json, random_model, theirs, write
from handloom.checkpoints import hf_folder
from handloom.checkpoints.formats import choose_weights
from handloom.checkpoints.gguf_export import export_gguf
from handloom.errors import CheckpointError
from handloom.loading import find_model
from handloom.model.config import GPTConfig
from handloom.tokenizer.train import train_bpe

TOKENIZER = train_bpe(["the cat sat on the mat, it's naïve 日本語 " * 3], 280)


def same(model, other):
    mine, found = model.state_dict(), other.state_dict()
    return mine.keys() == found.keys() and all(found[name].equal(mine[name]) for name in mine)


# Prefixes and heads


@pytest.mark.parametrize("inner", ["", "transformer."])
@pytest.mark.parametrize("wrapping", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "pretrained_model."])
@pytest.mark.parametrize("tied", [True, False])
def test_what_wraps_a_model_is_overlooked_with_a_note(tmp_path, wrapping, inner, tied):
    model = random_model(GPTConfig(280, 16, 2, 2, 8, tie_embeddings=tied))
    named = {
        wrapping + (name if name == "lm_head.weight" else inner + name.removeprefix("transformer.")): tensor
        for name, tensor in theirs(model).items()
    }
    folder, notes = write(tmp_path / "m", model, named), []
    assert same(hf_folder.open_folder(folder, notes.append).load_model(), model)
    (note,) = notes
    assert repr(wrapping) in note


@pytest.mark.parametrize(
    ("architecture", "more"),
    [
        ("GPT2DoubleHeadsModel", ["multiple_choice_head.summary.weight", "multiple_choice_head.summary.bias"]),
        ("GPT2LMHeadModel", ["v_head.summary.weight", "v_head.summary.bias"]),
        ("AutoModelForCausalLMWithValueHead", ["module.v_head.0.weight"]),
    ],
)
def test_heads_that_write_no_text_are_left_out_with_a_note(tmp_path, architecture, more):
    model = random_model()
    wrapping = "module." if more[0].startswith("module.") else ""
    tensors = {wrapping + name: tensor for name, tensor in theirs(model).items()}
    folder, notes = write(tmp_path / "m", model, tensors | {name: torch.ones(1, 8) for name in more}), []
    edit_json(folder / "config.json", architectures=[architecture])
    assert same(hf_folder.open_folder(folder, notes.append).load_model(), model)
    assert all(name in notes[-1] for name in more)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize(
    "change",
    [
        lambda t: t | {"module.transformer.ln_f.bias": t["transformer.ln_f.bias"].clone()},
        lambda t: t | {"_orig_mod.h.0.ln_1.weight": torch.ones(8)},
        lambda t: {name.removeprefix("transformer.") if "h.1." in name else name: v for name, v in t.items()},
    ],
    ids=["another wrapping", "both", "one block without"],
)
def test_names_of_two_kinds_are_refused(tmp_path, change, form):
    model = random_model()
    write(tmp_path, model, change(theirs(model)), form)
    with pytest.raises(CheckpointError, match="names its tensors in more than one way"):
        hf_folder.open_folder(tmp_path).load_model()


def test_a_head_of_a_head_is_not_taken_for_the_head(tmp_path):
    model = random_model()
    write(tmp_path, model, theirs(model) | {"transformer.lm_head.weight": torch.ones(280, 8)})
    with pytest.raises(CheckpointError, match=r"transformer\.lm_head\.weight .* does not have"):
        hf_folder.open_folder(tmp_path).load_model()


def test_a_user_is_told_by_a_note(tmp_path, capsys):
    from handloom.cli.main import main

    model = random_model()
    TOKENIZER.save(write(tmp_path / "m", model, {f"_orig_mod.{n}": t for n, t in theirs(model).items()}))
    with pytest.raises(SystemExit) as left:
        main(["generate", "the", "--model", str(tmp_path / "m"), "--max-new-tokens", "2", "--threads", "1"])
    assert left.value.code == 0
    assert "'_orig_mod.' before the names of the tensors is ignored." in capsys.readouterr().err.replace("\n", " ")


# Which folder, which file


def test_a_hugging_face_folder_that_holds_checkpoints_is_read_as_one(tmp_path):
    model = random_model()
    TOKENIZER.save(write(tmp_path, model))
    (tmp_path / "checkpoints" / "step-00000002").mkdir(parents=True)
    assert same(find_model(tmp_path).load_model(), model)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ({"model.safetensors", "pytorch_model.bin", "tf_model.h5"}, "model.safetensors"),
        ({"model.safetensors.index.json", "pytorch_model.bin"}, "model.safetensors.index.json"),
        ({"pytorch_model.bin.index.json", "flax_model.msgpack"}, "pytorch_model.bin.index.json"),
    ],
)
def test_the_best_form_that_there_is(names, found):
    assert choose_weights(names, "here") == found


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tf_model.h5", "from_tf=True"),
        ("model.ckpt.data-00000-of-00001", "TensorFlow"),
        ("flax_model.msgpack", "from_flax=True"),
        ("onnx/decoder_model.onnx", "ONNX"),
        ("rust_model.ot", "another library"),
        ("gptq_model-4bit-128g.safetensors", "quantized"),
        ("model-awq.bin", "quantized"),
        ("ggml-model.Q4_K_M.gguf", "Name the file itself as the model: PATH/ggml-model.Q4_K_M.gguf"),
        ("ckpt.pt", "as the model: PATH/ckpt.pt"),
        ("model.fp16.safetensors", "call it model.safetensors"),
        ("pytorch_model.pt", "call it pytorch_model.bin"),
    ],
)
def test_other_programs_weights_are_named_with_the_way_on(name, words):
    with pytest.raises(CheckpointError) as refused:
        choose_weights({"config.json", "README.md", name}, "here")
    assert name in refused.value.problem
    assert words in str(refused.value)


# GGUF


@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file_of_ours_read_again_is_the_same_model(tmp_path, tied):
    model = random_model(GPTConfig(TOKENIZER.vocab_size, 16, 2, 2, 8, ffn_dim=20, tie_embeddings=tied))
    path = export_gguf(tmp_path / "m", model, TOKENIZER)
    for named in (path, tmp_path / "m"):
        lm = handloom.load(named)
        assert same(lm.model, model)
        assert lm.config == model.config
        assert lm.tokenizer.fingerprint == TOKENIZER.fingerprint
        assert lm.tokenizer.encode("the cat's naïve 日本") == TOKENIZER.encode("the cat's naïve 日本")


def rewritten(path, target, fields=lambda key, value: value, data=lambda name, data: (data, None)):
    """The same file with other values of keys, and other tensors: each its data, and its type if it is quantized."""
    reader = GGUFReader(path)
    writer = GGUFWriter(target, "gpt2")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, fields(key, field.contents()), field.types[0], field.types[-1])
    for tensor in reader.tensors:
        numbers, kind = data(tensor.name, np.array(tensor.data))
        writer.add_tensor(tensor.name, numbers, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_other_precisions_come_out_as_the_library_takes_them_apart(tmp_path, kind):
    model = random_model(GPTConfig(TOKENIZER.vocab_size, 16, 1, 2, 32, tie_embeddings=False))
    path = export_gguf(tmp_path / "m", model, TOKENIZER)
    values = {}

    def stored(name, data):
        if data.ndim != 2 or data.shape[-1] % 32:
            return data, None
        coded = quantize(data, GGMLQuantizationType[kind])
        values[name] = torch.from_numpy(dequantize(coded, GGMLQuantizationType[kind]))
        return coded, GGMLQuantizationType[kind]

    rewritten(path, tmp_path / "x.gguf", data=stored)
    notes = []
    found = find_model(tmp_path / "x.gguf", notes.append).load_model()
    assert found.embedding.token_embedding.weight.equal(values["token_embd.weight"])
    assert found.blocks[0].attention.qkv.weight.equal(values["blk.0.attn_qkv.weight"])
    assert found.blocks[0].feedforward.down.weight.equal(values["blk.0.ffn_down.weight"])
    assert [kind in note for note in notes] == [True] * kind.startswith("Q")


def test_a_gguf_file_whose_tokenizer_cuts_text_otherwise_is_refused(tmp_path):
    path = export_gguf(tmp_path / "m", random_model(GPTConfig(TOKENIZER.vocab_size, 16, 1, 2, 8)), TOKENIZER)
    changed = {"tokenizer.ggml.pre": "llama-bpe"}
    rewritten(path, tmp_path / "x.gguf", lambda key, value: changed.get(key, value))
    with pytest.raises(CheckpointError, match="of the kind 'gpt2', with the pre-tokenizer 'llama-bpe'"):
        handloom.load(tmp_path / "x.gguf")


def test_tokens_that_only_fill_rows_are_no_tokens(tmp_path):
    model = random_model(GPTConfig(TOKENIZER.vocab_size, 16, 1, 2, 8))
    more = {"tokenizer.ggml.tokens": ["[PAD0]", "[PAD1]"], "tokenizer.ggml.token_type": [5, 5]}

    def padded(name, data):
        return (np.concatenate([data, np.ones((2, 8), np.float32)]) if name == "token_embd.weight" else data), None

    path = export_gguf(tmp_path / "m", model, TOKENIZER)
    rewritten(path, tmp_path / "x.gguf", lambda key, value: value + more[key] if key in more else value, padded)
    lm = handloom.load(tmp_path / "x.gguf")
    assert lm.config.vocab_size == TOKENIZER.vocab_size + 2
    assert lm.tokenizer.fingerprint == TOKENIZER.fingerprint


# nanoGPT


class Block(nn.Module):
    """A block as nanoGPT writes it, from its description: linear layers, LayerNorms with or without bias."""

    def __init__(self, width, heads, bias):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width, bias=bias), nn.LayerNorm(width, bias=bias)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.c_attn, self.attn.c_proj = nn.Linear(width, 3 * width, bias), nn.Linear(width, width, bias)
        self.mlp.c_fc, self.mlp.c_proj = nn.Linear(width, 4 * width, bias), nn.Linear(4 * width, width, bias)

    def forward(self, x):
        parts = self.attn.c_attn(self.ln_1(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.attn.c_proj(seen)
        return x + self.mlp.c_proj(F.gelu(self.mlp.c_fc(self.ln_2(x))))


def nanogpt(path, vocab_size=50257, bias=True, prefix="", **more):
    """A ckpt.pt, with what its training saves around the weights, and the logits of a function of ids."""
    torch.manual_seed(0)
    arguments = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 16, "bias": bias, "vocab_size": vocab_size,
                 "dropout": 0.1}  # fmt: skip
    model = nn.Module()
    model.transformer = nn.ModuleDict({
        "wte": nn.Embedding(vocab_size, 8), "wpe": nn.Embedding(16, 8),
        "h": nn.ModuleList([Block(8, 2, bias) for _ in range(2)]), "ln_f": nn.LayerNorm(8, bias=bias),
    })  # fmt: skip
    model.lm_head = nn.Linear(8, vocab_size, bias=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    model.lm_head.weight = model.transformer.wte.weight

    def logits(ids):
        parts = model.transformer
        x = parts.wte(ids) + parts.wpe(torch.arange(ids.shape[-1]))
        for block in parts.h:
            x = block(x)
        return model.lm_head(parts.ln_f(x))

    optimizer = torch.optim.AdamW(model.parameters())
    logits(torch.tensor([[1, 2]])).sum().backward()
    optimizer.step()
    torch.save(
        {
            "model": {prefix + name: tensor for name, tensor in model.state_dict().items()},
            "optimizer": optimizer.state_dict(),
            "model_args": arguments | more,
            "iter_num": 3,
            "best_val_loss": torch.tensor(3.2),
            "config": {"out_dir": "out", "compile": True, "weight_decay": 0.1},
        },
        path,
    )
    return logits


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("vocab_size", "prefix"), [(50257, ""), (50304, "_orig_mod.")])
def test_nanogpts_file_is_the_same_model_with_gpt2s_tokenizer(tmp_path, vocab_size, prefix, bias):
    logits = nanogpt(tmp_path / "ckpt.pt", vocab_size, bias, prefix)
    notes = []
    for named in (tmp_path / "ckpt.pt", tmp_path):
        lm = handloom.load(named, notes.append)
        assert lm.config == GPTConfig(vocab_size, 16, 2, 2, 8, activation="gelu", dropout=0.1)
        ids = torch.tensor([lm.tokenizer.encode("Hello world, it's me"), [50256, 1, 2, 3, 4, 5]])[:, :6]
        with torch.no_grad():
            assert (lm.model(ids) - logits(ids)).abs().max() < 1e-5
        assert lm.tokenizer.encode("Hello world") == [15496, 995]
    assert any("exact GELU" in note for note in notes)


def test_letters_of_a_pickle_are_not_read(tmp_path):
    nanogpt(tmp_path / "ckpt.pt", 65)
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"stoi": {"a": 0}}))
    with pytest.raises(CheckpointError, match=r"65 ids of its own, which only .*meta\.pkl explains"):
        handloom.load(tmp_path, lambda note: None)


def test_tokenizer_files_in_the_same_folder_are_used(tmp_path):
    nanogpt(tmp_path / "ckpt.pt", TOKENIZER.vocab_size)
    TOKENIZER.save(tmp_path)
    assert handloom.load(tmp_path, lambda note: None).tokenizer.fingerprint == TOKENIZER.fingerprint


def test_a_changed_nanogpt_is_refused(tmp_path):
    nanogpt(tmp_path / "ckpt.pt", rotary=True)
    with pytest.raises(CheckpointError, match="model_args has rotary, which nanoGPT's GPT does not know"):
        handloom.load(tmp_path)


def test_a_model_in_a_single_file_goes_on_to_a_hugging_face_folder(tmp_path):
    from handloom.cli.main import main

    nanogpt(tmp_path / "ckpt.pt")
    with pytest.raises(SystemExit) as left:
        main(["export", str(tmp_path / "ckpt.pt"), str(tmp_path / "hf"), "--to", "hf"])
    assert left.value.code == 0
    there = find_model(tmp_path / "ckpt.pt", lambda note: None)
    assert same(find_model(tmp_path / "hf").load_model(), there.load_model())
    assert json.loads((tmp_path / "hf" / "config.json").read_text(encoding="utf-8"))["activation_function"] == "gelu"
