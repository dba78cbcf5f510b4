"""Adapters on disk: what the executor would refuse with each request is refused before anything starts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes.engine_dir import LORA, make_adapter, make_engine_dir
from trtllm_openai.engines.tensorrt_llm.engine_dir import read_engine_dir
from trtllm_openai.engines.tensorrt_llm.lora_files import CONFIG, WEIGHTS, open_adapters
from trtllm_openai.errors import ConfigError


def rows(*given: list[int]) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        np.save(directory / CONFIG, np.array([list(given)], np.int32))

    return change


def save(name: str, array: Any) -> Callable[[Path], None]:
    return lambda directory: np.save(directory / name, array)


def test_a_good_one(tmp_path: Path) -> None:
    engine = read_engine_dir(make_engine_dir(tmp_path / "m", **LORA) / "engine")
    (found,) = open_adapters(engine, {"sql": str(make_adapter(tmp_path / "sql", rank=8))})
    assert (found.name, found.rank, found.weights.shape) == ("sql", 8, (1, 2, 8 * 1152))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: (d / WEIGHTS).unlink(), r"model\.lora_weights\.npy not found"),
        (lambda d: (d / CONFIG).unlink(), r"model\.lora_config\.npy not found"),
        (lambda d: (d / CONFIG).write_bytes(b"no array"), "cannot be read"),
        (lambda d: (d / WEIGHTS).write_bytes(b""), "cannot be read"),
        (save(CONFIG, np.zeros((2, 3), np.int32)), "are not"),
        (save(CONFIG, np.zeros((1, 3, 3), np.int32)), "do not go together"),
        (save(CONFIG, np.zeros((1, 2, 2), np.int32)), "do not go together"),
        (save(CONFIG, np.zeros((1, 2, 3), np.int64)), "is of int64"),
        (save(WEIGHTS, np.zeros((1, 2, 9999), np.float16)), "--storage-type bfloat16"),
        (rows([1, 0, 4], [4, 0, 4]), "changes the module attn_dense, but the engine was built for attn_q"),
        (rows([1, 0, 4], [77, 0, 4]), "changes the module 77"),
        (rows([1, 0, 4], [1, 30, 4]), "layer 30 of a model with 30 layers"),
        (rows([1, 0, 4], [1, 1, 9]), "rank 9 is above the engine's max_lora_rank 8"),
        (rows([1, 0, 4], [1, 1, 0]), "rank 0"),
        (rows([1, 0, 4], [1, 1, 5]), "attn_q at rank 5 takes 5760 values, not 4608"),
        (rows([1, 0, 4, 1], [1, 1, 4, 0]), "attn_q at rank 4 takes 5184 values"),  # DoRA: a magnitude as well
    ],
)
def test_refusals(tmp_path: Path, break_it: Callable[[Path], None], message: str) -> None:
    engine = read_engine_dir(make_engine_dir(tmp_path / "m", **LORA) / "engine")
    directory = make_adapter(tmp_path / "sql")
    break_it(directory)
    with pytest.raises(ConfigError, match=rf"tensorrt_llm\.lora_adapters: sql in .*{message}"):
        open_adapters(engine, {"sql": str(directory)})


def test_a_peft_directory_is_told_how_to_be_converted(tmp_path: Path) -> None:
    engine = read_engine_dir(make_engine_dir(tmp_path / "m", **LORA) / "engine")
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"hf_lora_convert\.py -i .* --storage-type bfloat16"):
        open_adapters(engine, {"sql": str(tmp_path / "peft")})


@pytest.mark.parametrize(
    "build",
    [
        {},
        {**LORA, "lora_config": {"max_lora_rank": 8, "lora_target_modules": []}},
        {**LORA, "lora_config": {"max_lora_rank": 0, "lora_target_modules": ["attn_q"]}},
    ],
    ids=["no plugin", "no modules", "no rank"],
)
def test_an_engine_without_lora(tmp_path: Path, build: dict[str, Any]) -> None:
    """TensorRT-LLM would serve it and ignore the adapter."""
    engine = read_engine_dir(make_engine_dir(tmp_path / "m", **build) / "engine")
    assert engine.lora_modules == ()
    assert open_adapters(engine, {}) == []
    with pytest.raises(ConfigError, match=r"built without LoRA.*--lora_plugin"):
        open_adapters(engine, {"sql": str(make_adapter(tmp_path / "sql"))})


def test_widths_of_the_mlp(tmp_path: Path) -> None:
    modules = ["mlp_h_to_4h", "mlp_4h_to_h", "mlp_gate"]
    build = {**LORA, "lora_config": {"max_lora_rank": 8, "lora_target_modules": modules}}
    engine = read_engine_dir(make_engine_dir(tmp_path / "m", **build) / "engine")
    directory = tmp_path / "a"
    directory.mkdir()
    np.save(directory / CONFIG, np.array([[[5, 0, 2], [6, 0, 2], [7, 0, 2]]], np.int32))
    width = 2 * (576 + 1536)
    np.save(directory / WEIGHTS, np.zeros((1, 3, width), np.uint16).view("V2"))
    assert open_adapters(engine, {"a": str(directory)})[0].rank == 2
    np.save(directory / WEIGHTS, np.zeros((1, 3, width - 1), np.uint16).view("V2"))
    with pytest.raises(ConfigError, match=f"mlp_h_to_4h at rank 2 takes {width} values"):
        open_adapters(engine, {"a": str(directory)})
