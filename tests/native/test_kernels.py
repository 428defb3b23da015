"""Every native kernel against PyTorch in float64, over shapes, row counts, odd widths and extreme values."""

import ctypes
import math
import os
import platform
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from handloom.errors import ModelError
from handloom.native import compiling
from handloom.native import library as native
from handloom.quantization.layers import PackedLinear
from handloom.quantization.packing import BITS, pack, unpack

pytestmark = pytest.mark.skipif(native.available() is None, reason="there is no C compiler")
VARIANTS = native.variants() if native.available() else []
ACTIVATIONS = {None: lambda x: x, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "gelu": F.gelu, "relu": F.relu}


def linear(variant, layer, x, activation=None, threads=2):
    out = torch.full((len(x), layer.out_features), math.nan)
    function = native.load_library(variant).functions.linear
    number = native.ACTIVATIONS[activation]
    assert function(ctypes.byref(layer.struct()), x.data_ptr(), len(x), out.data_ptr(), number, threads) == 0
    return out


def as_read(x, bits):
    """The inputs as the kernels see them: whole numbers with a scale for each group, for 8 and 4 bits."""
    if bits >= 16:
        return x.double()
    groups = F.pad(x, (0, -x.shape[1] % 32)).view(len(x), -1, 32)
    scale = groups.abs().amax(2, keepdim=True) / 127
    whole = (groups * (1 / scale.where(scale > 0, torch.ones(())))).round()
    return (whole.double() * scale).view(len(x), -1)[:, : x.shape[1]]


def layer_of(outputs, inputs, kind, seed=0, bias=True):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(outputs, inputs, generator=generator) * 0.1
    return PackedLinear(pack(matrix, kind), torch.randn(outputs, generator=generator) if bias else None)


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("variant", VARIANTS)
@given(
    outputs=st.integers(1, 70),
    inputs=st.integers(1, 130),
    rows=st.integers(1, 37),
    activation=st.sampled_from(list(ACTIVATIONS)),
    bias=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_a_linear_layer_is_its_matrix(variant, kind, outputs, inputs, rows, activation, bias, seed):
    layer = layer_of(outputs, inputs, kind, seed, bias)
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(seed + 1))
    wanted = as_read(x, BITS[kind]) @ layer.weight.double().T + (layer.bias.double() if bias else 0)
    found = linear(variant, layer, x, activation)
    # One unit of a rounded input may fall to the other side: 1/127 of the largest, times the largest weight.
    slack = 1e-5 if BITS[kind] >= 16 else 1e-4
    torch.testing.assert_close(found.double(), ACTIVATIONS[activation](wanted), atol=slack, rtol=1e-5)


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_neither_threads_nor_other_rows_change_a_bit(variant, kind):
    layer, x = layer_of(203, 96, kind), torch.randn(23, 96, generator=torch.Generator().manual_seed(3))
    alone = torch.cat([linear(variant, layer, row[None].contiguous(), "gelu_tanh", threads=1) for row in x])
    for rows in (1, 2, 3, 4, 5, 16, 23):
        for threads in (1, 2, 5):
            assert torch.equal(linear(variant, layer, x[:rows].contiguous(), "gelu_tanh", threads), alone[:rows])


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("value", [0.0, 1e-30, -1e-30, 1e30, 6e4])
def test_extreme_inputs_stay_numbers(variant, kind, value):
    layer = layer_of(19, 64, kind)
    x = torch.full((3, 64), value)
    wanted = x.double() @ layer.weight.double().T + layer.bias
    found = linear(variant, layer, x).double()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * max(1.0, abs(value)))


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_not_hidden(kind, value):
    x = torch.ones(2, 64)
    x[1, 5] = value
    found = linear(None, layer_of(19, 64, kind), x)
    assert found[0].isfinite().all()
    assert not found[1].isfinite().any()


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_the_largest_weights_and_inputs_do_not_overflow(kind):
    """Products of two fit 16 bits only within the limits that packing keeps."""
    matrix = torch.ones(8, 64) * torch.tensor([1.0, -1.0] * 4)[:, None]
    layer = PackedLinear(pack(matrix, kind), None)
    for x in (torch.ones(1, 64), -torch.ones(1, 64), torch.tensor([[1.0, -1.0] * 32])):
        torch.testing.assert_close(linear(None, layer, x), x @ layer.weight.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", BITS)
@given(outputs=st.integers(1, 40), inputs=st.integers(1, 100), size=st.sampled_from([1e-4, 0.02, 300.0]))
@settings(max_examples=30, deadline=None)
def test_unpacking_gives_the_matrix_back_up_to_its_rounding(kind, outputs, inputs, size):
    matrix = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1)) * size
    packed = pack(matrix, kind)
    back = unpack(packed)
    padded, found = (F.pad(one, (0, -inputs % 32)).view(outputs, -1, 32) for one in (matrix, back))
    if kind == "int4":  # the scale is searched: no worse than the plain one, in each group
        extreme = padded.gather(2, padded.abs().argmax(2, keepdim=True)) / -8
        plain = (padded / extreme).round().clamp(-8, 7) * extreme
        errors = [(one - padded).square().sum(2) for one in (found, plain)]
        assert (errors[0] <= 1.01 * errors[1] + 1e-6 * padded.square().sum(2) + 1e-12).all()
    else:
        step = {"fp32": 0.0, "fp16": 2**-11, "int8": 0.51 / 127}[kind]
        assert ((found - padded).abs() <= step * padded.abs().amax(2, keepdim=True) + 1e-7).all()
    rows = torch.tensor([outputs - 1, 0])
    assert torch.equal(unpack(packed, rows), back[rows])


