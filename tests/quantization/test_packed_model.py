"""A packed model against the modules that it is made of, and against the model that was packed."""

import copy
import dataclasses
import pickle
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handloom.errors import ConfigError
from handloom.finetuning import lora
from handloom.inference.engine import Engine
from handloom.inference.generation_config import GenerationConfig
from handloom.inspection.hooks import record
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.model.surgery import linear_layers
from handloom.native import library as native
from handloom.quantization.packed import DecodePlan, PackedGPT, pack_model, with_native_steps
from handloom.quantization.packing import BITS
from handloom.quantization.precision import described, precision_of, resolve_precision, set_precision

SHAPES = {
    "tied": GPTConfig(vocab_size=311, context_length=48, layers=2, heads=4, embed_dim=64),
    "odd widths": GPTConfig(
        vocab_size=97, context_length=40, layers=3, heads=3, embed_dim=51, ffn_dim=77, activation="relu"
    ),
    "own head": GPTConfig(
        vocab_size=120, context_length=40, layers=2, heads=2, embed_dim=32, tie_embeddings=False, activation="gelu",
        scale_attention_by_inverse_layer=True,
    ),
}  # fmt: skip
LIMITS = {"fp32": 2e-6, "fp16": 2e-3, "int8": 0.06, "int4": 0.5}
"""How far the logits of these random models may be from float32, as a part of the largest."""


def model_of(config, seed=0):
    model, generator = GPT(config, seed).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():  # no bias of 0 and no scale of 1, which would hide a mistake
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def ragged(model, lengths, seed=1):
    """A cache whose rows have these lengths."""
    tokens = torch.randint(
        0, model.config.vocab_size, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed)
    )
    cache = model.new_cache(len(lengths))
    model.hidden(tokens, cache)
    cache.lengths[:] = lengths
    return cache


