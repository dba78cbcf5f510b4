"""docker/build_engine.sh prints only commands that exist in TensorRT-LLM 1.2.1."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docker" / "build_engine.sh"
# The options of each command that the reference lists for 1.2.1, as far as they are of interest here.
FLAGS = {
    "convert_checkpoint.py": {
        "--model_dir",
        "--output_dir",
        "--dtype",
        "--tp_size",
        "--pp_size",
        "--workers",
    },
    "quantize.py": {
        "--model_dir",
        "--dtype",
        "--qformat",
        "--kv_cache_dtype",
        "--calib_size",
        "--calib_dataset",
        "--awq_block_size",
        "--tp_size",
        "--pp_size",
        "--output_dir",
    },
    "trtllm-build": {
        "--checkpoint_dir",
        "--output_dir",
        "--gemm_plugin",
        "--max_batch_size",
        "--max_seq_len",
        "--max_num_tokens",
        "--use_paged_context_fmha",
        "--kv_cache_type",
        "--workers",
        "--lora_plugin",
        "--max_lora_rank",
        "--lora_target_modules",
        "--speculative_decoding_mode",
        "--max_draft_len",
    },
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("tp", ["1", "2", "4"])
@pytest.mark.parametrize("precision", ["bf16", "fp8", "int4-awq"])
def test_commands(precision: str, tp: str) -> None:
    done = run("--model", "/m", "--output", "/o", "--precision", precision, "--tp", tp, "--dry-run")
    assert done.returncode == 0, done.stderr
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    convert, build = commands[:2]
    tool = Path(convert[1]).name
    assert tool == ("convert_checkpoint.py" if precision == "bf16" else "quantize.py")
    for name, command in ((tool, convert[2:]), ("trtllm-build", build[1:])):
        used = {word for word in command if word.startswith("--")}
        assert used <= FLAGS[name]
    assert convert[convert.index("--tp_size") + 1] == tp
    assert build[build.index("--workers") + 1] == tp
    assert build[build.index("--output_dir") + 1] == "/o/engine"
    assert ["cp", "/m/tokenizer.json", "/o/tokenizer/tokenizer.json"] in commands


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model is required"),
        (["--model", "/m"], "--output is required"),
        (["--model"], "--model needs a value"),
        (["--tokenizer_dir", "/t"], "unknown option --tokenizer_dir"),
        (["--model", "/m", "--output", "/o", "--tp", "3"], "--tp must be 1, 2 or 4"),
        (["--model", "/m", "--output", "/o", "--precision", "fp4", "--dry-run"], "--precision must be"),
        (
            ["--model", "/m", "--output", "/o", "--max-seq-len", "0"],
            "--max-seq-len must be a positive number",
        ),
        (["--model", "/m", "--output", "/o"], "/m has no config.json"),
    ],
)
def test_refusals(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("precision", ["fp8", "int4-awq"])
def test_calibration_dataset(precision: str) -> None:
    flags = ["--model", "/m", "--output", "/o", "--precision", precision, "--dry-run"]
    assert "--calib_dataset" not in run(*flags).stdout
    quantize = shlex.split(run(*flags, "--calib-dataset", "/my data").stdout.splitlines()[0])
    assert quantize[quantize.index("--calib_dataset") + 1] == "/my data"


def adapter(directory: Path, rank: int, modules: object, **other: object) -> Path:
    directory.mkdir()
    config = {"r": rank, "target_modules": modules, **other}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize(
    ("precision", "storage"), [("bf16", "bfloat16"), ("fp8", "float16"), ("int4-awq", "float16")]
)
def test_lora(tmp_path: Path, precision: str, storage: str) -> None:
    """The engine gets the modules and the highest rank of all adapters, and they its type."""
    (tmp_path / "config.json").write_text('{\n  "torch_dtype": "float16",\n  "vocab_size": 9\n}')
    adapter(tmp_path / "sql", 8, ["q_proj", "v_proj"], rank_pattern={"v_proj": 32})
    adapter(tmp_path / "my chat", 16, ["down_proj", "o_proj"])
    done = run(
        *("--model", str(tmp_path), "--output", "/o", "--precision", precision, "--dry-run"),
        *("--lora", f"sql={tmp_path}/sql", "--lora", f"chat={tmp_path}/my chat"),
    )
    assert done.returncode == 0, done.stderr
    _, build, *rest = [shlex.split(line) for line in done.stdout.splitlines()]
    assert build[build.index("--max_lora_rank") + 1] == "32"
    assert build[build.index("--lora_target_modules") + 1 :] == [
        *("attn_q", "attn_k", "attn_v", "attn_dense", "mlp_4h_to_h"),
    ]
    assert {word for word in build if word.startswith("--")} <= FLAGS["trtllm-build"]
    converted = [command for command in rest if command[1].endswith("/hf_lora_convert.py")]
    assert [command[2:] for command in converted] == [
        ["-i", f"{tmp_path}/sql", "-o", "/o/adapters/sql", "--storage-type", storage],
        ["-i", f"{tmp_path}/my chat", "-o", "/o/adapters/chat", "--storage-type", storage],
    ]
    assert "    sql: /o/adapters/sql\n    chat: /o/adapters/chat\n" in done.stderr


def test_lookahead() -> None:
    done = run("--model", "/m", "--output", "/o", "--dry-run", "--lookahead", "7,7,7")
    build = shlex.split(done.stdout.splitlines()[1])
    assert build[-4:] == ["--speculative_decoding_mode", "lookahead_decoding", "--max_draft_len", "83"]


@pytest.mark.parametrize(
    ("modules", "other", "message"),
    [
        ("all-linear", {}, "target_modules must be a list"),
        (["q_proj", "embed_tokens"], {}, "target_modules must be a list"),
        (["q_proj"], {"modules_to_save": ["lm_head"]}, "modules_to_save cannot be converted"),
    ],
)
def test_adapters_that_cannot_be_served(
    tmp_path: Path, modules: object, other: dict[str, object], message: str
) -> None:
    adapter(tmp_path / "a", 8, modules, **other)
    done = run("--model", "/m", "--output", "/o", "--dry-run", "--lora", f"a={tmp_path}/a")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lora", "/a"], "--lora must be NAME=DIR, not /a"),
        (["--lora", "a/b=/a"], "--lora must be NAME=DIR"),
        (["--lora", "a=/nowhere"], "/nowhere has no adapter_config.json"),
        (["--lookahead", "7,7"], "--lookahead must be W,N,G, not 7,7"),
        (["--lookahead", "7,1,0"], "--lookahead must be W,N,G"),
    ],
)
def test_refusals_of_lora_and_lookahead(flags: list[str], message: str) -> None:
    done = run("--model", "/m", "--output", "/o", "--dry-run", *flags)
    assert done.returncode == 2
    assert message in done.stderr
