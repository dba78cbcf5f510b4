"""The Llama family's decoder on an NVIDIA GPU, in as few kernels as possible.

A single row uses matrix-vector kernels with a layer's small operations fused in; up to 64 rows use a kernel
with SwiGLU fused in (on Hopper), more rows cuBLAS, with fused kernels between the matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from trtllm_openai.engines.torch.cuda.kernels.embedding import embed
from trtllm_openai.engines.torch.cuda.kernels.norm import add_rms_norm
from trtllm_openai.engines.torch.cuda.kernels.rope import rope_and_store
from trtllm_openai.engines.torch.cuda.peers import Peers
from trtllm_openai.engines.torch.cuda.projection import Projection
from trtllm_openai.engines.torch.kv_cache import KVCache
from trtllm_openai.engines.torch.model_config import ModelConfig
from trtllm_openai.engines.torch.parallel import ALONE, Ranks, shard
from trtllm_openai.engines.torch.quantized.packed import LinearWeight, join
from trtllm_openai.engines.torch.rope import rope_tables
from trtllm_openai.engines.torch.weight_source import WeightSource
from trtllm_openai.engines.torch.weights import WHOLE

Attend = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(qkv [rows, heads + 2 kv_heads, dim], a layer's cache) → [rows, heads * dim]"""


