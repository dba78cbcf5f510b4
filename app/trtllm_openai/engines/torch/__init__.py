"""The embedded PyTorch engine: continuous batching for the Llama family on CPU and CUDA.

`loader.load` loads one. Importing this package does not import torch, which `guide_trial` does without.
"""

import os

# OpenMP threads spin about 10 µs before they sleep. The default is milliseconds, which is free on an idle
# machine; beside another busy process it makes each of a step's hundreds of parallel regions wait for the OS
# scheduler, and prefill takes 15 times as long. Set at import rather than in `loader.load`: libgomp reads the
# variable once, when the import of torch loads the library, and every module of this package imports torch.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
