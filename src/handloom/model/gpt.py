"""The whole model: tokens -> hidden states -> logits.

`forward(tokens)` is `unembed(hidden(tokens))`, always. That one split serves decoding (only the last position needs
logits), the chunked loss, and the logit lens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from handloom.errors import ModelError
from handloom.model.attention import segment_mask, segment_offsets
from handloom.model.block import Block
from handloom.model.config import GPTConfig
from handloom.model.embedding import Embedding, TiedHead
from handloom.model.kv_cache import KVCache, LayerCache


class GPT(nn.Module):
    """A GPT-2 style decoder-only Transformer.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".

    Args:
        config: its shape.
        seed: of the initial weights; the same seed gives the same weights.
    """

    def __init__(self, config: GPTConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.final_norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.lm_head: nn.Module = TiedHead(self.embedding)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.embed_dim, config.vocab_size, bias=False)
        self.classifier = None
        if config.label_names:
            self.classifier = nn.Linear(config.embed_dim, len(config.label_names), bias=False)
        self.initialize(seed)

    @torch.no_grad()
    def initialize(self, seed: int = 0) -> None:
        """Draw fresh weights.

        What                                          Drawn from
        matrices and embeddings                       normal, mean 0, deviation 0.02
        matrices that write into the residual stream  the same, divided by sqrt(2 * layers)
        biases                                        0
        LayerNorm                                     scale 1, shift 0

        The division keeps the residual stream's variance from growing with depth (GPT-2 paper, section 2.3).
        """
        generator = torch.Generator().manual_seed(seed)
        residual = 0.02 / math.sqrt(2 * self.config.layers)
        for name, parameter in self.named_parameters():
            if parameter.is_meta:
                continue
            if parameter.ndim == 2:
                writes_residual = name.endswith(("attention.out.weight", "feedforward.down.weight"))
                parameter.normal_(0.0, residual if writes_residual else 0.02, generator=generator)
            else:
                parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where tensors for them belong."""
        return self.final_norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the residual stream, and so of keys and values."""
        return self.final_norm.weight.dtype

    def hidden(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        segment_ids: Tensor | None = None,
        *,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
    ) -> Tensor:
        """The final hidden states, (B, T, C), after the final LayerNorm.

        Args:
            tokens: (B, T) int64, each from 0 to vocab_size - 1 (`require_ids`).
            cache: what was read before; these tokens are added to it.
            segment_ids: (B, T) int64, which of several texts in the row each token belongs to. Texts do not see
                each other, and each begins at position 0. Not together with a cache.
            start_at_layer: go on from what this block reads, (B, T, C), given in place of tokens.
            stop_at_layer: return what this block would read, (B, T, C), without the final LayerNorm.

        Raises:
            ModelError: when the tokens do not fit the context, or are not (B, T).
        """
        first = 0 if start_at_layer is None else start_at_layer
        if start_at_layer is None:
            self._require_shape(tokens, 0 if cache is None else cache.length)
        mask: Tensor | None = None
        start: int | Tensor = 0
        layers: Sequence[LayerCache | None] = [None] * len(self.blocks)
        if cache is not None:
            cache.require_room(tokens.shape[1])
            mask, start, layers = cache.mask(tokens.shape[1]), cache.next_position, cache.layers
        elif segment_ids is not None:
            mask, start = segment_mask(segment_ids), segment_offsets(segment_ids)  # (B, 1, T, T), (B, T)
        x = self.embedding(tokens, start) if start_at_layer is None else tokens  # (B, T, C)
        for block, layer in list(zip(self.blocks, layers, strict=True))[first:stop_at_layer]:
            x = block(x, layer, mask)  # (B, T, C)
        if cache is not None:
            cache.advance(tokens.shape[1])
        return self.final_norm(x) if stop_at_layer is None else x  # (B, T, C)

    def unembed(self, hidden: Tensor) -> Tensor:
        """(..., C) -> logits (..., V)."""
        logits: Tensor = self.lm_head(hidden)  # (..., V)
        return logits

    def classify_logits(self, hidden: Tensor) -> Tensor:
        """(..., C), the hidden state of a text's last token -> the scores of its labels, (..., labels).

        Raises:
            ModelError: when the model has no labels.
        """
        if self.classifier is None:
            raise ModelError(
                "The model was not trained to classify.", "Train a classifier: `handloom finetune`, `task=classify`."
            )
        return self.classifier(hidden)  # (..., labels)

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """tokens (B, T) int64 -> logits (B, T, V): at each position, the scores of the next token."""
        return self.unembed(self.hidden(tokens, cache))

    def next_logits(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Read tokens (B, T) into the cache -> the logits of what comes after them, (B, V)."""
        return self.unembed(self.hidden(tokens, cache)[:, -1])  # only the last position needs logits

    def new_cache(self, rows: int = 1, capacity: int | None = None) -> KVCache:
        """An empty cache for this model, on its device and in its type."""
        return KVCache(self.config, rows, capacity, dtype=self.dtype, device=self.device)

    def _require_shape(self, tokens: Tensor, start: int) -> None:
        if tokens.ndim != 2 or tokens.shape[1] == 0:
            raise ModelError(
                f"The model takes tokens of shape (B, T) with T at least 1, and got {tuple(tokens.shape)}.",
                "For a single sequence use tokens[None, :].",
            )
        if start + tokens.shape[1] > self.config.context_length:
            raise ModelError(
                f"{start + tokens.shape[1]} tokens do not fit the model's context of {self.config.context_length}.",
                "Shorten the text, or generate with `overflow=slide`.",
            )
