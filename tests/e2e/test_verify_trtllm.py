"""`make verify-trtllm` against the fake: it passes where the contract holds, and each row can fail."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.trtllm_checks import adapters as adapters_check
from scripts.trtllm_checks.adapters import (
    EVICTED,
    cache_for_one,
    check_adapters,
    check_evicted,
    given_adapters,
)
from scripts.trtllm_checks.answers import check_answers
from scripts.trtllm_checks.limits import FLAGS, check_killed_rank, check_limits
from scripts.trtllm_checks.lookahead import check_lookahead
from scripts.trtllm_checks.server import Server
from scripts.trtllm_checks.table import Row
from tests.conftest import python_path
from tests.e2e.conftest import serve
from tests.fakes.engine_dir import LOOKAHEAD, LORA, make_adapter, make_engine_dir
from trtllm_openai.engines.tensorrt_llm.engine_dir import read_engine_dir

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
    "adapter": "LoRA: their texts differ from the base model's",
    "adapter's repetition": "LoRA: an adapter's text repeats",
    "adapter's blocks": "LoRA: KV blocks are not shared",
}
"""What the fake does wrong, and the row that must say so."""
KILLED = {"orchestrator: a killed rank", "leader: a killed rank"}
BESIDE = "bad guides beside good streams"
UNCHECKED = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "xgrammar" else found(name, *rest)
"""
"""A sitecustomize.py that hides XGrammar from the check of guides, but not from the executor."""


def lora_flags(tmp_path: Path, *names: str) -> list[str]:
    """Adapters that shift the fake's answers by 1, 2, …"""
    adapters = {name: make_adapter(tmp_path / name, shift) for shift, name in enumerate(names, 1)}
    return [word for name, path in adapters.items() for word in (adapters_check.FLAG, f"{name}={path}")]


