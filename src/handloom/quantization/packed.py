"""A GPT that reads each new token by one native call, in float32 or with packed matrices.

Where there is no native part, every layer still computes the same numbers through PyTorch, slowly.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from handloom.model.block import Block
from handloom.model.config import GPTConfig
from handloom.model.embedding import TiedHead
from handloom.model.gpt import GPT
from handloom.model.kv_cache import KVCache
from handloom.model.surgery import linear_layers, replace
from handloom.native import library as native
from handloom.quantization.layers import NativeActivation, PackedEmbedding, PackedLinear
from handloom.quantization.packing import BITS, PackedMatrix, pack


class NativeGPT(GPT):
    """A GPT that reads each new token by one native call, where it can; all else is what its modules compute."""

    def next_logits(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """As `GPT.next_logits`; one native call where each of at most 16 rows reads one token."""
        plan = self._plan(tokens, cache)
        return super().next_logits(tokens, cache) if plan is None else plan.step(tokens, cache)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_last_plan", "_hooks", "_copies")}

    def contiguous_rows(self, weight: Tensor) -> Tensor:
        """The matrix (N, K) row by row: GPT-2's files have it by columns, so that a copy is kept until it changes."""
        if weight.is_contiguous():
            return weight
        copies, version = self.__dict__.setdefault("_copies", {}), 0 if weight.is_inference() else weight._version
        if copies.get(weight.data_ptr(), (weight, None))[1] != version:
            copies[weight.data_ptr()] = (
                weight,
                version,
                weight.contiguous(),
            )  # the original too: its address stays its own
        rows: Tensor = copies[weight.data_ptr()][2]
        return rows

    @cached_property
    def _hooks(self) -> list[dict[int, Any]]:
        """Of all modules, which stay the same while a cache is used: where hooks are registered."""
        return [hooks for module in self.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks)]

    def _plan(self, tokens: Tensor, cache: KVCache) -> DecodePlan | None:
        B, T = tokens.shape
        library = native.available()
        if library is None or T != 1 or B > native.MAX_ROWS or self.training or len(cache) != B:
            return None
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters()):
            return None
        plan: DecodePlan | None = self.__dict__.get("_last_plan")
        if plan is None or not plan.is_for(cache):  # with each new cache the model is looked at again
            self.__dict__.pop("_hooks", None)
            if not self._is_plain():
                return None
            plan = self.__dict__["_last_plan"] = DecodePlan(self, cache, library)
        return None if any(hooks for hooks in self._hooks) else plan  # a hook waits for what a module computes

    def _is_plain(self) -> bool:
        """Whether every part is one that the native step knows, in float32 or packed."""
        known = (nn.Linear, PackedLinear, nn.Embedding, PackedEmbedding, TiedHead)
        parts = [layer for _, layer in linear_layers(self)] + [self.lm_head, self.embedding.token_embedding]
        positions = self.embedding.position_embedding.weight
        return all(type(part) in known for part in parts) and self.dtype == torch.float32 and positions.is_cpu


class PackedGPT(NativeGPT):
    """A GPT whose matrices are packed; for reading, not for training. Made by `pack_model`."""

    precision: str
    """Of the blocks' matrices, one of `packing.BITS`."""


class DecodePlan:
    """The addresses of everything that `decode_step` reads and writes, for one model and the buffers of one cache."""

    def __init__(self, model: NativeGPT, cache: KVCache, library: native.Library) -> None:
        self._cache, self._buffers, self._rows = weakref.ref(cache), _buffers(cache), model.contiguous_rows
        self._lock = threading.Lock()
        self._functions, self._shape = library.functions, (model.config.embed_dim, model.config.vocab_size)
        self._kept: list[Any] = []  # what the addresses lead to, but for the cache's buffers: see `buffers`
        table: nn.Module = model.embedding.token_embedding
        table = table._table[0] if isinstance(table, PackedEmbedding) else table
        blocks = (native.BlockStruct * len(model.blocks))()
        for struct, block, layer in zip(blocks, model.blocks, cache.layers, strict=True):
            assert isinstance(block, Block)
            struct.attention_norm = self._norm(block.attention_norm)
            struct.feedforward_norm = self._norm(block.feedforward_norm)
            struct.qkv, struct.out = self._linear(block.attention.qkv), self._linear(block.attention.out)
            struct.up, struct.down = self._linear(block.feedforward.up), self._linear(block.feedforward.down)
            struct.keys, struct.values = layer.keys.data_ptr(), layer.values.data_ptr()
            struct.scale = block.attention.core.scale
        self._kept.append(blocks)
        c = model.config
        sizes = (c.layers, c.heads, c.embed_dim, c.vocab_size, c.context_length, cache.layers[0].keys.shape[2])
        positions = model.embedding.position_embedding.weight.detach()
        around = (ctypes.addressof(blocks), self._norm(model.final_norm), self._linear(model.lm_head))
        self._model = native.ModelStruct(
            *(*sizes, native.ACTIVATIONS[c.activation], c.norm_eps),
            *(self._linear(table), self._tensor(positions), *around),
        )
        self._work = torch.empty(0, dtype=torch.uint8)

    def is_for(self, cache: KVCache) -> bool:
        """Whether the addresses are still those of this cache. Another one at the same addresses is not this one."""
        return self._cache() is cache and self._buffers == _buffers(cache)

    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """(B, 1) int64, one more token of each row of the cache -> logits (B, V)."""
        B = len(tokens)
        cache.require_room(1)
        hidden, logits = torch.empty(B, self._shape[0]), torch.empty(B, self._shape[1])
        model = ctypes.byref(self._model)
        tokens, lengths = tokens.contiguous(), (ctypes.c_int32 * B)(*cache.lengths)
        with self._lock:  # the working memory is that of one step
            if self._work.numel() < (needed := self._functions.decode_step_bytes(model, B)):
                self._work = torch.empty(needed, dtype=torch.uint8)
            failed = self._functions.decode_step(
                *(model, tokens.data_ptr(), lengths, B, hidden.data_ptr(), logits.data_ptr()),
                *(self._work.data_ptr(), self._work.numel(), torch.get_num_threads()),
            )
        if failed:
            raise IndexError(f"The native step refused its arguments ({failed}): tokens {tokens.flatten().tolist()}.")
        cache.advance(1)
        return logits

    def _linear(self, layer: nn.Module) -> int:
        if isinstance(layer, PackedLinear):
            self._kept.append(layer.matrix)
            struct = layer.struct()
        else:
            rows, bias = self._rows(layer.get_parameter("weight").detach()), getattr(layer, "bias", None)
            addresses = (self._tensor(rows), None, None if bias is None else self._tensor(bias.detach()))
            struct = native.LinearStruct(*addresses, BITS["fp32"], rows.shape[1], rows.shape[0])
        self._kept.append(struct)
        return ctypes.addressof(struct)

    def _norm(self, norm: nn.Module) -> native.NormStruct:
        return native.NormStruct(self._tensor(norm.weight), self._tensor(norm.bias))

    def _tensor(self, tensor: Any) -> int:
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        self._kept.append(tensor)
        address: int = tensor.data_ptr()
        return address


