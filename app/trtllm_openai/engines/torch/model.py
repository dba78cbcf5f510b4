"""The Llama family's decoder: computes logits from the token ids of a batch.

Touvron et al., "LLaMA" (https://arxiv.org/abs/2302.13971). Mistral and Qwen 2 differ only in configuration
and biases; Qwen 3 applies RMSNorm to each q and k head. Quantized weights are expanded to the model's dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from trtllm_openai.engines.torch.attention import attend
from trtllm_openai.engines.torch.batch import Batch
from trtllm_openai.engines.torch.kv_cache import KVCache, store
from trtllm_openai.engines.torch.linear import Int8Inputs, Linear, Quantization, make_linear, padded_rows
from trtllm_openai.engines.torch.model_config import ModelConfig
from trtllm_openai.engines.torch.parallel import ALONE, Ranks, shard
from trtllm_openai.engines.torch.quantized.packed import dense
from trtllm_openai.engines.torch.rope import apply_rope, rope_tables
from trtllm_openai.engines.torch.weight_source import WeightSource


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one decoder layer."""

    attention_norm: torch.Tensor
    qkv: Linear
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    attention_out: Linear
    mlp_norm: torch.Tensor
    gate: Linear
    up: Linear
    down: Linear


class Model:
    """A loaded decoder, or one rank's shard of it. `max_length`: number of supported positions."""

    def __init__(
        self,
        config: ModelConfig,
        weights: WeightSource,
        max_length: int,
        dtype: torch.dtype,
        device: torch.device,
        ranks: Ranks = ALONE,
        quantization: Quantization = "none",
    ) -> None:
        """Raises `CheckpointError` if `weights` do not match `config`."""
        self._config = shard(config, ranks)
        self._ranks = ranks
        self._vocabulary = ranks.part(config.vocab_size)
        shape = (config.vocab_size, config.hidden_size)
        self._embedding = weights.take("model.embed_tokens.weight", *shape, part=self._vocabulary)
        inputs = Int8Inputs()
        self._layers = [
            _layer(config, weights, index, dtype, ranks, quantization, inputs)
            for index in range(config.layers)
        ]
        self._norm = weights.take("model.norm.weight", config.hidden_size)
        if config.tied_embeddings:
            weights.drop("lm_head.weight")
            head = self._embedding
        else:
            head = dense(weights.linear("lm_head", *shape, part=self._vocabulary), dtype)
        self._head = make_linear(head, None, quantization, inputs)
        weights.check_all_taken()
        self._cos, self._sin = rope_tables(config, max_length, dtype, device)

    def __call__(
        self, batch: Batch, cache: KVCache, between: Callable[[], None] | None = None
    ) -> torch.Tensor:
        """Return the last layer's output [rows, hidden]; writes keys and values of all rows to `cache`.

        `between`: called before each layer; it may compute another batch, of other sequences.
        """
        config = self._config
        rows = len(batch.token_ids)
        heads, kv_heads, dim = config.heads, config.kv_heads, config.head_dim
        cos = self._cos.index_select(0, batch.positions)
        sin = self._sin.index_select(0, batch.positions)
        x = self._embed(batch.token_ids)
        for layer, kv in zip(self._layers, cache.layers, strict=True):
            if between is not None:
                between()
            qkv = layer.qkv(self._rms_norm(x, layer.attention_norm)).view(rows, heads + 2 * kv_heads, dim)
            if layer.q_norm is not None and layer.k_norm is not None:
                qkv[:, :heads] = self._rms_norm(qkv[:, :heads], layer.q_norm)
                qkv[:, heads:-kv_heads] = self._rms_norm(qkv[:, heads:-kv_heads], layer.k_norm)
            apply_rope(qkv[:, :-kv_heads], cos, sin)
            store(kv, batch.slots, qkv[:, heads:].view(rows, 2, kv_heads, dim))
            x = self._add(layer.attention_out, attend(qkv, kv, batch, heads), x)
            normed = self._rms_norm(x, layer.mlp_norm)
            x = self._add(layer.down, layer.up.times(normed, layer.gate.silu(normed)), x)
        return x

    def logits(self, x: torch.Tensor, sample_rows: torch.Tensor) -> torch.Tensor:
        """Return float32 logits [len(sample_rows), vocab_size] for rows of `x`, the output of a call."""
        wanted = len(sample_rows)
        sample_rows = F.pad(sample_rows, (0, padded_rows(wanted) - wanted))
        last = self._rms_norm(x.index_select(0, sample_rows), self._norm)
        return self._ranks.join(self._head(last)[:wanted], self._config.vocab_size).float()

    def _embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        if self._ranks.size == 1:
            return F.embedding(token_ids, self._embedding)
        local = token_ids - self._vocabulary.start
        mine = (local >= 0) & (local < len(self._embedding))
        rows = F.embedding(local.where(mine, 0), self._embedding)
        return self._ranks.sum(rows.masked_fill_(~mine.unsqueeze(1), 0))

    def _add(self, linear: Linear, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return linear(x) + residual for a row-parallel `linear`, all-reduced over the ranks."""
        return self._ranks.sum(linear(x) if self._ranks.rank else linear.plus(x, residual))

    def _rms_norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, weight.shape, weight, self._config.norm_eps)


def _layer(
    config: ModelConfig,
    weights: WeightSource,
    index: int,
    dtype: torch.dtype,
    ranks: Ranks,
    quantization: Quantization,
    inputs: Int8Inputs,
) -> Layer:
    prefix = f"model.layers.{index}."
    hidden, dim, inner = config.hidden_size, config.head_dim, config.intermediate_size
    q, kv = ranks.heads(config.heads), ranks.heads(config.kv_heads)
    heads = slice(q.start * dim, q.stop * dim)
    kv_heads = slice(kv.start * dim, kv.stop * dim)
    part = ranks.part(inner)

    def columns(wanted: dict[str, tuple[int, slice]]) -> Linear:
        """Fuse projections into one column-parallel linear layer. Either all have a bias or none has."""
        names = {f"{prefix}{name}": given for name, given in wanted.items()}
        matrix = [
            dense(weights.linear(n, size, hidden, part=mine), dtype) for n, (size, mine) in names.items()
        ]
        bias = None
        if weights.has(f"{next(iter(names))}.bias"):
            bias = [weights.take(f"{n}.bias", size, part=mine) for n, (size, mine) in names.items()]
        return make_linear(_join(matrix), None if bias is None else _join(bias), quantization, inputs)

    def rows(name: str, width: int, mine: slice) -> Linear:
        """Create a row-parallel linear layer; its outputs must be all-reduced. Rank 0 adds the bias."""
        matrix = dense(weights.linear(f"{prefix}{name}", hidden, width, part=mine, axis=1), dtype)
        bias = weights.take(f"{prefix}{name}.bias", hidden) if weights.has(f"{prefix}{name}.bias") else None
        return make_linear(matrix, None if ranks.rank else bias, quantization, inputs)

    def head_norm(name: str) -> torch.Tensor | None:
        return weights.take(f"{prefix}self_attn.{name}.weight", dim) if config.qk_norm else None

    all_kv = config.kv_heads * dim
    return Layer(
        attention_norm=weights.take(f"{prefix}input_layernorm.weight", hidden),
        qkv=columns(
            {
                "self_attn.q_proj": (config.heads * dim, heads),
                "self_attn.k_proj": (all_kv, kv_heads),
                "self_attn.v_proj": (all_kv, kv_heads),
            }
        ),
        q_norm=head_norm("q_norm"),
        k_norm=head_norm("k_norm"),
        attention_out=rows("self_attn.o_proj", config.heads * dim, heads),
        mlp_norm=weights.take(f"{prefix}post_attention_layernorm.weight", hidden),
        gate=columns({"mlp.gate_proj": (inner, part)}),
        up=columns({"mlp.up_proj": (inner, part)}),
        down=rows("mlp.down_proj", inner, part),
    )


def _join(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
