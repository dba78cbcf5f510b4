"""GPUs shared out among replicas."""

from pathlib import Path
from typing import Any

import pytest

from trtllm_openai.config import Settings, TorchSettings
from trtllm_openai.engine_host import gpus
from trtllm_openai.engine_host.gpus import assign_gpus
from trtllm_openai.errors import ConfigError
from trtllm_openai.serve.model import resolve_model


def assigned(per_replica: int, **settings: Any) -> list[str | None]:
    return assign_gpus(Settings(**settings), per_replica)


def test_disjoint_sets_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5, GPU-abc,7,8")
    assert assigned(2, replicas=2) == ["4,5", "GPU-abc,7"]
    assert assigned(2, replicas=2, gpus=["0", "1", "2", "3"]) == ["0,1", "2,3"]


def test_too_few_and_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    with pytest.raises(
        ConfigError, match=r"replicas: 2 replicas with 2 GPU\(s\) each need 4, but there are 3"
    ):
        assigned(2, replicas=2)
    with pytest.raises(ConfigError, match="contains a GPU twice"):
        assigned(1, gpus=["0", "0"])


def test_of_a_range_as_many_as_fit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert assigned(1, replicas={"min": 1, "max": 2}) == ["0", "1"]
    assert not caplog.records
    assert assigned(1, replicas={"min": 1, "max": 8}) == ["0", "1", "2"]
    assert "replicas.max: 3 replicas at most, as there are 3 GPUs" in caplog.text
    with pytest.raises(ConfigError, match="2 replicas with 2 GPU"):
        assigned(2, replicas={"min": 2, "max": 3})


def test_an_engine_without_gpus_has_as_many_replicas_as_it_likes(
    monkeypatch: pytest.MonkeyPatch, demo_dir: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    settings = Settings(model=str(demo_dir), engine="synthetic", replicas=3)
    assert assign_gpus(settings, resolve_model(settings, lambda *_: None).gpus_per_replica) == [None] * 3


def test_without_gpus_nothing_is_assigned_unless_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "absent")
    monkeypatch.setattr(gpus, "DEVICES", tmp_path)
    assert assigned(1, replicas=3) == [None] * 3
    with pytest.raises(ConfigError, match="need 3, but there are 0"):
        assigned(1, replicas=3, gpus_per_replica=1)
    for name in ("a", "b"):
        (tmp_path / "driver" / name).mkdir(parents=True)
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "driver")
    assert assigned(1, replicas=2) == ["0", "1"]


@pytest.mark.parametrize(("device", "each"), [("auto", 3), ("cpu", 0)])
def test_every_rank_of_the_torch_engine_gets_one(demo_dir: Path, device: str, each: int) -> None:
    settings = Settings(
        model=str(demo_dir), torch=TorchSettings(device=device, tensor_parallel_size=3)
    )  # fmt: skip
    assert resolve_model(settings, lambda *_: None).gpus_per_replica == each
    fewer = settings.model_copy(update={"gpus_per_replica": 2})
    assert resolve_model(fewer, lambda *_: None).gpus_per_replica == 2


@pytest.mark.parametrize("listed", ["in /proc", "in /dev", "in both"])
def test_all_gpus_of_the_machine_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listed: str
) -> None:
    """Without one of them, replicas would all use the first GPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver, devices = tmp_path / "driver", tmp_path / "dev"
    devices.mkdir()
    for number in range(2):
        if listed != "in /dev":
            (driver / f"0000:{number}b:00.0").mkdir(parents=True)
        if listed != "in /proc":
            (devices / f"nvidia{number}").touch()
    for name in ("nvidiactl", "nvidia-uvm", "nvidia-caps"):
        (devices / name).touch()
    monkeypatch.setattr(gpus, "DRIVER", driver)
    monkeypatch.setattr(gpus, "DEVICES", devices)
    assert assigned(1, replicas=2) == ["0", "1"]
