"""`inspect`: facts and memory of an engine directory."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.fakes.engine_dir import LOOKAHEAD, LORA, make_engine_dir
from tests.unit.engines.torch.quantized.formats import awq, quantize_checkpoint
from trtllm_openai.commands.checkpoint_report import fits, kv_bytes_per_token
from trtllm_openai.commands.inspect import inspect
from trtllm_openai.errors import CheckpointError


def test_memory_in_json(tmp_path: Path) -> None:
    found = json.loads(inspect(make_engine_dir(tmp_path / "m", world=2), as_json=True))
    assert found["world_size"] == 2
    assert found["weights_bytes"] == 2 * 100
    assert found["weights_bytes_per_gpu"] == 100
    per_token = 2 * 30 * 3 * (576 // 9) * 2  # K and V, layers, heads, head size, bytes of bfloat16
    assert found["kv_cache_bytes_per_token"] == per_token
    assert found["kv_cache_bytes_per_full_sequence"] == per_token * 1024
    assert found["kv_cache_bytes_for_a_full_batch"] == per_token * 1024 * 8


def test_the_table_says_the_same_of_the_inner_directory(tmp_path: Path) -> None:
    directory = make_engine_dir(tmp_path / "m")
    table = inspect(directory, as_json=False)
    assert table == inspect(directory / "engine", as_json=False)
    rows = dict(line.split("  ", 1) for line in table.splitlines())
    assert rows["weights bytes"].strip() == "100"
    assert rows["kv cache bytes for a full batch"].strip().endswith("(0.18 GiB)")


def test_no_engine(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        inspect(tmp_path, as_json=True)


def test_what_else_it_was_built_for(tmp_path: Path) -> None:
    table = inspect(make_engine_dir(tmp_path / "m", **LORA, **LOOKAHEAD), as_json=False)
    rows = {key.strip(): value for key, value in (line.split("  ", 1) for line in table.splitlines())}
    rows = {key: value.strip() for key, value in rows.items()}
    assert (rows["lora"], rows["lora modules"], rows["max lora rank"]) == (
        "yes",
        "attn_q, attn_k, attn_v",
        "8",
    )
    assert rows["speculative decoding"] == "lookahead (greedy decoding only)"
    assert rows["max draft len"] == "83"
    plain = json.loads(inspect(make_engine_dir(tmp_path / "p"), as_json=True))
    assert (plain["lora"], plain["lora_modules"], plain["speculative_decoding"]) == (False, [], "none")


@pytest.mark.parametrize(
    ("mode", "text"), [(4, "medusa (not served)"), (2, "draft_tokens_external (served without drafts")]
)
def test_a_mode_that_is_not_used_is_said(tmp_path: Path, mode: int, text: str) -> None:
    directory = make_engine_dir(tmp_path / "m", speculative_decoding_mode=mode, max_draft_len=5)
    assert text in inspect(directory, as_json=False)


def test_sampling_defaults_of_the_model(tmp_path: Path) -> None:
    directory = make_engine_dir(tmp_path / "m")
    assert json.loads(inspect(directory, as_json=True))["default_sampling"] == {}
    (directory / "tokenizer").mkdir()
    (directory / "tokenizer" / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9}')
    assert json.loads(inspect(directory, as_json=True))["default_sampling"] == {
        "temperature": 0.6,
        "top_p": 0.9,
    }
    (line,) = (
        line for line in inspect(directory, as_json=False).splitlines() if line.startswith("default sampling")
    )
    assert line.endswith("  temperature 0.6, top_p 0.9")


def test_a_checkpoint(demo_dir: Path, few_layers: Path) -> None:
    found = json.loads(inspect(demo_dir, as_json=True))
    assert found["architecture"] == "LlamaForCausalLM"
    assert found["served_by"] == "torch, tensorrt_llm_pytorch"
    assert found["parameters"] == 134_515_008, "SmolLM2-135M, with its embeddings once"
    assert found["weights_bytes"] == 2 * found["parameters"]
    assert (found["dtype"], found["quantization"], found["layers"]) == ("BF16", None, 30)
    assert found["kv_cache_bytes_per_token"] == 2 * 30 * 3 * 64 * 2
    assert (found["tool_format"], found["reasoning_format"]) == ("hermes", None)
    table = inspect(few_layers, as_json=False)
    assert re.search(r"^layers +4$", table, re.MULTILINE)
    assert re.search(r"^fits +24 GB \(RTX 4090.*\): 1, with room for \d", table, re.MULTILINE)


def test_what_cannot_be_served_is_said(few_layers: Path, tmp_path: Path) -> None:
    config = json.loads((few_layers / "config.json").read_text())
    config |= {"architectures": ["GemmaForCausalLM"], "quantization_config": {"quant_method": "awq"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(few_layers / "tokenizer.json", tmp_path)
    found = json.loads(inspect(tmp_path, as_json=True))
    assert "does not support the architecture GemmaForCausalLM" in found["served_by"]
    assert found["quantization"] == "awq"
    assert "fits" not in found, "without weights"
    config["quantization_config"] = {"quant_algo": "NVFP4"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert json.loads(inspect(tmp_path, as_json=True))["quantization"] == "modelopt"


def test_quantized_checkpoints_are_described(few_layers: Path, tmp_path: Path) -> None:
    plain = json.loads(inspect(few_layers, as_json=True))
    source = tmp_path / "source"
    shutil.copytree(few_layers, source)
    quantize_checkpoint(source, tmp_path / "awq", tmp_path / "twin", awq(32))
    found = json.loads(inspect(tmp_path / "awq", as_json=True))
    assert found["quantization"] == "4-bit weights in groups of 32 (awq)"
    assert found["served_by"] == "torch, tensorrt_llm_pytorch"
    assert found["parameters"] == plain["parameters"]
    assert found["weights_bytes"] < plain["weights_bytes"]


def test_fits_takes_the_fewest_gpus_that_divide_the_heads() -> None:
    seventy_billion = 2 * 70 * 10**9
    found = fits(seventy_billion, 2 * 80 * 8 * 128 * 2, 64)
    assert [one and one["gpus"] for one in found.values()] == [8, 4, 4, 2, 1]
    assert [one and one["gpus"] for one in fits(seventy_billion, 1, 20).values()] == [None, 4, 4, 2, 1]
    one = fits(10**9, 1000, 8)["24 GB (RTX 4090, L4, A10)"]
    assert one == {"gpus": 1, "kv_cache_tokens": (24 * 10**9 * 9 // 10 - 2 * 10**9 - 10**9) // 1000}


def test_kv_cache_of_latent_attention_and_of_few_heads() -> None:
    assert (
        kv_bytes_per_token({"num_hidden_layers": 61, "kv_lora_rank": 512, "qk_rope_head_dim": 64})
        == 61 * 576 * 2
    )
    shape = {"num_hidden_layers": 2, "num_attention_heads": 8, "hidden_size": 64, "num_key_value_heads": 2}
    assert kv_bytes_per_token(shape) == 2 * 2 * 2 * 8 * 2
    assert kv_bytes_per_token({}) == 0


def test_damaged_weights_are_named(few_layers: Path, tmp_path: Path) -> None:
    shutil.copytree(few_layers, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read as safetensors"):
        inspect(tmp_path / "m", as_json=True)
