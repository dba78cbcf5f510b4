"""The torch engine on NVIDIA GPUs: Triton kernels, CUDA graphs and asynchronous steps."""
