"""An OpenAI-compatible inference server over TensorRT-LLM engines."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("trtllm-openai-server")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0.0.0"