def _buffers(cache: KVCache) -> list[int]:
    """Which buffers a cache has: their length, and where they are."""
    places = [buffer.data_ptr() for layer in cache.layers for buffer in (layer.keys, layer.values)]
    return [cache.layers[0].keys.shape[2], *places]


def with_native_steps(model: GPT) -> NativeGPT:
    """The same model, with its parameters shared, that reads each new token by one native call."""
    found = NativeGPT.__new__(NativeGPT)
    found.__dict__.update(model.__dict__)
    return found


@torch.no_grad()
def pack_model(model: GPT, precision: str, on_packed: Callable[[Tensor], None] = lambda weight: None) -> PackedGPT:
    """The model with its matrices packed: those of the blocks in `precision`, head and embedding in 8 bits for int4.

    The model given is taken apart, one matrix after the other, so that both never fill the memory; `on_packed` is
    called with each matrix that is not needed any more.
    """

    def layer(path: str, old: nn.Module, precision: str) -> PackedLinear:
        weight = old.get_parameter("weight")
        packed = PackedLinear(pack(weight, precision), getattr(old, "bias", None))
        on_packed(weight)
        return packed

    return _with_layers(model, precision, layer)


def restore_model(config: GPTConfig, precision: str, tensors: dict[str, Tensor]) -> PackedGPT:
    """The inverse of `PackedGPT.state_dict`: the tensors themselves become the model's, without a copy.

    Raises:
        KeyError: for a tensor that is missing, or one too many.
    """
    with torch.device("meta"):
        model = GPT(config)

    def layer(path: str, old: nn.Module, precision: str) -> PackedLinear:
        weight, scales = tensors[f"{path}.packed_weight"], tensors.get(f"{path}.packed_scales")
        outputs, inputs = old.get_parameter("weight").shape
        matrix = PackedMatrix(precision, weight, scales, outputs=outputs, inputs=inputs)
        return PackedLinear(matrix, tensors.get(f"{path}.bias"))

    packed = _with_layers(model, precision, layer)
    if differing := packed.state_dict().keys() ^ tensors.keys():
        raise KeyError(min(differing))
    packed.load_state_dict(tensors, assign=True)
    return packed.requires_grad_(False)


def _with_layers(model: GPT, precision: str, layer: Callable[[str, nn.Module, str], PackedLinear]) -> PackedGPT:
    """The model with what `layer` makes of each linear layer, by its path and precision, in the place of it."""
    packed = PackedGPT.__new__(PackedGPT)
    packed.__dict__.update(model.__dict__)
    packed.precision, tied = precision, isinstance(model.lm_head, TiedHead)
    of_table = "int8" if precision == "int4" else precision
    for path, old in list(linear_layers(packed)):
        replace(packed, path, layer(path, old, precision))
    for block in range(len(packed.blocks)):
        path = f"blocks.{block}.feedforward.activation"
        replace(packed, path, NativeActivation(model.config.activation, packed.get_submodule(path)))
    table = layer("lm_head" if tied else "embedding.token_embedding.table", packed.embedding.token_embedding, of_table)
    packed.lm_head = table if tied else layer("lm_head", packed.lm_head, of_table)
    replace(packed, "embedding.token_embedding", PackedEmbedding(table, tied))
    return packed.requires_grad_(False).eval()
