"""Rotary position embedding: precomputed tables and their application.

Su et al., "RoFormer" (https://arxiv.org/abs/2104.09864), in the half-split form of transformers.
"""

from __future__ import annotations

import math

import torch

from trtllm_openai.engines.torch.model_config import Llama3Scaling, ModelConfig


def rope_tables(
    config: ModelConfig, positions: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos and signed sin, each [positions, 1, head_dim]; see `apply_rope` for the sign."""
    dim = config.head_dim
    frequencies = 1.0 / (config.rope_theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    if config.llama3_scaling is not None:
        frequencies = _llama3(frequencies, config.llama3_scaling)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies / config.rope_factor)
    cos, sin = angles.cos(), angles.sin()
    tables = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
    return tables[0].unsqueeze(1).to(device, dtype), tables[1].unsqueeze(1).to(device, dtype)


def apply_rope(x: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor) -> None:
    """Rotate `x` [tokens, heads, head_dim] in place.

    (x1, x2) becomes (x1 cos - x2 sin, x2 cos + x1 sin): a roll swaps the halves, the table holds the signs.
    """
    rolled = x.roll(x.shape[-1] // 2, -1)
    torch.addcmul(x * cos, rolled, signed_sin, out=x)


def _llama3(frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    """Scale long wavelengths by `factor`, keep short ones, interpolate in between."""
    wavelengths = 2 * math.pi / frequencies
    smooth = (scaling.original_context / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    smooth = smooth.clamp(0, 1)
    return (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
