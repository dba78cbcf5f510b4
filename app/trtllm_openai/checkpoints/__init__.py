"""From what the `model` setting says to a Hugging Face style directory that every engine can load.

Nothing here imports torch or transformers: it runs in the supervising process.
"""

from trtllm_openai.checkpoints.resolve import display_name, find_engine, resolve

__all__ = ["display_name", "find_engine", "resolve"]
