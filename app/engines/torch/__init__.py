"""The embedded PyTorch engine: continuous batching for the Llama family on CPU and CUDA."""

from app.engines.torch.loader import load

__all__ = ["load"]
