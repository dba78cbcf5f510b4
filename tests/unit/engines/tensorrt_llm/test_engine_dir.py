"""Engine directories: what they say, and what is refused before any GPU is touched."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.engine_dir import engine_config, make_engine_dir
from trtllm_openai.checkpoints import find_engine
from trtllm_openai.engines.tensorrt_llm.engine_dir import check_gpus, check_version, read_engine_dir
from trtllm_openai.errors import CheckpointError


def test_facts(tmp_path: Path) -> None:
    engine = read_engine_dir(make_engine_dir(tmp_path, world=2) / "engine")
    assert (engine.version, engine.architecture, engine.dtype) == ("1.2.1", "LlamaForCausalLM", "bfloat16")
    assert (engine.world_size, engine.tensor_parallel, engine.pipeline_parallel) == (2, 2, 1)
    assert (engine.max_batch_size, engine.max_seq_len, engine.max_num_tokens) == (8, 1024, 2048)
    assert engine.weight_bytes == 200
    assert engine.kv_bytes_per_token == 2 * 30 * 3 * 64 * 2
    assert not engine.lora
    assert (engine.speculative_decoding, engine.max_draft_len) == ("none", 0)


def change(directory: Path, section: str, **values: Any) -> None:
    config = engine_config()
    config[section].update(values)
    (directory / "config.json").write_text(json.dumps(config))


def test_kv_bytes_follow_quantisation_and_ranks(tmp_path: Path) -> None:
    directory = make_engine_dir(tmp_path) / "engine"
    change(directory, "pretrained_config", quantization={"kv_cache_quant_algo": "FP8"})
    assert read_engine_dir(directory).kv_bytes_per_token == 2 * 30 * 3 * 64


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "no config.json"),
        (lambda d: (d / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda d: (d / "config.json").write_text("{}"), "not of a TensorRT-LLM engine"),
        (lambda d: (d / "rank0.engine").unlink(), r"lacks rank0\.engine"),
        (lambda d: (d / "rank1.engine").write_text(""), r"has rank1\.engine beyond its 1 ranks"),
        (lambda d: change(d, "pretrained_config", mapping={"world_size": 4, "tp_size": 2}), "world_size 4"),
        (lambda d: change(d, "build_config", kv_cache_type="CONTINUOUS"), "--kv_cache_type paged"),
        (lambda d: change(d, "build_config", max_seq_len="long"), "wrong kind"),
    ],
)
def test_refusals(tmp_path: Path, break_it: Any, message: str) -> None:
    directory = make_engine_dir(tmp_path) / "engine"
    break_it(directory)
    with pytest.raises(CheckpointError, match=message):
        read_engine_dir(directory)


def test_a_lacking_key_is_named(tmp_path: Path) -> None:
    directory = make_engine_dir(tmp_path) / "engine"
    config = engine_config()
    del config["build_config"]["max_batch_size"]
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="max_batch_size"):
        read_engine_dir(directory)


def test_version_and_gpus(tmp_path: Path) -> None:
    engine = read_engine_dir(make_engine_dir(tmp_path, world=4) / "engine")
    check_version(engine, "1.2.1")
    with pytest.raises(CheckpointError, match=r"built by TensorRT-LLM 1\.2\.1, but 1\.1\.0 is installed"):
        check_version(engine, "1.1.0")
    check_gpus(engine, 4)
    with pytest.raises(
        CheckpointError, match=r"for 4 GPUs \(tensor parallel 4 x pipeline parallel 1\).*has 3"
    ):
        check_gpus(engine, 3)


def test_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_engine_dir(tmp_path)
    expected = tmp_path / "engine", tmp_path / "tokenizer"
    assert find_engine(str(tmp_path)) == expected
    assert find_engine(str(tmp_path / "engine")) == expected
    monkeypatch.chdir(tmp_path)
    assert find_engine("demo") == expected
    with pytest.raises(CheckpointError, match="no TensorRT-LLM engine"):
        find_engine(str(tmp_path / "elsewhere"))
