"""`make verify-trtllm` against the fake: it passes where the contract holds, and each row can fail."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.trtllm_checks.limits import FLAGS, check_killed_rank, check_limits
from scripts.trtllm_checks.server import Server
from tests.conftest import python_path
from tests.e2e.conftest import serve
from tests.fakes.engine_dir import make_engine_dir

ROOT = Path(__file__).parents[2]
FAKES = ROOT / "tests" / "fakes"
ITL = 0.01
WRONG = {
    "seed": "seed",
    "min_tokens": "min_tokens",
    "normalize_log_probs": "greedy logprobs below 0",
    "reuse": "cached tokens of a repeated prompt",
    "guides": "guide: json_schema",
    "queue": "full queue",
    "priority": "priority",
}
"""What the fake does wrong, and the row that must say so."""
BESIDE = "bad guides beside good streams"
UNCHECKED = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "xgrammar" else found(name, *rest)
"""
"""A sitecustomize.py that hides XGrammar from the check of guides, but not from the executor."""


def verify(
    model: Path, *paths: Path, world: int = 1, **behaviour: object
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/verify_trtllm.py", str(model / "engine"), str(model / "tokenizer")],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": python_path(*paths),
            "PATH": f"{FAKES}:{os.environ['PATH']}",  # its mpirun
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(world))),
            "FAKE_TRTLLM": json.dumps({"itl": ITL, **behaviour}),
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, tuple[bool, str]]:
    """Whether each row holds, and what it says."""
    found = {}
    for line in done.stdout.splitlines():
        name, _, fact = line[6:].partition("  ")
        found[name] = line.startswith("OK "), fact.strip()
    assert found, done.stderr
    return found


def test_it_passes_on_two_gpus(tmp_path: Path, demo_dir: Path) -> None:
    """In both launch modes: spawned ranks, and ranks under mpirun."""
    model = make_engine_dir(tmp_path, 2, tokenizer=demo_dir)
    done = verify(model, FAKES, world=2)
    found = rows(done)
    assert not {name for name, (ok, _) in found.items() if not ok}, done.stdout + done.stderr
    assert done.returncode == 0
    killed = {"orchestrator: a killed rank", "leader: a killed rank"}
    assert {BESIDE, *killed, *WRONG.values()} < set(found)


@pytest.mark.slow
def test_what_differs_is_printed(tmp_path: Path, demo_dir: Path) -> None:
    changed = tmp_path / "fakes" / "tensorrt_llm"
    shutil.copytree(FAKES / "tensorrt_llm", changed)
    bindings = changed / "bindings" / "executor.py"
    gone = "CommunicationMode = type('CommunicationMode', (), {})\n"
    bindings.write_text(bindings.read_text() + gone)
    (changed.parent / "sitecustomize.py").write_text(UNCHECKED)
    model = make_engine_dir(tmp_path / "m", tokenizer=demo_dir)
    done = verify(model, changed.parent, FAKES, wrong=list(WRONG))
    assert done.returncode == 1
    found = rows(done)
    wrong = {name: text for name, (ok, text) in found.items() if not ok}
    assert {"name CommunicationMode.LEADER", BESIDE, *WRONG.values()} <= set(wrong), done.stdout
    assert all(wrong.values()), "each says what differs"
    assert found["stop string"][0]


def test_cancellations_without_effect_and_ranks_that_are_not_there(tmp_path: Path, demo_dir: Path) -> None:
    model = make_engine_dir(tmp_path, tokenizer=demo_dir)
    env = {
        "PYTHONPATH": python_path(FAKES),
        "CUDA_VISIBLE_DEVICES": "0",
        "FAKE_TRTLLM": json.dumps({"itl": ITL, "wrong": ["cancel"]}),
    }
    with (
        serve("--engine", "tensorrt_llm", "--model", str(model), *FLAGS, env=env) as running,
        Server(running.url, running.process.pid) as server,
    ):
        found = {row.name: row for row in check_limits(server, 400)}
        assert not found["cancel: a running client leaves"].ok
        assert "429" in found["cancel: a running client leaves"].fact, (
            "its place, or the next one's, is taken"
        )
        assert "found the ranks []" in check_killed_rank(server, "one GPU", 400).fact


def test_it_says_that_tensorrt_llm_is_not_here(tmp_path: Path) -> None:
    done = verify(tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("FAIL  import")
