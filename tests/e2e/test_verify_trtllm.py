"""`make verify-trtllm` against the fake: it passes where the contract holds and fails where it does not."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import python_path
from tests.fakes.engine_dir import make_engine_dir

ROOT = Path(__file__).parents[2]
FAKES = ROOT / "tests" / "fakes"


def verify(model: Path, tokenizer: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/verify_trtllm.py", str(model), str(tokenizer)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "0", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_it_passes_on_the_fake(tmp_path: Path, demo_dir: Path) -> None:
    model = make_engine_dir(tmp_path, tokenizer=demo_dir)
    done = verify(model, model / "tokenizer", PYTHONPATH=python_path(FAKES))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 24
    assert all(line.startswith("OK ") for line in lines)


def test_it_fails_where_a_name_is_gone(tmp_path: Path, demo_dir: Path) -> None:
    import shutil

    changed = tmp_path / "fakes" / "tensorrt_llm"
    shutil.copytree(FAKES / "tensorrt_llm", changed)
    bindings = changed / "bindings" / "executor.py"
    gone = 'SamplingConfig = lambda **_: (_ for _ in ()).throw(TypeError("no allotted_time_ms"))\n'
    bindings.write_text(bindings.read_text() + gone)
    model = make_engine_dir(tmp_path / "m", tokenizer=demo_dir)
    done = verify(model, model / "tokenizer", PYTHONPATH=python_path(changed.parent, FAKES))
    assert done.returncode == 1
    assert "FAIL  name SamplingConfig" in done.stdout
    assert "allotted_time_ms" in done.stdout


def test_it_says_that_tensorrt_llm_is_not_here(tmp_path: Path) -> None:
    done = verify(tmp_path, tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("FAIL  import")
