"""docker/build_engine.sh prints only commands that exist in TensorRT-LLM 1.2.1."""

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
