"""What is built once: by many at a time, after a failure, and where parts were deleted."""

import threading
from pathlib import Path

import pytest

from trtllm_openai.checkpoints import cache
from trtllm_openai.errors import CheckpointError


def test_many_builders_one_result(tmp_path: Path) -> None:
    built: list[Path] = []
    barrier = threading.Barrier(4)

    def build(directory: Path) -> None:
        built.append(directory)
        (directory / "file").write_text("whole")

    def one() -> None:
        barrier.wait()
        cache.build_once(tmp_path / "x" / "target", ["file"], build)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "x" / "target" / "file").read_text() == "whole"
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["target"]


def test_a_failed_build_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        (directory / "file").write_text("half")
        raise OSError(28, "No space left on device")

    target = tmp_path / "cache" / "target"
    with pytest.raises(CheckpointError, match="No space left on device"):
        cache.build_once(target, ["file"], fail)
    assert list(target.parent.iterdir()) == []

    def build(directory: Path) -> None:
        (directory / "file").write_text("whole")

    cache.build_once(target, ["file"], build)
    assert (target / "file").read_text() == "whole"


def test_a_result_that_lost_a_file_is_built_again(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "a").write_text("old")

    def build(directory: Path) -> None:
        for name in "ab":
            (directory / name).write_text("new")

    assert cache.build_once(target, ["a", "b"], build) == target
    assert {path.name: path.read_text() for path in target.iterdir()} == {"a": "new", "b": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
