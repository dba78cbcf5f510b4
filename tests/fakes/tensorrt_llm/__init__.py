"""A stand-in for tensorrt_llm 1.2.1: the names, signatures and pitfalls that the server relies on, strictly.

It computes nothing: an answer repeats its prompt, then ends. `FAKE_TRTLLM`, a JSON object in the environment,
injects failures (see `bindings.executor.Behaviour`).
"""

import json
import os

__version__ = json.loads(os.environ.get("FAKE_TRTLLM", "{}")).get("version", "1.2.1")

print(f"[TensorRT-LLM] TensorRT LLM version: {__version__}")  # standard output, as the real one

from tensorrt_llm.llmapi import LLM, SamplingParams  # noqa: E402

__all__ = ["LLM", "SamplingParams", "__version__"]
