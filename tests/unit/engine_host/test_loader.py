"""The configured engine is loaded from the right files, and no other engine's code."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trtllm_openai.config import Settings
from trtllm_openai.engine_host.loader import ModelFiles, load_engine
from trtllm_openai.engines.tensorrt_llm import loader as tensorrt_llm
from trtllm_openai.engines.tensorrt_llm import pytorch
from trtllm_openai.errors import CheckpointError

FILES = ModelFiles("/model", "/tokenizer", 100, (2, 3))
IMPORTED = """
import sys
from trtllm_openai.config import Settings
from trtllm_openai.engine_host.loader import ModelFiles, load_engine
load_engine(Settings(engine="synthetic"), ModelFiles("/model", "/tokenizer", 100, (2,)), lambda *_: None)
print(*(name for name in ("torch", "transformers", "tensorrt_llm") if name in sys.modules))
"""


def test_an_engine_gets_along_without_the_code_of_others() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_synthetic_has_the_vocabulary_of_the_tokenizer() -> None:
    engine = load_engine(Settings(engine="synthetic"), FILES, lambda *_: None)
    assert (engine.info.engine, engine.info.vocab_size, engine.info.eos_token_ids) == (
        "synthetic",
        100,
        (2, 3),
    )


@pytest.mark.parametrize(
    ("name", "module"), [("tensorrt_llm", tensorrt_llm), ("tensorrt_llm_pytorch", pytorch)]
)
def test_tensorrt_llm_gets_both_directories(name: str, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load` itself needs TensorRT-LLM; it is tested on a fake in `engines/tensorrt_llm`."""
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(module, "load", lambda *arguments, **_: calls.append(arguments[:5]))
    settings = Settings.model_validate({"engine": name})

    def progress(fraction: float, what: str) -> None:
        raise AssertionError("nothing is loaded")

    load_engine(settings, FILES, progress)
    assert calls == [(Path("/model"), Path("/tokenizer"), settings.tensorrt_llm, (2, 3), progress)]


def test_torch_guides_by_the_tokens_of_the_tokenizer(few_layers: Path, demo_dir: Path) -> None:
    settings = Settings.model_validate(
        {"engine": "torch", "torch": {"device": "cpu", "max_seq_len": 128, "max_batch_size": 2}}
    )
    engine = load_engine(settings, ModelFiles(str(few_layers), str(demo_dir), 0, ()), lambda *_: None)
    try:
        assert engine.info.engine == "torch"
        assert engine.info.vocab_size > 0
        assert "json_schema" in engine.info.capabilities.guides
    finally:
        engine.shutdown(1.0)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_engine(Settings(engine="torch"), ModelFiles(str(tmp_path), "", 0, ()), lambda *_: None)


def test_each_runner_publishes_at_an_address_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trtllm_openai.engines.torch import loader as torch

    given: list[Any] = []
    monkeypatch.setattr(torch, "load", lambda *arguments: given.append(arguments[-1]))
    settings = Settings(engine="torch", kv_events={"endpoint": f"ipc://{tmp_path}/events"})
    load_engine(settings, FILES, lambda *_: None, runner=1)
    load_engine(Settings(engine="torch"), FILES, lambda *_: None)
    events, none = given
    assert none is None
    assert (tmp_path / "events-1").is_socket()
    events.close()
