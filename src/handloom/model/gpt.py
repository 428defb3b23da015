"""The whole model: tokens -> hidden states -> logits.

`forward(tokens)` is `unembed(hidden(tokens))`, always. That one split serves decoding (only the
last position needs logits), the chunked loss, and reading half-finished thoughts of inner layers.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from handloom.errors import ModelError
from handloom.model.attention import Attention, segment_mask, segment_offsets
from handloom.model.block import Block
from handloom.model.config import GPTConfig
from handloom.model.embedding import Embedding, TiedHead
from handloom.model.kv_cache import KVCache


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
        segments: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """The final hidden states.

        Args:
            tokens: (B, T) int64.
            cache: what was read before; these tokens are added to it.
            segments: (B, T) int64, which of several texts in the row each token belongs to. Texts do not see
                each other, and each begins at position 0. Not together with a cache.
            lengths: (B) int64, how many tokens at the beginning of each row are no padding. What is said of padding
                means nothing, so that a reader may leave it out. This one does not need to know.

        Returns:
            (B, T, C), after the final LayerNorm.

        Raises:
            ModelError: when the tokens do not fit the context, or are not (B, T).
        """
        self._check(tokens, 0 if cache is None else cache.length)
        if cache is None:
            return self.above(self.below(tokens, 0, segments), 0, segments)
        cache.require_room(tokens.shape[1])
        x = self.embedding(tokens, cache.start)  # (B, T, C)
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x = block(x, layer)  # (B, T, C)
        return self.final_norm(x)  # (B, T, C)

    def below(self, tokens: Tensor, layer: int, segments: Tensor | None = None) -> Tensor:
        """What block `layer` is given to read: the embeddings and the blocks before it. (B, T) -> (B, T, C)."""
        mask = None if segments is None else segment_mask(segments)
        x = self.embedding(tokens, 0 if segments is None else segment_offsets(segments))  # (B, T, C)
        for block in self.blocks[:layer]:
            x = block(x, mask=mask)  # (B, T, C)
        return x

    def above(self, x: Tensor, layer: int, segments: Tensor | None = None) -> Tensor:
        """The final hidden states, from what block `layer` is given: (B, T, C) -> (B, T, C)."""
        mask = None if segments is None else segment_mask(segments)
        for block in self.blocks[layer:]:
            x = block(x, mask=mask)  # (B, T, C)
        return self.final_norm(x)  # (B, T, C)

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
            raise ModelError("The model knows no labels.", "Tune one: handloom finetune --task classify --data FILE.")
        return self.classifier(hidden)  # (..., labels)

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """tokens (B, T) int64 -> logits (B, T, V): at each position, the scores of the next token."""
        return self.unembed(self.hidden(tokens, cache))

    def use_fused_attention(self, fused: bool | None) -> None:
        """Choose between PyTorch's attention kernel and the spelled-out softmax; None: whichever is quicker."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.fused = fused

    def set_dropout(self, probability: float) -> None:
        """Drop activations with that probability while training, at every place where GPT-2 does."""
        self.config = dataclasses.replace(
            self.config, dropout=probability, embedding_dropout=None, attention_dropout=None, residual_dropout=None
        )
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = probability
            elif isinstance(module, Attention):
                module.dropout = probability

    def untie_embeddings(self) -> None:
        """Give a tied head its own copy of the token embedding; the scores stay what they are."""
        if not isinstance(self.lm_head, TiedHead):
            return
        embedding = self.lm_head.weight
        self.config = dataclasses.replace(self.config, tie_embeddings=False)
        with torch.device("meta"):
            self.lm_head = nn.Linear(self.config.embed_dim, self.config.vocab_size, bias=False)
        self.lm_head.weight = nn.Parameter(embedding.detach().clone())

    def add_classification_head(self, labels: tuple[str, ...], seed: int) -> None:
        """Give the model a fresh head that tells texts apart by these labels, drawn as its matrices are."""
        self.config = dataclasses.replace(self.config, label_names=labels)
        self.classifier = nn.Linear(self.config.embed_dim, len(labels), bias=False)
        nn.init.normal_(self.classifier.weight, 0.0, 0.02, torch.Generator().manual_seed(seed))

    def _check(self, tokens: Tensor, start: int) -> None:
        if tokens.ndim != 2 or tokens.shape[1] == 0:
            raise ModelError(
                f"The model takes tokens of shape (B, T) with T at least 1, and got {tuple(tokens.shape)}.",
                "For a single sequence use tokens[None, :].",
            )
        if tokens.is_meta:
            return
        low, high = tokens.aminmax()
        if tokens.is_floating_point() or low < 0 or high >= self.config.vocab_size:
            raise ModelError(
                f"The tokens reach from {low} to {high} ({tokens.dtype}); the model knows the whole numbers from 0 to "
                f"{self.config.vocab_size - 1}.",
                "Encode the text with the model's own tokenizer.",
            )
        if start + tokens.shape[1] > self.config.context_length:
            raise ModelError(
                f"{start + tokens.shape[1]} tokens do not fit the model's context of {self.config.context_length}.",
                "Shorten the text, or generate with the overflow policy `slide`.",
            )
