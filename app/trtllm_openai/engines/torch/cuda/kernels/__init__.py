"""Triton kernels. Each module has one operation: a kernel and its launch function.

Kernel arguments (shapes, strides, pointers) are static, so that CUDA graphs can capture them; inputs that
change per step (lengths, block tables, positions) are read from device memory. tests/gpu checks each kernel
against float64.
"""