@pytest.mark.parametrize("kind", ["fp16", "int8", "int4"])
@pytest.mark.parametrize("value", [1e9, float("nan"), float("inf")])
def test_a_matrix_that_does_not_fit_the_format_is_refused(kind, value):
    matrix = torch.zeros(9, 40)
    matrix[3, 4] = value
    with pytest.raises(ModelError, match="cannot be packed"):
        pack(matrix, kind)


def test_a_matrix_of_zeros_stays_zero():
    for kind in BITS:
        assert not unpack(pack(torch.zeros(9, 40), kind)).any()


def test_a_child_after_a_fork_computes_as_its_parent():
    """Threads do not survive a fork: the child starts its own."""
    code = """
import os, torch
from handloom.quantization.layers import PackedLinear
from handloom.quantization.packing import pack
torch.set_num_threads(2)
layer, x = PackedLinear(pack(torch.randn(99, 64), "int8"), None), torch.randn(3, 64)
before = layer(x)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(layer(x), before) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def _in_a_new_process(code, **environment):
    """What a process prints in which nothing of the native part is loaded yet."""
    done = subprocess.run(
        [sys.executable, "-c", f"from handloom.native import library as native\n{code}"],
        check=False, timeout=120, capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"HANDLOOM_NATIVE": "0"}, "HANDLOOM_NATIVE is 0"),
        ({"CC": "no-such-compiler"}, "there is no C compiler (no-such-compiler)"),
        ({"CC": "false"}, "false failed: no message"),
        ({"HANDLOOM_CACHE": "/proc/nowhere"}, "its library cannot be kept in the cache"),
        ({"HANDLOOM_CACHE": ""}, "its library cannot be kept in the cache"),
    ],
)
def test_why_there_is_no_native_part_is_said_and_nothing_fails(environment, why):
    printed = _in_a_new_process("print(native.available(), native.why_unavailable())", **environment)
    assert printed.startswith(f"None {why}")


def test_a_failed_build_leaves_nothing_and_an_empty_cc_is_none(tmp_path):
    assert _in_a_new_process("print(native.available().variant)", CC="", HANDLOOM_CACHE=str(tmp_path / "here"))
    built = [path.name for path in (tmp_path / "here" / "native").iterdir()]
    assert len(built) == 1
    _in_a_new_process("native.available()", CC="false", HANDLOOM_CACHE=str(tmp_path / "there"))
    assert list((tmp_path / "there" / "native").iterdir()) == []


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_activations_by_themselves(variant, name):
    x = torch.cat([torch.linspace(-12, 12, 5001), torch.tensor([0.0, -0.0, 1e30, -1e30, math.inf, math.nan])])
    out = torch.empty_like(x)
    function = native.load_library(variant).functions.activation
    function(x.data_ptr(), len(x), out.data_ptr(), native.ACTIVATIONS[name], 2)
    torch.testing.assert_close(out, ACTIVATIONS[name](x.double()).float(), atol=2e-6, rtol=2e-6, equal_nan=True)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of x86-64")
@pytest.mark.parametrize("variant", compiling.VARIANTS)
def test_every_variant_compiles_without_a_warning(variant):
    """Also those that this processor cannot run."""
    native.build(variant, "-Wall -Wextra -Werror")


def test_the_c_stays_readable():
    lines = [line for path in Path(compiling.SOURCE).glob("*.[ch]") for line in path.read_text("utf-8").splitlines()]
    assert len(lines) <= 900
    assert max(map(len, lines)) <= 120


def test_the_c_and_python_agree_on_the_rows_of_a_step():
    assert f"MAX_ROWS = {native.MAX_ROWS} " in (compiling.SOURCE / "native.h").read_text("utf-8")


@pytest.mark.slow
def test_a_million_calls_stay_within_their_buffers_and_repeat_to_the_bit():
    """Random shapes, row counts, activations, threads and extreme inputs, in random order."""
    generator, functions = random.Random(0), native.load_library().functions
    calls = []
    for seed in range(800):
        kind, rows = generator.choice(list(BITS)), generator.choice([1, 1, 1, 2, 3, 4, 5, 16, 17])
        layer = layer_of(generator.randint(1, 40), generator.randint(1, 100), kind, seed, bias=generator.random() < 0.7)
        x = torch.randn(rows, layer.in_features) * generator.choice([0, 1e-30, 1e-3, 1, 1e4])
        around = torch.full((rows * layer.out_features + 32,), math.pi)
        out = around[16:-16]
        arguments = (ctypes.byref(layer.struct()), x.data_ptr(), rows, out.data_ptr(), generator.randint(0, 3))
        assert functions.linear(*arguments, 1) == 0
        assert out.isfinite().all()
        calls.append((arguments, around, around.clone(), layer, x))
    for number in range(1_000_000):
        arguments, around, expected, *_ = generator.choice(calls)
        if number % 50 == 0:
            around[16:-16] = math.nan
        functions.linear(*arguments, generator.choice([1, 1, 1, 2]))
        if number % 50 == 0:
            assert torch.equal(around, expected)
    assert all(torch.equal(around, expected) for _, around, expected, *_ in calls)


@pytest.mark.slow
def test_kernels_under_the_address_and_undefined_behaviour_sanitizers(tmp_path):
    """Every kernel in a process of its own, where each read and write is checked."""
    path = native.build(native.variants()[0], "-g -fsanitize=address,undefined -fno-sanitize-recover=all")
    code = f"""
