"""Models by their id on the hub, against a small hub on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import python_path
from tests.fakes.hub import REPOSITORY, hub
from trtllm_openai.checkpoints.hub import is_hub_id

SIZE = 12_000_000
"""Bytes of the weights: more than the 10 MB that the library writes at a time."""
PROGRAM = """if True:
    import json, sys
    from pathlib import Path
    from trtllm_openai.checkpoints import display_name, resolve
    from trtllm_openai.errors import CheckpointError
    seen = []
    try:
        found = resolve(sys.argv[1], Path("cache"), lambda share, what: seen.append((share, what)))
        print(json.dumps([sorted(p.name for p in found.iterdir()), display_name(sys.argv[1], found), seen]))
    except CheckpointError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
"""


def resolve(model: str, home: Path, endpoint: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Resolve in a process of its own: the hub's library reads its variables when it is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, model],
        cwd=home,
        env={
            **environment,
            "PYTHONPATH": python_path(),
            "HF_HOME": str(home),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def repository(few_layers: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "repository"
    directory.mkdir()
    for file in few_layers.glob("*.json"):
        (directory / file.name).write_bytes(file.read_bytes())
    (directory / "model.safetensors").write_bytes(bytes(SIZE))
    (directory / "pytorch_model.bin").write_bytes(b"pickle")
    (directory / "modeling_name.py").write_text("raise SystemExit")
    return directory


def test_ids() -> None:
    for model in ("org/name", "Qwen/Qwen3-0.6B", "org/name@main", "o-r.g/n_a@refs/pr/1"):
        assert is_hub_id(model)
    for model in ("name", "./org/name", "/org/name", "a/b/c", "../x/y", "~/name", "org/name@"):
        assert not is_hub_id(model)


def test_a_model_is_downloaded_once_without_code_and_then_needs_no_network(
    repository: Path, tmp_path: Path
) -> None:
    with hub(repository) as server:
        done = resolve(REPOSITORY, tmp_path, server.url, HF_TOKEN="hf_secret")
        assert done.returncode == 0, done.stderr
        files, name, seen = json.loads(done.stdout)
        assert "model.safetensors" in files
        assert not {"pytorch_model.bin", "modeling_name.py"} & set(files)
        assert name == REPOSITORY
        assert seen[0] == [0.0, "downloading org/name (0.0 GB)"]
        assert {key for _, path, _, key in server.asked if "org/name" in path} == {"Bearer hf_secret"}
        bodies = [path for method, path, *_ in server.asked if method == "GET" and "resolve" in path]
        assert len(bodies) == len(set(bodies)) == len(files)
        before = len(bodies)
        again = resolve(REPOSITORY, tmp_path, server.url)
        assert again.returncode == 0
        bodies = [path for method, path, *_ in server.asked if method == "GET" and "resolve" in path]
        assert len(bodies) == before
    for variables in ({}, {"HF_HUB_OFFLINE": "1"}):
        offline = resolve(REPOSITORY, tmp_path, server.url, **variables)
        assert offline.returncode == 0, offline.stderr
        assert json.loads(offline.stdout)[0] == files


def test_an_interrupted_download_goes_on_where_it_was(repository: Path, tmp_path: Path) -> None:
    with hub(repository) as server:
        server.cut_after = SIZE - 1_000_000
        done = resolve(REPOSITORY, tmp_path, server.url)
        if done.returncode:  # the library tries again by itself or not, by its version
            done = resolve(REPOSITORY, tmp_path, server.url)
        assert done.returncode == 0, done.stderr
        ranges = [given for _, path, given, _ in server.asked if path.endswith("model.safetensors") and given]
    assert ranges
    assert all(int(given.removeprefix("bytes=").partition("-")[0]) > 0 for given in ranges)
    (weights,) = (tmp_path / "hub").glob("models--org--name/snapshots/*/model.safetensors")
    assert weights.read_bytes() == bytes(SIZE)


def test_why_there_is_no_model_is_a_sentence(repository: Path, tmp_path: Path) -> None:
    with hub(repository) as server:
        for model, said in (
            ("org/absent", f"{server.url} has no such model, or it is private and HF_TOKEN is not set"),
            (f"{REPOSITORY}@v9", "it has no revision v9"),
        ):
            done = resolve(model, tmp_path, server.url)
            assert (done.returncode, said in done.stderr) == (1, True), done.stderr
        server.gated = True
        done = resolve(REPOSITORY, tmp_path, server.url)
        assert f"it is gated: ask for access at {server.url}/org/name, and set HF_TOKEN" in done.stderr
    done = resolve(REPOSITORY, tmp_path, "http://127.0.0.1:1")
    assert done.returncode == 1
    assert "'org/name' is no directory here, and cannot be downloaded" in done.stderr
    assert "http://127.0.0.1:1 cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr
