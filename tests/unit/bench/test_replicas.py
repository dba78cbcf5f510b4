"""How `benchmarks/replicas.py` reads its flags and what servers say of their replicas."""

from typing import Any

import pytest

from benchmarks.compare_servers import Failure
from benchmarks.replicas import gpus_of, parse, report


def row(number: int, speed: float, errors: int = 0) -> dict[str, Any]:
    what = {"replicas": number, "gpus": [str(index) for index in range(number)], "concurrency": 256 * number}
    times = {"tpot_p50": 20.6, "ttft_p50": None, "ttft_p99": 500.0}
    return {**what, **times, "tokens_per_s": speed, "errors": {"HTTP 500": errors} if errors else {}}


def test_each_replica_must_have_gpus_of_its_own() -> None:
    assert gpus_of([{"gpus": "0,1"}, {"gpus": "2,3"}], 4) == ["0,1", "2,3"]
    assert gpus_of([{"gpus": None}, {"gpus": None}], 0) == ["-", "-"]
    assert gpus_of([{"gpus": None}], 2) == ["-"]
    for shared in (["0", "0"], ["0,1", "1,2"], [None, None], ["0", None]):
        with pytest.raises(Failure, match="not on GPUs of their own"):
            gpus_of([{"gpus": gpus} for gpus in shared], 2)


def test_ratios_are_to_the_first() -> None:
    assert report([row(1, 9000), row(2, 17100), row(1, 9900, errors=1)]).splitlines()[2:] == [
        "| 1 | 0 | 256 | 9000 | 20.6 | - | 500 | 1.00 |",
        "| 2 | 0; 1 | 512 | 17100 | 20.6 | - | 500 | 1.90 |",
        "| 1 | 0 | 256 | 9900 | 20.6 | - | 500 | errors |",
    ]


def test_flags() -> None:
    arguments, flags = parse(["--model", "demo", "--replicas", "1", "4", "--", "--workers", "4"])
    assert (arguments.replicas, arguments.concurrency, flags) == ([1, 4], 256, ["--workers", "4"])
    with pytest.raises(SystemExit):
        parse(["--model", "demo", "--replicas", "0"])
