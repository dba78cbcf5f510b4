"""Quantized checkpoints: what their configuration says, how their tensors are packed, and linear weights."""