@dataclass(frozen=True, slots=True)
class Rows:
    """A step's input, all int32 [rows] on the device.

    `tokens`: negative if the host has not read the token yet; it is then the last token of the sequence whose
    slot number is in `sequences`. `slots`: where keys and values are stored, block * block_size + offset.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    sequences: torch.Tensor


@dataclass(frozen=True, slots=True)
class Layer:
    attention_norm: torch.Tensor
    qkv: Projection
    head_norms: tuple[torch.Tensor, torch.Tensor, float] | None
    attention_out: Projection
    mlp_norm: torch.Tensor
    gate_up: Projection
    down: Projection


class CudaModel:
    """A loaded decoder, or one rank's shard of it. `max_length`: number of supported positions.

    Only rank 0 looks up embeddings and gets logits; the other ranks contribute zeros to the first all-reduce.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: WeightSource,
        max_length: int,
        device: torch.device,
        fp8: bool,
        peers: Peers | None = None,
    ) -> None:
        """`config`: of the whole model. Raises `CheckpointError` if `weights` do not match `config`."""
        ranks = ALONE if peers is None else peers.ranks
        self._config = shard(config, ranks)
        self._peers = peers
        self._eps = config.norm_eps
        shape = (config.vocab_size, config.hidden_size)
        vocabulary = ranks.part(config.vocab_size) if ranks.size > 1 else WHOLE
        self._embedding: torch.Tensor | None = None
        if not ranks.rank:
            self._embedding = weights.take("model.embed_tokens.weight", *shape)
        elif not config.tied_embeddings:
            weights.drop("model.embed_tokens.weight")
        self._layers = [_layer(config, weights, index, fp8, ranks) for index in range(config.layers)]
        self._norm = weights.take("model.norm.weight", config.hidden_size)
        head: LinearWeight
        if config.tied_embeddings:
            weights.drop("lm_head.weight")
            if self._embedding is not None:
                head = self._embedding[vocabulary]
            else:
                head = weights.take("model.embed_tokens.weight", *shape, part=vocabulary)
        else:
            head = weights.linear("lm_head", *shape, part=vocabulary)
        # Not quantized here: the head would lose the most accuracy and save the least.
        self._head = Projection(head, None, self._norm.dtype, fp8=False)
        weights.check_all_taken()
        half = config.head_dim // 2
        cos, sin = rope_tables(config, max_length, torch.float32, device)
        self._tables = cos[:, 0, half:].contiguous(), sin[:, 0, half:].contiguous()

    def __call__(self, rows: Rows, last_tokens: torch.Tensor, cache: KVCache, attend: Attend) -> torch.Tensor:
        """Return the last layer's output [rows, hidden], before the final norm; writes KV to `cache`."""
        x = self._embed(rows, last_tokens)
        if len(x) == 1:
            return self._one(x, rows, cache, attend)
        delta, peers = None, self._peers
        for layer, kv in zip(self._layers, cache.layers, strict=True):
            qkv = layer.qkv.after_norm(x, delta, layer.attention_norm, self._eps, peers)
            delta = layer.attention_out(self._attention(qkv, kv, layer, rows, attend))
            own = layer.gate_up.own_kernel(len(x))
            gate_up = layer.gate_up.after_norm(x, delta, layer.mlp_norm, self._eps, peers, swiglu=own)
            delta = layer.down(gate_up) if own else layer.down.after_swiglu(gate_up)
        if delta is None:
            return x
        return x.add_(delta) if peers is None else peers.add(x, delta)

    def _embed(self, rows: Rows, last_tokens: torch.Tensor) -> torch.Tensor:
        if self._embedding is None:
            x = torch.zeros(
                len(rows.tokens), self._config.hidden_size, dtype=self._norm.dtype, device=self._norm.device
            )
        else:
            x = embed(rows.tokens, rows.sequences, last_tokens, self._embedding)
        return x if self._peers is None else self._peers.sum(x)

    def _one(self, x: torch.Tensor, rows: Rows, cache: KVCache, attend: Attend) -> torch.Tensor:
        for layer, kv in zip(self._layers, cache.layers, strict=True):
            qkv = layer.qkv.one(x, norm=(layer.attention_norm, self._eps))
            attended = self._attention(qkv, kv, layer, rows, attend)
            x = self._add_one(x, layer.attention_out, attended)
            product = layer.gate_up.one(x, norm=(layer.mlp_norm, self._eps), swiglu=True)
            x = self._add_one(x, layer.down, product)
        return x

    def _add_one(self, x: torch.Tensor, projection: Projection, row: torch.Tensor) -> torch.Tensor:
        if self._peers is None:
            return projection.one(row, addend=x)
        return self._peers.add(x, projection.one(row))

    def _attention(
        self, qkv: torch.Tensor, kv: torch.Tensor, layer: Layer, rows: Rows, attend: Attend
    ) -> torch.Tensor:
        config = self._config
        qkv = qkv.view(len(qkv), config.heads + 2 * config.kv_heads, config.head_dim)
        rope_and_store(qkv, kv, rows.positions, rows.slots, self._tables, layer.head_norms)
        return attend(qkv, kv)

    def logits(self, x: torch.Tensor, sample_rows: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits [rows, vocab_size] in the model's dtype, for all or some rows of a call's output.

        With several ranks only rank 0 gets them. Call at most once between two calls of the model.
        """
        part = self._logits(x, sample_rows)
        return part if self._peers is None else self._peers.logits(part)

    def scores(self, x: torch.Tensor, sample_rows: torch.Tensor) -> torch.Tensor:
        """Like `logits`, but on every rank, and any number of times."""
        part = self._logits(x, sample_rows)
        return part if self._peers is None else self._peers.scores(part)

    def _logits(self, x: torch.Tensor, sample_rows: torch.Tensor | None) -> torch.Tensor:
        """Return this rank's columns of the logits."""
        if sample_rows is not None:
            x = x.index_select(0, sample_rows)
        if len(x) == 1:
            return self._head.one(x, norm=(self._norm, self._eps))
        return self._head(add_rms_norm(x, None, self._norm, self._eps))


def _layer(config: ModelConfig, weights: WeightSource, index: int, fp8: bool, ranks: Ranks) -> Layer:
    prefix = f"model.layers.{index}."
    hidden, dim, inner = config.hidden_size, config.head_dim, config.intermediate_size
    q, kv = config.heads * dim, config.kv_heads * dim
    part, q_part, kv_part = WHOLE, WHOLE, WHOLE
    if ranks.size > 1:
        heads, kv_heads = ranks.heads(config.heads), ranks.heads(config.kv_heads)
        q_part = slice(heads.start * dim, heads.stop * dim)
        kv_part = slice(kv_heads.start * dim, kv_heads.stop * dim)
        part = ranks.part(inner)

    def columns(**outputs: tuple[int, slice]) -> Projection:
        """Fuse projections into one column-parallel projection. Either all have a bias or none has."""
        parts = [
            weights.linear(f"{prefix}{_qualified(name)}", size, hidden, part=mine)
            for name, (size, mine) in outputs.items()
        ]
        biases = [
            weights.take(f"{prefix}{_qualified(name)}.bias", size, part=mine)
            for name, (size, mine) in outputs.items()
            if weights.has(f"{prefix}{_qualified(name)}.bias")
        ]
        weight = join(parts, f"{prefix}{{{', '.join(outputs)}}}")
        return Projection(weight, torch.cat(biases) if biases else None, dtype, fp8=fp8)

    def rows(name: str, inputs: int, mine: slice) -> Projection:
        """Create a row-parallel projection. Rank 0 adds the bias."""
        weight = weights.linear(f"{prefix}{_qualified(name)}", hidden, inputs, part=mine, axis=1)
        if isinstance(weight, torch.Tensor):
            weight = weight.contiguous()
        bias = f"{prefix}{_qualified(name)}.bias"
        biases = weights.take(bias, hidden) if weights.has(bias) else None
        return Projection(weight, None if ranks.rank else biases, dtype, fp8=fp8)

    attention_norm = weights.take(f"{prefix}input_layernorm.weight", hidden)
    dtype = attention_norm.dtype
    head_norms = None
    if config.qk_norm:
        head_norms = (
            weights.take(f"{prefix}self_attn.q_norm.weight", dim),
            weights.take(f"{prefix}self_attn.k_norm.weight", dim),
            config.norm_eps,
        )
    return Layer(
        attention_norm=attention_norm,
        qkv=columns(q_proj=(q, q_part), k_proj=(kv, kv_part), v_proj=(kv, kv_part)),
        head_norms=head_norms,
        attention_out=rows("o_proj", q, q_part),
        mlp_norm=weights.take(f"{prefix}post_attention_layernorm.weight", hidden),
        gate_up=columns(gate_proj=(inner, part), up_proj=(inner, part)),
        down=rows("down_proj", inner, part),
    )


def _qualified(name: str) -> str:
    return f"{'mlp' if name in ('gate_proj', 'up_proj', 'down_proj') else 'self_attn'}.{name}"
