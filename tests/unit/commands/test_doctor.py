"""The doctor's lines: checks that pass, and failed ones with their fix."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.engine_dir import make_engine_dir
from trtllm_openai.cli import main
from trtllm_openai.commands import doctor
from trtllm_openai.config import Settings

FAKES = Path(__file__).parents[2] / "fakes"


def found(settings: Settings) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine(settings)}


def test_the_demo_passes(demo_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = found(Settings(model=str(demo_dir)))
    assert not findings["model"].fix
    assert findings["tokenizer"].fact == "49152 tokens, ends with [2], a chat template"
    assert findings["torch"].fact.endswith("CPU cores")
    main(["doctor", "--model", str(demo_dir)])
    assert "OK   tokenizer   49152 tokens" in capsys.readouterr().out


def test_everything_missing_for_tensorrt_llm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "SHM", tmp_path / "absent")
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


def test_gpus_versions_and_mpi(demo_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.1.0")
    make_engine_dir(tmp_path, world=2, tokenizer=demo_dir)
    settings: dict[str, Any] = {
        "engine": "tensorrt_llm",
        "model": str(tmp_path),
        "tensorrt_llm": {"launch": "leader", "mpi_command": f"{FAKES}/mpirun -n {{world}}"},
    }
    try:
        findings = found(Settings(**settings))
        assert "built by TensorRT-LLM 1.2.1, but 1.1.0 is installed" in findings["tensorrt_llm"].fix
        assert findings["GPUs"].fact == "replica 0: 0,1"
        assert findings["MPI"].fact == f"{FAKES}/mpirun"
        too_many = found(Settings(**settings, replicas=2))
        assert "need 4, but there are 3" in too_many["GPUs"].fix
    finally:
        sys.modules.pop("tensorrt_llm", None)
