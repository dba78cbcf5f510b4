"""The embedded PyTorch engine: continuous batching for the Llama family on CPU and CUDA."""

import os

# Before torch is imported: how long OpenMP's threads turn in a circle before they sleep, some 10 µs. By
# default it is milliseconds, which costs nothing on an idle machine, and next to another busy process makes
# every one of a step's hundreds of parallel regions wait for the scheduler: 15 times as long a prefill.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

from trtllm_openai.engines.torch.loader import load

__all__ = ["load"]
