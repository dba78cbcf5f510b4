"""The embedded PyTorch engine: continuous batching for the Llama family on CPU and CUDA."""