@pytest.mark.skipif(native.available() is None, reason="there is no C compiler")
@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_one_native_call_is_the_modules(shape, kind):
    """Layer by layer: keys and values of every block, and the logits, for rows of different lengths."""
    config = SHAPES[shape]
    packed, plain = pack_model(model_of(config), kind), model_of(config)
    lengths = [7, 1, 5]
    native_cache, module_cache, plain_cache = (ragged(model, lengths) for model in (packed, packed, plain))
    for step in range(4):
        tokens = torch.randint(0, config.vocab_size, (3, 1), generator=torch.Generator().manual_seed(step))
        assert packed._plan(tokens, native_cache) is not None
        found = packed.next_logits(tokens, native_cache)
        wanted = GPT.next_logits(packed, tokens, module_cache)
        exact = plain.next_logits(tokens, plain_cache)
        torch.testing.assert_close(found, wanted, atol=2e-6 * float(wanted.abs().max()), rtol=1e-4)
        assert float((found - exact).abs().max() / exact.abs().max()) < LIMITS[kind]
    assert native_cache.lengths == module_cache.lengths == [11, 5, 9]
    for ours, theirs in zip(native_cache.layers, module_cache.layers, strict=True):
        for row, length in enumerate(native_cache.lengths):
            torch.testing.assert_close(ours.keys[row, :, :length], theirs.keys[row, :, :length], atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(
                ours.values[row, :, :length], theirs.values[row, :, :length], atol=2e-5, rtol=1e-4
            )


@pytest.mark.parametrize("kind", BITS)
@torch.inference_mode()
def test_forward_is_unembed_of_hidden(kind):
    packed = pack_model(model_of(SHAPES["tied"]), kind)
    tokens = torch.arange(10)[None]
    assert torch.equal(packed(tokens), packed.unembed(packed.hidden(tokens)))


@pytest.mark.parametrize("kind", BITS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_tokens_of_a_text_do_not_depend_on_the_others(kind, data):
    packed = MODELS.setdefault(kind, pack_model(model_of(SHAPES["tied"]), kind))
    count = data.draw(st.integers(2, 20))
    prompts = [data.draw(st.lists(st.integers(0, 310), min_size=1, max_size=9)) for _ in range(count)]
    config = GenerationConfig(max_new_tokens=6, temperature=0.8, seed=4)
    together = _tokens(packed, prompts, config)
    place = data.draw(st.integers(0, count - 1))
    assert together[place] == _tokens(packed, [prompts[place]], config)[0]


MODELS: dict = {}


def _tokens(model, prompts, config):
    engine = Engine(model)
    requests = [engine.add(prompt, config) for prompt in prompts]
    found = {request: [] for request in requests}
    for event in engine.run():
        found[event.request].append(event.token)
    return [found[request] for request in requests]


@torch.inference_mode()
def test_a_hook_sees_what_the_modules_compute():
    packed = pack_model(model_of(SHAPES["tied"]), "int8")
    cache = ragged(packed, [3])
    tokens = torch.tensor([[5]])
    with record(packed, "blocks.0.resid_mid") as found:
        packed.next_logits(tokens, cache)
    assert found["blocks.0.resid_mid"].shape == (1, 1, 64)


@torch.inference_mode()
def test_a_copy_and_a_pickle_compute_the_same():
    packed = pack_model(model_of(SHAPES["tied"]), "int4")
    tokens = torch.tensor([[5]])
    wanted = packed.next_logits(tokens, ragged(packed, [3]))
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert torch.equal(other.next_logits(tokens, ragged(other, [3])), wanted)


@torch.inference_mode()
def test_wrong_tokens_never_reach_the_kernels():
    packed = pack_model(model_of(SHAPES["tied"]), "int8")
    for token in (-1, 311, 2**40):
        cache = ragged(packed, [3])
        with pytest.raises(IndexError):
            packed.next_logits(torch.tensor([[token]]), cache)
        assert cache.lengths == [3]


@pytest.mark.parametrize("kind", BITS)
@torch.inference_mode()
def test_without_a_compiler_the_same_numbers_come_from_pytorch(kind, monkeypatch):
    packed = pack_model(model_of(SHAPES["odd widths"]), kind)
    tokens = torch.tensor([[5]])
    wanted = packed.next_logits(tokens, ragged(packed, [3]))
    monkeypatch.setattr(native, "available", lambda: None)
    found = packed.next_logits(tokens, ragged(packed, [3]))
    # A rounded input may fall to the other side, where it is half-way between two.
    torch.testing.assert_close(found, wanted, atol=1e-5 if BITS[kind] > 8 else 0.02, rtol=1e-4)


def test_a_packed_model_is_smaller():
    config = GPTConfig(vocab_size=2048, context_length=64, layers=2, heads=2, embed_dim=128)
    sizes = {}
    for kind in BITS:
        packed = pack_model(GPT(config), kind)
        buffers = {buffer.data_ptr(): buffer.nbytes for buffer in packed.buffers()}
        sizes[kind] = sum(buffers.values())
    assert sizes["fp16"] < 0.51 * sizes["fp32"]
    assert sizes["int8"] < 0.28 * sizes["fp32"]
    assert sizes["int4"] < sizes["int8"]


def transposed(model):
    """The matrices of the blocks the other way round in memory, as a folder of GPT-2 has them."""
    for _, layer in linear_layers(model):
        layer.weight.data = layer.weight.data.t().contiguous().t()
    return model


@pytest.mark.skipif(native.available() is None, reason="there is no C compiler")
@pytest.mark.parametrize("arrange", [lambda model: model, transposed], ids=["rows", "columns"])
@pytest.mark.parametrize("shape", SHAPES)
def test_steps_in_float32_agree_with_the_modules(shape, arrange, monkeypatch):
    model = arrange(model_of(SHAPES[shape]))
    fast = set_precision(model, "fp32")
    assert described(fast) == f"fp32 weights, C kernels ({native.available().variant})"
    calls, step = [], DecodePlan.step
    monkeypatch.setattr(DecodePlan, "step", lambda self, *given: calls.append(0) or step(self, *given))
    for _ in range(2):
        tokens = torch.randint(0, model.config.vocab_size, (3, 1))
        caches = [ragged(one, [5, 9, 2]) for one in (model, fast)]
        with torch.inference_mode():
            for _ in range(3):
                wanted, found = model.next_logits(tokens, caches[0]), fast.next_logits(tokens, caches[1])
                torch.testing.assert_close(found, wanted, rtol=0, atol=float(2e-6 * wanted.abs().max()))
            assert torch.equal(fast(tokens), model(tokens))  # all else is what it was, to the bit
        with torch.no_grad():
            for parameter in model.parameters():  # the same ones: what changes them is seen
                parameter.mul_(1.3)
    assert len(calls) == 6


@pytest.mark.skipif(native.available() is None, reason="there is no C compiler")
def test_a_model_that_is_changed_after_a_step_is_looked_at_again():
    """Even where the next cache lies at the addresses of the one before."""
    model = with_native_steps(transposed(model_of(SHAPES["tied"])))
    plain, tokens = transposed(model_of(SHAPES["tied"])), torch.tensor([[3]])
    _next(model, tokens)
    with torch.no_grad():
        for one in (model, plain):
            one.blocks[0].feedforward.up.weight.mul_(1.5)
    before = _next(model, tokens)
    torch.testing.assert_close(before, _next(plain, tokens), rtol=0, atol=1e-5)
    for one in (model, plain):
        lora.add_adapter(one, lora.LoRAConfig(r=2), seed=0)
        with torch.no_grad():
            for _, layer in lora.adapter_layers(one, "adapter").items():
                for parameter in layer.parameters():
                    parameter.fill_(0.1)
    after = _next(model, tokens)
    assert torch.equal(after, _next(plain, tokens))  # both through their modules
    assert (after - before).abs().max() > 1e-2
    lora.unload(model)
    found = []
    with model.blocks[0].attention.qkv.register_forward_hook(lambda *given: found.append(given)):
        _next(model, tokens)
    assert len(found) == 1


@torch.inference_mode()
def _next(model, tokens):
    return model.next_logits(tokens, model.new_cache(len(tokens)))


@pytest.mark.skipif(native.available() is None, reason="there is no C compiler")
def test_gradients_adapters_and_other_parts_take_the_modules(monkeypatch):
    monkeypatch.setattr(DecodePlan, "step", lambda *given: pytest.fail("a native step"))
    model = with_native_steps(model_of(SHAPES["tied"]))
    tokens = torch.tensor([[3], [4]])
    model.next_logits(tokens, model.new_cache(2)).sum().backward()
    assert model.blocks[0].attention.qkv.weight.grad is not None
    with torch.inference_mode():
        tuned = with_native_steps(model_of(SHAPES["tied"]))
        lora.add_adapter(tuned, lora.LoRAConfig(r=2), seed=0)
        tuned.next_logits(tokens, tuned.new_cache(2))
        half = with_native_steps(model_of(SHAPES["tied"]).to(torch.bfloat16))
        half.next_logits(tokens, half.new_cache(2))


@pytest.mark.parametrize(("compiler", "wanted"), [(True, "int8"), (False, "fp32")])
def test_auto_is_the_fastest_that_is_there(compiler, wanted, monkeypatch):
    monkeypatch.delenv("HANDLOOM_PRECISION")
    monkeypatch.setattr(native, "available", lambda: "a library" if compiler else None)
    assert resolve_precision("auto") == wanted
    monkeypatch.setenv("HANDLOOM_PRECISION", "int4")
    assert resolve_precision("auto") == "int4"
    assert resolve_precision("fp32") == "fp32"


def test_wrong_names_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="There is no precision 'int9'"):
        set_precision(model_of(SHAPES["tied"]), "int9")
    monkeypatch.setenv("HANDLOOM_PRECISION", "int5")
    with pytest.raises(ConfigError, match="There is no precision 'int5', as HANDLOOM_PRECISION has it") as caught:
        resolve_precision("auto")
    assert "Did you mean int4" in caught.value.remedy or "There are: auto" in caught.value.remedy
    monkeypatch.setattr("handloom.quantization.precision.has_native_bf16", lambda: False)
    with pytest.raises(ConfigError, match="no bfloat16 arithmetic"):
        resolve_precision("bf16")


def test_what_computes_a_model_is_described(monkeypatch):
    packed = pack_model(model_of(SHAPES["tied"]), "int8")
    library = native.available()
    if library is not None:
        assert described(packed) == f"int8 weights, C kernels ({library.variant})"
    monkeypatch.setattr(native, "available", lambda: None)
    monkeypatch.setattr(native, "why_unavailable", lambda: "there is no C compiler (cc)")
    assert described(packed) == "int8 weights, PyTorch, since there is no C compiler (cc)"
    assert described(model_of(SHAPES["tied"])).startswith("fp32, PyTorch")
    assert precision_of(model_of(SHAPES["tied"]).to(torch.bfloat16)) == "bf16"


def test_fp32_is_the_model_itself():
    model = model_of(SHAPES["tied"])
    same = set_precision(model, "fp32")
    assert all(one is other for one, other in zip(same.parameters(), model.parameters(), strict=True))
    assert isinstance(set_precision(model, "int8"), PackedGPT)


@torch.inference_mode()
def test_a_plan_is_of_one_caches_buffers_and_does_not_keep_them():
    packed = pack_model(model_of(SHAPES["tied"]), "int8")
    wanted = {}
    for lengths in ([3], [3, 5], [40]):  # other rows, and other capacities
        cache = packed.new_cache(len(lengths), max(lengths) + 2)
        packed.hidden(torch.arange(len(lengths) * max(lengths)).view(len(lengths), -1) % 311, cache)
        kept = weakref.ref(cache.layers[0].keys.untyped_storage())
        tokens = torch.full((len(lengths), 1), 7)
        wanted[len(wanted)] = packed.next_logits(tokens, cache)
        cache.crop(max(lengths))
        torch.testing.assert_close(GPT.next_logits(packed, tokens, cache), wanted[len(wanted) - 1])
        del cache
    if native.available():
        assert kept() is None


def test_slow_arithmetic_is_said(monkeypatch):
    monkeypatch.setattr(native, "why_unavailable", lambda: "there is no C compiler (cc)")
    notes = []
    set_precision(model_of(SHAPES["tied"]), "int8", notes.append)
    assert len(notes) == 1
    assert "there is no C compiler (cc)" in notes[0]


@torch.inference_mode()
def test_bf16_computes_in_bfloat16_and_generates(monkeypatch):
    """As on a processor that has it; here it is emulated."""
    monkeypatch.setattr("handloom.quantization.precision.has_native_bf16", lambda: True)
    exact, rounded = model_of(SHAPES["tied"]), set_precision(model_of(SHAPES["tied"]), "bf16")
    tokens = torch.arange(12)[None]
    found, wanted = rounded(tokens), exact(tokens)
    assert found.dtype == torch.bfloat16
    assert float((found.float() - wanted).abs().max() / wanted.abs().max()) < 0.05
    for how in ({"temperature": 0}, {"top_p": 0.9, "seed": 1}):
        (ids,) = _tokens(rounded, [[1, 2, 3]], GenerationConfig(max_new_tokens=5, **how))
        assert len(ids) == 5


@pytest.mark.parametrize("kind", BITS)
def test_a_packed_classifier_gives_nearly_the_same_scores(kind):
    config = dataclasses.replace(SHAPES["tied"], label_names=("a", "b", "c"))
    exact, packed = model_of(config), pack_model(model_of(config), kind)
    tokens = torch.arange(9)[None]
    with torch.inference_mode():
        wanted, found = (model.classify_logits(model.hidden(tokens)[:, -1]) for model in (exact, packed))
    assert float((found - wanted).abs().max() / wanted.abs().max()) < LIMITS[kind]
