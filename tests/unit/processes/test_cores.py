"""The cores that a container may use."""

import os
from pathlib import Path

import pytest

from trtllm_openai.config import Settings
from trtllm_openai.processes.cores import usable_cores


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", 64),
        ("400000 100000\n", 4),
        ("150000 100000\n", 2),
        ("1000 100000\n", 1),
        ("9900000 100000\n", 64),
        ("", 64),
    ],
)
def test_the_quota_of_version_2(tmp_path: Path, text: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1\n", 64), ("250000\n", 3)])
def test_the_quota_of_version_1(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == cores


def test_without_control_groups(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 64


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (15, 1), (16, 2), (60, 7), (64, 8), (128, 8)])
def test_http_workers_follow_the_cores(monkeypatch: pytest.MonkeyPatch, cores: int, workers: int) -> None:
    monkeypatch.setattr("trtllm_openai.config.settings.usable_cores", lambda: cores)
    assert Settings().http_workers == workers
    assert Settings(workers=3).http_workers == 3