def verify(
    model: Path, *paths: Path, world: int = 1, flags: Sequence[str] = (), **behaviour: object
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/verify_trtllm.py", str(model / "engine"), str(model / "tokenizer")]
        + (["--", *flags] if flags else []),
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


def test_it_passes_on_two_gpus_but_for_guides(tmp_path: Path, demo_dir: Path) -> None:
    """As the next test, on a server without guides, which begins, and begins again, without XGrammar."""
    model = make_engine_dir(tmp_path, 2, tokenizer=demo_dir, **LORA)
    flags = ["--tensorrt-llm.guided-decoding", "false", *lora_flags(tmp_path, "sql", "ko")]
    done = verify(model, FAKES, world=2, flags=flags)
    found = rows(done)
    wrong = {name for name, (ok, _) in found.items() if not ok}
    assert wrong == {name for name in found if name.startswith("guide: ")}, done.stdout + done.stderr
    assert WRONG["guides"] in wrong
    assert done.returncode == 1
    assert set(found) > KILLED
    assert found[EVICTED][1] == "2 times"


@pytest.mark.slow
def test_it_passes_on_two_gpus(tmp_path: Path, demo_dir: Path) -> None:
    """In both launch modes: spawned ranks, and ranks under mpirun; with adapters, of which one is kept."""
    model = make_engine_dir(tmp_path, 2, tokenizer=demo_dir, **LORA)
    done = verify(model, FAKES, world=2, flags=lora_flags(tmp_path, "sql", "ko"))
    found = rows(done)
    assert not {name for name, (ok, _) in found.items() if not ok}, done.stdout + done.stderr
    assert done.returncode == 0
    assert {BESIDE, *KILLED, *WRONG.values()} < set(found)
    assert found[EVICTED][1] == "2 times"
    assert found["lookahead"][1].startswith("does not apply")


@pytest.mark.slow
def test_what_differs_is_printed(tmp_path: Path, demo_dir: Path) -> None:
    changed = tmp_path / "fakes" / "tensorrt_llm"
    shutil.copytree(FAKES / "tensorrt_llm", changed)
    bindings = changed / "bindings" / "executor.py"
    gone = "CommunicationMode = type('CommunicationMode', (), {})\n"
    bindings.write_text(bindings.read_text() + gone)
    (changed.parent / "sitecustomize.py").write_text(UNCHECKED)
    model = make_engine_dir(tmp_path / "m", tokenizer=demo_dir, **LORA)
    wrong = [one for one in WRONG if one != "adapter"]  # which would hide that its text does not repeat
    done = verify(model, changed.parent, FAKES, flags=lora_flags(tmp_path, "sql", "ko"), wrong=wrong)
    assert done.returncode == 1
    found = rows(done)
    failed = {name: text for name, (ok, text) in found.items() if not ok}
    wanted = {"name CommunicationMode.LEADER", BESIDE, *(WRONG[one] for one in wrong)}
    assert wanted <= set(failed), done.stdout
    assert all(failed.values()), "each says what differs"
    assert found["stop string"][0]


@pytest.mark.slow
def test_it_passes_on_an_engine_for_lookahead(tmp_path: Path, demo_dir: Path) -> None:
    model = make_engine_dir(tmp_path, tokenizer=demo_dir, **LOOKAHEAD)
    done = verify(model, FAKES, burst=3)
    found = rows(done)
    assert not {name for name, (ok, _) in found.items() if not ok}, done.stdout + done.stderr
    assert found["lookahead: tokens per step"][1] == "60 tokens in 20 steps"
    assert found["seed"][1] == "does not apply: the engine was built for lookahead_decoding"
    assert found["LoRA"][1] == "does not apply: the engine was built without LoRA"


@contextmanager
def served(model: Path, *flags: str, **behaviour: object) -> Iterator[Server]:
    env = {
        "PYTHONPATH": python_path(FAKES),
        "CUDA_VISIBLE_DEVICES": "0",
        "FAKE_TRTLLM": json.dumps({"itl": ITL, **behaviour}),
    }
    with (
        serve("--engine", "tensorrt_llm", "--model", str(model), *flags, env=env) as running,
        Server(running.url, running.process.pid) as server,
    ):
        yield server


def failed(table: Sequence[Row]) -> dict[str, str]:
    return {row.name: row.fact for row in table if not row.ok}


def test_adapters_that_are_not_as_they_should(tmp_path: Path, demo_dir: Path) -> None:
    """An adapter that changes nothing, one that is not served, and one with the name that must be unknown."""
    model = make_engine_dir(tmp_path / "m", tokenizer=demo_dir, **LORA)
    flags = lora_flags(tmp_path, "sql", adapters_check.UNKNOWN)
    with served(model, *flags, wrong=["adapter"]) as server:
        found = failed(check_adapters(server, ["sql"]))
        assert set(found) == {
            "LoRA: adapters are models",
            "LoRA: their texts differ from the base model's",
            "LoRA: unknown adapter",
        }
        assert found["LoRA: their texts differ from the base model's"].endswith(": sql")
        assert check_evicted(server, ["sql"]).fact == "not shown: it takes two adapters"


@pytest.mark.slow
def test_an_adapter_that_is_gone_without_a_word(tmp_path: Path, demo_dir: Path) -> None:
    """The host cache holds one of two adapters; the fake answers without the one that it has dropped."""
    model = make_engine_dir(tmp_path / "m", tokenizer=demo_dir, **LORA)
    flags = lora_flags(tmp_path, "sql", "ko")
    engine = read_engine_dir(model / "engine")
    cache = cache_for_one(engine, given_adapters(engine, flags))
    with served(model, *flags, *cache, wrong=["evicted adapter"]) as server:
        assert not check_evicted(server, ["sql", "ko"]).ok


@pytest.mark.slow
def test_an_engine_for_lookahead_that_does_not_decode_greedily(tmp_path: Path, demo_dir: Path) -> None:
    model = make_engine_dir(tmp_path, tokenizer=demo_dir, **LOOKAHEAD)
    with served(model, burst=3, wrong=["greedy", "min_tokens"]) as server:
        assert "lookahead: greedy without a word" in failed(check_lookahead(server))
        assert {"min_tokens", "stop string"} <= set(failed(check_answers(server, "lookahead_decoding")))


def test_what_lookahead_must_refuse(tmp_path: Path, demo_dir: Path) -> None:
    model = make_engine_dir(tmp_path, tokenizer=demo_dir)
    with served(model) as server:
        assert set(failed(check_lookahead(server))) == {
            "lookahead: greedy without a word",
            "lookahead: refused by name",
        }


def test_cancellations_without_effect_and_ranks_that_are_not_there(tmp_path: Path, demo_dir: Path) -> None:
    model = make_engine_dir(tmp_path, tokenizer=demo_dir)
    with served(model, *FLAGS, wrong=["cancel"]) as server:
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
