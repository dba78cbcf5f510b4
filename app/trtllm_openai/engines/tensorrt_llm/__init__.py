"""TensorRT-LLM engines: NVIDIA's executor behind the Engine interface."""

from trtllm_openai.engines.tensorrt_llm.loader import load

__all__ = ["load"]
