"""TensorRT-LLM engines: NVIDIA's executor behind the Engine interface.

`loader.load` loads one. Importing this package imports nothing of it: HTTP processes read engine directories.
"""
