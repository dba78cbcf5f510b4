"""Resolves the `model` setting to a checkpoint directory in Hugging Face layout, converting .gguf files.

Imports neither torch nor transformers, since it runs in the supervisor process.
"""

from trtllm_openai.checkpoints.resolve import display_name, find_engine, resolve

__all__ = ["display_name", "find_engine", "resolve"]
