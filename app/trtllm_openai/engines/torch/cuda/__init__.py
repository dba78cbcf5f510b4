"""The torch engine's way through an NVIDIA GPU: Triton kernels, CUDA graphs, nothing that waits."""