import ctypes, torch
from handloom.errors import ModelError
from handloom.native import compiling
from handloom.native import library as native
functions = ctypes.CDLL({str(path)!r})
native.with_types(functions)
from handloom.quantization.layers import PackedLinear
from handloom.quantization.packing import BITS, pack
for kind in BITS:
    for outputs, inputs in ((1, 1), (8, 32), (9, 33), (70, 131), (7, 257)):
        layer = PackedLinear(pack(torch.randn(outputs, inputs), kind), torch.randn(outputs))
        for rows in (1, 2, 3, 4, 5, 33):
            x, out = torch.randn(rows, inputs), torch.empty(rows, outputs)
            for activation in range(4):
                functions.linear(ctypes.byref(layer.struct()), x.data_ptr(), rows, out.data_ptr(), activation, 2)
found = native.Library("sanitized", None, native.with_types(functions))
native.available = lambda: found
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.quantization.packed import pack_model
for kind in BITS:
    model = pack_model(GPT(GPTConfig(layers=2, heads=3, embed_dim=21, context_length=19, vocab_size=77)).eval(), kind)
    for rows in (1, 3, 16):
        cache = model.new_cache(rows)
        with torch.inference_mode():
            for _ in range(19):
                assert model.next_logits(torch.randint(0, 77, (rows, 1)), cache).isfinite().all()
"""
    library = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = {"LD_PRELOAD": library.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0", "PATH": "/usr/bin:/bin"}
    found = subprocess.run(
        [sys.executable, "-c", code], check=False, timeout=600, env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("kind", BITS)
def test_a_large_matrix_is_packed_in_parts_and_is_the_same(kind):
    matrix = torch.randn(2061, 40, generator=torch.Generator().manual_seed(1))
    whole = unpack(pack(matrix, kind))
    assert whole.shape == matrix.shape
    for first in (0, 1016, 1024, 2048):
        assert torch.equal(whole[first : first + 8], unpack(pack(matrix[first : first + 8], kind)))
