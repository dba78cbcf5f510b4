"""Tokens per second of one server with several replicas, each on GPUs of its own.

    python benchmarks/replicas.py --model DIR [--replicas 1 2] [--concurrency 256] [--json FILE] [-- FLAGS]

For each number of replicas this server is started on DIR with random weights and without prefix caching.
Once all replicas are ready, `trtllm-openai bench` sends `--concurrency` requests at once per replica, three
times as many in all; the server is stopped, with its GPU memory free, before the next start. FLAGS are
further flags of the server, such as `--torch.tensor-parallel-size 2` or `--workers 4`. The ratio is to the
first row.

Needs only the standard library and this repository. Status 1: a server did not come up, a request failed, or
two replicas share a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "app"), str(ROOT)]

from benchmarks.bench_client import bench, number_of, table  # noqa: E402
from benchmarks.compare_servers import Failure, get, nvidia_smi, ours, started, stop_by_signals, tail  # noqa: E402

REQUESTS = 3
"""Requests per concurrent one."""
READY_WITHIN = 300.0
"""Seconds until the last replica is ready after the first."""


def gpus_of(runners: list[dict[str, Any]], present: int) -> list[str]:
    """The GPUs of each replica, from /status; `-` on the CPU. `present`: number of GPUs of this machine.

    Raises `Failure` if two replicas share a GPU, or may because none was assigned.
    """
    found = [runner["gpus"] for runner in runners]
    every = [gpu for gpus in found if gpus for gpu in gpus.split(",")]
    if present and len(found) > 1 and (None in found or len(set(every)) != len(every)):
        raise Failure(f"the replicas are not on GPUs of their own: {found}")
    return [gpus or "-" for gpus in found]


def wait_for_all(url: str, number: int) -> dict[str, Any]:
    """Wait until `number` replicas are ready, since a server is with one. Returns the body of /status.

    Raises `Failure`.
    """
    deadline = time.monotonic() + READY_WITHIN
    while True:
        status: dict[str, Any] = json.loads(get(f"{url}/status") or b'{"runners": []}')
        states = [runner["state"] for runner in status["runners"]]
        if states.count("ready") == number:
            return status
        if time.monotonic() > deadline:
            raise Failure(f"{number} replicas were not ready in {READY_WITHIN:.0f} s: {states}")
        time.sleep(0.2)


def measure(arguments: argparse.Namespace, flags: list[str], number: int, scratch: Path) -> dict[str, Any]:
    """Start a server of `number` replicas, drive it and stop it. Raises `Failure`."""
    side = ours(["--replicas", str(number), *flags])
    load = {"concurrency": arguments.concurrency * number, "requests": 0}
    load["requests"] = REQUESTS * load["concurrency"]
    load |= {"input": arguments.input_tokens, "output": arguments.output_tokens}
    with started(side, arguments.model, dummy=True, log=scratch / "server.log") as server:
        status = wait_for_all(server.url, number)
        print(f"{number} replicas: the first ready after {server.seconds:.1f} s", flush=True)
        gpus = gpus_of(status["runners"], len(nvidia_smi("name")))
        result, text = bench(server.url, load, side.env, scratch)
    if not result:
        raise Failure(f"bench gave no result; the end of what it said:\n{tail(text)}")
    return {"replicas": number, "gpus": gpus, "workers": status["workers"], **load, **result}


def report(rows: list[dict[str, Any]]) -> str:
    """Table of all measurements."""
    lines = []
    for row in rows:
        clean = not (row["errors"] or rows[0]["errors"])
        ratio = f"{row['tokens_per_s'] / rows[0]['tokens_per_s']:.2f}" if clean else "errors"
        values = (row[name] for name in ("tokens_per_s", "tpot_p50", "ttft_p50", "ttft_p99"))
        what = [str(row["replicas"]), "; ".join(row["gpus"]), str(row["concurrency"])]
        lines.append([*what, *map(number_of, values), ratio])
    times = "median TPOT, ms | p50 TTFT, ms | p99 TTFT, ms"
    return table(f"replicas | GPUs of each | at once | output tok/s | {times} | ratio", lines)


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse the arguments. Also returns the flags after `--`."""
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="After --: flags of the server."
    )
    parser.add_argument("--model", required=True, help="checkpoint directory")
    parser.add_argument("--replicas", type=positive, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--concurrency", type=positive, default=256, metavar="N", help="per replica")
    parser.add_argument("--input-tokens", type=positive, default=512, metavar="N")
    parser.add_argument("--output-tokens", type=positive, default=256, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")
    arguments = parser.parse_args(argv[:cut])
    if Path(arguments.model).is_dir():
        arguments.model = str(Path(arguments.model).resolve())
    return arguments, argv[cut + 1 :]


def positive(text: str) -> int:
    """Parse a positive integer. Raises ValueError."""
    number = int(text)
    if number <= 0:
        raise ValueError(text)
    return number


def main(argv: list[str]) -> int:
    arguments, flags = parse(argv)
    stop_by_signals()
    rows: list[dict[str, Any]] = []
    failure = ""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for number in arguments.replicas:
                rows.append(measure(arguments, flags, number, Path(scratch)))
                print(f"   {rows[-1]['tokens_per_s']:.0f} tok/s", flush=True)
        except (Failure, KeyboardInterrupt) as error:
            failure = str(error) or "interrupted"
    if rows:
        shape = f"{arguments.input_tokens} tokens in, {arguments.output_tokens} out"
        print(f"\n{', '.join(nvidia_smi('name')) or 'no GPU'}; {arguments.model}, {shape}\n\n{report(rows)}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"runs": rows, "failure": failure}, indent=2) + "\n")
    if failure:
        print(failure, file=sys.stderr)
    return 1 if failure or any(row["errors"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
