"""The doctor's lines: checks that pass, and failed ones with their fix."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.engine_dir import make_engine_dir
from trtllm_openai.cli import main
from trtllm_openai.commands import checks
from trtllm_openai.config import Settings
from trtllm_openai.processes.mpi import RANK_VARIABLES

FAKES = Path(__file__).parents[2] / "fakes"


def found(settings: Settings) -> dict[str, checks.Finding]:
    return {finding.name: finding for finding in checks.examine(settings)}


def test_the_demo_passes(demo_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = found(Settings(model=str(demo_dir)))
    assert not findings["model"].fix
    assert findings["tokenizer"].fact == "49152 tokens, ends with [2], a chat template"
    assert findings["torch"].fact.endswith("CPU cores")
    main(["doctor", "--model", str(demo_dir)])
    assert "OK   tokenizer        49152 tokens" in capsys.readouterr().out


def test_everything_missing_for_tensorrt_llm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(checks, "SHM", tmp_path / "absent")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    make_engine_dir(tmp_path / "m", world=2)
    status = main(
        [
            "doctor",
            "--engine",
            "tensorrt_llm",
            "--model",
            str(tmp_path / "m"),
            "--tensorrt-llm.launch",
            "leader",
        ]
    )
    assert status == 1
    out = capsys.readouterr().out
    for fix in (
        "has no tokenizer: put the model's into",
        "install NVIDIA's driver",
        "use NVIDIA's TensorRT-LLM image 1.2.1",
        "--shm-size 1g",
    ):
        assert fix in out


def test_an_adapter_that_cannot_be_served(demo_dir: Path, tmp_path: Path) -> None:
    make_engine_dir(tmp_path, tokenizer=demo_dir)
    settings: dict[str, Any] = {
        "engine": "tensorrt_llm",
        "model": str(tmp_path),
        "tensorrt_llm": {"lora_adapters": {"sql": "/sql"}},
    }
    assert "built without LoRA" in found(Settings(**settings))["model"].fix


def test_gpus_versions_and_mpi(demo_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.1.0")
    make_engine_dir(tmp_path, world=2, tokenizer=demo_dir)
    settings: dict[str, Any] = {
        "engine": "tensorrt_llm",
        "model": str(tmp_path),
        "tensorrt_llm": {"launch": "leader", "mpi_command": f"{FAKES}/mpirun --bind-to none -n {{world}}"},
    }
    for name in checks.AS_ROOT:
        monkeypatch.setenv(name, "1")
    try:
        findings = found(Settings(**settings))
        assert "built by TensorRT-LLM 1.2.1, but 1.1.0 is installed" in findings["tensorrt_llm"].fix
        assert findings["GPUs"].fact == "replica 0: 0,1"
        assert findings["MPI"].fact == f"{FAKES}/mpirun"
        too_many = found(Settings(**settings, replicas=2))
        assert "need 4, but there are 3" in too_many["GPUs"].fix
    finally:
        sys.modules.pop("tensorrt_llm", None)


def executable(path: Path) -> str:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("command", "user", "environment", "fact", "fix"),
    [
        ("mpirun --bind-to none", 0, {}, "refuses to run as root", "as another user, as our image does"),
        ("mpirun --bind-to none", 0, {"OMPI_ALLOW_RUN_AS_ROOT": "1"}, "refuses", "ROOT_CONFIRM=1"),
        ("mpirun --bind-to none", 0, dict.fromkeys(checks.AS_ROOT, "1"), "mpirun", ""),
        ("mpirun --bind-to none --allow-run-as-root", 0, {}, "mpirun", ""),
        ("mpirun --bind-to none", 1000, {}, "mpirun", ""),
        ("mpirun -n 2", 1000, {}, "binds each rank to a core", "--bind-to none"),
        ("srun --mpi=pmix", 0, {}, "leaves the other ranks running", "--kill-on-bad-exit=1"),
        ("srun --kill-on-bad-exit=1", 0, {}, "srun", ""),
        ("absent", 1000, {}, "absent is not installed", "install Open MPI"),
        ("", 0, {}, "orted", ""),
        ("", 0, {"PMIX_RANK": "0"}, "a rank of another MPI job: PMIX_RANK is set", "without mpirun"),
        ("", 0, {"SLURM_PROCID": "0"}, "orted", ""),
    ],
)
def test_mpi_and_its_traps(
    tmp_path: Path,
    demo_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    user: int,
    environment: dict[str, str],
    fact: str,
    fix: str,
) -> None:
    """Without a command ranks are spawned."""
    for name in ("mpirun", "srun", "orted"):
        executable(tmp_path / name)
    for name in (*checks.AS_ROOT, *RANK_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: user)
    make_engine_dir(tmp_path / "m", world=2, tokenizer=demo_dir)
    launch: dict[str, Any] = {"launch": "leader", "mpi_command": command} if command else {}
    finding = found(Settings(engine="tensorrt_llm", model=str(tmp_path / "m"), tensorrt_llm=launch))["MPI"]
    assert fact in finding.fact
    assert fix in finding.fix
    assert bool(fix) is bool(finding.fix)


def test_without_open_mpi_no_ranks_can_be_spawned(
    tmp_path: Path, demo_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    make_engine_dir(tmp_path / "m", world=2, tokenizer=demo_dir)
    finding = found(Settings(engine="tensorrt_llm", model=str(tmp_path / "m")))["MPI"]
    assert "orted is not in PATH" in finding.fact


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "does not support the architecture GemmaForCausalLM"),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 8}},
            "does not support quantized checkpoints (awq) with bits: 8; supported: 4",
        ),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "RoPE scaling of type 'yarn'"),
    ],
)
def test_a_checkpoint_that_serve_would_refuse(
    change: dict[str, Any], said: str, few_layers: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "m"
    shutil.copytree(few_layers, directory)
    config = json.loads((directory / "config.json").read_text())
    config.pop("rope_parameters", None)
    (directory / "config.json").write_text(json.dumps({**config, **change}))
    assert said in found(Settings(model=str(directory)))["architecture"].fix


def test_a_quantized_checkpoint(few_layers: Path, tmp_path: Path) -> None:
    directory = tmp_path / "m"
    shutil.copytree(few_layers, directory)
    config = json.loads((directory / "config.json").read_text())
    quantized = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
    (directory / "config.json").write_text(json.dumps({**config, "quantization_config": quantized}))
    described = found(Settings(model=str(directory)))["architecture"]
    assert (described.fact, described.fix) == (
        "LlamaForCausalLM, 4-bit weights in groups of 128 (awq)",
        "",
    )
    refused = found(Settings(model=str(directory), torch={"quantization": "fp8"}))["architecture"]
    assert "torch.quantization: fp8 cannot quantize" in refused.fix


def test_a_template_that_serve_would_refuse(few_layers: Path, tmp_path: Path) -> None:
    template = tmp_path / "broken.jinja"
    template.write_text("{% if %}")
    findings = found(Settings(model=str(few_layers), chat_template=str(template)))
    assert f"The chat template {template}, line 1, cannot be compiled" in findings["chat format"].fix
    assert found(Settings(model=str(few_layers)))["chat format"].fact == "tools: hermes, thinking: none"


def test_a_quantization_that_serve_would_refuse(few_layers: Path) -> None:
    settings = Settings(model=str(few_layers), torch={"quantization": "fp8", "device": "cpu"})
    assert found(settings)["torch"].fix == "torch.quantization: fp8 needs a GPU; use int8 on a CPU"


def test_missing_guides_are_told(few_layers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not found(Settings(model=str(few_layers)))["guided decoding"].fix
    monkeypatch.setitem(sys.modules, "llguidance", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'llguidance" in found(Settings(model=str(few_layers)))["guided decoding"].fix


def test_kv_events_that_cannot_be_published(demo_dir: Path) -> None:
    settings: dict[str, Any] = {"model": str(demo_dir), "kv_events": {"endpoint": "tcp://*:5557"}}
    assert "KV events" not in found(Settings(model=str(demo_dir)))
    refused = found(Settings(**settings, engine="synthetic"))["KV events"]
    assert "kv_events.endpoint: the engine synthetic publishes no KV events" in refused.fix
    accepted = found(Settings(**settings))["KV events"]
    assert (accepted.fact, accepted.fix) == ("tcp://*:5557", "")
