"""Triton kernels. Each module has one operation: its kernel and the function that launches it.

All of them take shapes, strides and pointers that a CUDA graph may keep; what changes from step to step
(lengths, block tables, positions) is read from device memory. tests/gpu checks each against float64.
"""
