"""An OpenAI-compatible inference server over TensorRT-LLM engines."""

__version__: str


def __getattr__(name: str) -> str:
    """`__version__`, looked up when it is asked for: importing the package imports nothing else.

    `__main__` relies on it.
    """
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("trtllm-openai-server")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0.0.0"
