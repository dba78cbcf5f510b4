"""How `benchmarks/compare.py` reads its flags and clients, and what it makes of the runs."""

import json
from pathlib import Path

import pytest

from benchmarks.compare import Comparison, Run, parse, ratios, read_vllm, shared_flags

VLLM = """\
============ Serving Benchmark Result ============
Successful requests:                     99
Failed requests:                         {failed}
Maximum request concurrency:             16
Benchmark duration (s):                  57.32
Output token throughput (tok/s):         2241.42
Peak output token throughput (tok/s):    3000.00
Total token throughput (tok/s):          8147.03
---------------Time to First Token----------------
Mean TTFT (ms):                          539.10
Median TTFT (ms):                        600.49
P99 TTFT (ms):                           813.25
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          36.13
Median TPOT (ms):                        22.10
P99 TPOT (ms):                           324.17
---------------Inter-token Latency----------------
Mean ITL (ms):                           23.88
Median ITL (ms):                         22.00
P99 ITL (ms):                            26.00
==================================================
"""


def run(start: int, server: str, speed: float, tpot: float | None = None, errors: int = 0) -> Run:
    return Run(start, server, "bench", 16, speed, {"HTTP 500": errors} if errors else {}, {}, tpot)


def test_what_vllms_client_prints_is_read() -> None:
    found = read_vllm(VLLM.format(failed=0))
    assert found["said"]["Successful requests"] == "99"
    del found["said"]
    assert found == {
        "tokens_per_s": 2241.42, "errors": {}, "tpot_p50": 22.1, "ttft_p50": 600.49, "ttft_p99": 813.25,
        "itl_p99": 26.0,
    }  # fmt: skip
    assert read_vllm(VLLM.format(failed=3))["errors"] == {"failed": 3}
    assert (
        read_vllm("Traceback (most recent call last):\nModuleNotFoundError: No module named 'pandas'") == {}
    )


def test_a_ratio_is_of_servers_that_ran_one_after_the_other() -> None:
    runs = [run(1, "vllm", 100, 10), run(2, "ours", 110, 9), run(3, "ours", 90, 12), run(4, "vllm", 120, 8)]
    assert ratios(runs, "vllm").splitlines()[2:] == ["| bench | 16 | 1.10, 0.75 | 0.90, 1.50 | -, - |"]
    assert ratios(runs[:3], "vllm").splitlines()[2:] == ["| bench | 16 | 1.10 | 0.90 | - |"]
    assert ratios(runs[:1], "vllm").splitlines()[2:] == ["| bench | 16 | - | - | - |"]


def test_each_start_of_ours_around_the_peer_has_its_ratio() -> None:
    runs = [run(1, "ours", 110, 9), run(2, "vllm", 100, 10), run(3, "ours", 90, 12)]
    assert ratios(runs, "vllm").splitlines()[2:] == ["| bench | 16 | 1.10, 0.90 | 0.90, 1.20 | -, - |"]
    assert ratios(runs[:2], "vllm").splitlines()[2:] == ["| bench | 16 | 1.10 | 0.90 | - |"]


def test_there_is_no_ratio_where_requests_failed() -> None:
    runs = [run(1, "vllm", 100, 10), run(2, "ours", 110, 9, errors=1)]
    assert ratios(runs, "vllm").endswith("| bench | 16 | errors | errors | errors |")


def test_the_number_of_requests_follows_concurrency() -> None:
    arguments, flags = parse(["--model", "demo", "--peer", "self", "--", "--model", "other"])
    assert [load["requests"] for load in arguments.loads] == [6, 64, 256, 768]
    assert (arguments.model, flags) == ("demo", ["--model", "other"])


def test_both_servers_get_the_gpus_and_the_quantization(tmp_path: Path) -> None:
    given = [
        "--model",
        str(tmp_path),
        "--tensor-parallel-size",
        "2",
        "--quantization",
        "fp8",
        "--",
        "--log-bodies",
    ]
    arguments, flags = parse(given)
    whole = Comparison(arguments, flags, tmp_path)
    assert shared_flags(whole.ours, arguments) == [
        "--torch.tensor-parallel-size", "2", "--torch.quantization", "fp8",
    ]  # fmt: skip
    size, two, config, json_, *quantized = shared_flags(whole.peer, arguments)
    assert (size, two, config) == ("--tensor-parallel-size", "2", "--compilation-config")
    assert json.loads(json_) == {"pass_config": {"fuse_allreduce_rms": False}}
    assert quantized == ["--quantization", "fp8"]
    assert whole.peer.env["VLLM_ALLREDUCE_USE_SYMM_MEM"] == "0"
    assert whole.ours.flags == ["--log-bodies"]
    arguments, _ = parse(["--model", str(tmp_path)])
    assert shared_flags(whole.ours, arguments) == shared_flags(whole.peer, arguments) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model", "demo"], "vllm needs one"),
        (["--model", "demo", "--peer", "self", "--peer-client"], "no client of its own"),
        (["--model", "demo", "--peer", "self", "--requests-per", "1,2"], "as many numbers"),
        (["--model", "demo", "--peer", "self", "--concurrency", "0"], "--concurrency"),
    ],
)
def test_wrong_flags_are_told(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(flags)
    assert said in capsys.readouterr().err
