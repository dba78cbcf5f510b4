"""A model that the server has and the node of a runner has not."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import python_path
from tests.fakes.hub import REPOSITORY, hub
from trtllm_openai.config import Settings
from trtllm_openai.engine_host.loader import ModelFiles
from trtllm_openai.engine_host.node_files import node_files
from trtllm_openai.errors import CheckpointError

PROGRAM = """if True:
    import sys
    from trtllm_openai.config import Settings
    from trtllm_openai.engine_host.loader import ModelFiles
    from trtllm_openai.engine_host.node_files import node_files
    settings = Settings(model=sys.argv[1], cache_dir="cache", runners={"launcher": "ray"})
    files = ModelFiles("/other/machine", "/other/machine", 100, (2,))
    seen = []
    found = node_files(settings, files, lambda share, what: seen.append(what))
    assert found.model_dir == found.tokenizer_dir
    print(found.model_dir, *seen, sep="\\n")
"""


def wanted(model: str, cache: Path, launcher: str = "ray") -> Settings:
    return Settings.model_validate(
        {"model": model, "cache_dir": str(cache), "runners": {"launcher": launcher}}
    )


def test_a_node_fills_its_cache_once(few_layers: Path, tmp_path: Path) -> None:
    """Two runners of a node begin at the same time: each file is downloaded once."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}

    def start(endpoint: str) -> list[str]:
        own = {"PYTHONPATH": python_path(), "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": endpoint}
        command = [sys.executable, "-c", PROGRAM, REPOSITORY]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment | own, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    with hub(few_layers) as server, ThreadPoolExecutor(2) as executor:
        (first, *seen), (second, *also) = executor.map(start, [server.url] * 2)
        assert first == second
        assert Path(first).is_relative_to(tmp_path / "home")
        assert (Path(first) / "model.safetensors").is_file()
        assert any(what.startswith("downloading org/name") for what in (*seen, *also))
        assert all(what.endswith(f" on {os.uname().nodename}") for what in (*seen, *also))
        bodies = [path for method, path, *_ in server.asked if method == "GET" and "resolve" in path]
        assert len(bodies) == len(set(bodies))


def test_what_is_there_is_used(few_layers: Path, tmp_path: Path) -> None:
    files = ModelFiles(str(few_layers), str(few_layers), 100, (2,))
    assert node_files(wanted(str(few_layers), tmp_path), files, lambda *_: None) == files
    elsewhere = ModelFiles("/other/machine", "/tokenizer", 100, (2,))
    found = node_files(wanted(str(few_layers), tmp_path), elsewhere, lambda *_: None)
    assert (found.model_dir, found.tokenizer_dir) == (str(few_layers), "/tokenizer")
    assert node_files(wanted("a/b", tmp_path, "local"), elsewhere, lambda *_: None) is elsewhere


def test_a_model_that_the_node_cannot_have(tmp_path: Path) -> None:
    elsewhere = ModelFiles("/other/machine", "/other/machine", 100, (2,))
    with pytest.raises(CheckpointError, match="There is no model at"):
        node_files(wanted("/other/machine", tmp_path), elsewhere, lambda *_: None)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        node_files(wanted("/a", tmp_path / "file" / "cache"), elsewhere, lambda *_: None)
