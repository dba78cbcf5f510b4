"""The model as the settings name it: what an engine cannot serve is refused once, before runners start."""

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.engine_dir import LORA, make_adapter, make_engine_dir
from trtllm_openai.config import Settings
from trtllm_openai.errors import ConfigError
from trtllm_openai.serve.model import resolve_model


def resolved(directory: Path, name: str, **settings: Any) -> str:
    adapters = {"lora_adapters": {name: str(make_adapter(directory / "adapter"))}}
    chosen = {"engine": "tensorrt_llm", "model": str(directory), "tensorrt_llm": adapters, **settings}
    return resolve_model(Settings(**chosen), lambda *_: None).name


def test_an_adapter_may_not_have_the_models_id(demo_dir: Path, tmp_path: Path) -> None:
    directory = make_engine_dir(tmp_path / "llama", tokenizer=demo_dir, **LORA)
    assert resolved(directory, "sql") == "llama"
    with pytest.raises(ConfigError, match="llama is the model's own id"):
        resolved(directory, "llama")
    assert resolved(directory, "llama", served_model_name="base") == "llama"
    with pytest.raises(ConfigError, match="base is the model's own id"):
        resolved(directory, "base", served_model_name="base")


def test_the_pytorch_backend_serves_no_adapters(demo_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tensorrt_llm\.lora_adapters: only the engine tensorrt_llm"):
        resolved(tmp_path, "sql", engine="tensorrt_llm_pytorch", model=str(demo_dir))
