"""Compares this server with another: the same load and client, one after the other on one machine.

    python benchmarks/compare.py --model DIR [--peer-python PYTHON] [--order ORDER] [--json FILE] [-- FLAGS]

Each server is started on DIR with random weights (`--real-weights`: those of DIR) and without prefix caching,
driven by `trtllm-openai bench` at each concurrency, and stopped, with its GPU memory free, before the next
one starts. FLAGS are further flags of this server; `--tensor-parallel-size` and `--quantization` are for
both. `--order both` runs each server twice (peer, ours, ours, peer), `--order around` this one before and
after one start of the peer, which may take minutes (ours, peer, ours); the table shows every run.
`--peer-client` repeats the loads with the peer's own client on both servers, to tell client differences from
server differences. `--peer self` is the control, this server as its own peer: the deviation of its ratios
from 1 is the noise of the method.

Needs only the standard library and this repository. Status 1: a server did not come up or a request failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "app"), str(ROOT)]

from benchmarks.bench_client import Load, bench, number_of, run, table  # noqa: E402
from benchmarks.compare_servers import (  # noqa: E402
    PEERS,
    Failure,
    Server,
    Side,
    get,
    nvidia_smi,
    ours,
    started,
    stop_by_signals,
    tail,
)

ORDERS = {
    "peer-first": "peer ours",
    "ours-first": "ours peer",
    "both": "peer ours ours peer",
    "around": "ours peer ours",
}


@dataclass(frozen=True, slots=True)
class Run:
    """Result of one load with one client. Times in milliseconds; None if not measured."""

    start: int
    """Number of the server start, from 1."""
    server: str
    client: str
    concurrency: int
    tokens_per_s: float
    errors: dict[str, int]
    said: Any
    """Complete output of the client."""
    tpot_p50: float | None = None
    ttft_p50: float | None = None
    ttft_p99: float | None = None
    itl_p99: float | None = None


def read_vllm(text: str) -> dict[str, Any]:
    """Parse the output of vLLM's client; empty without a result."""
    found = dict(re.findall(r"^([A-Z][^:\n]*): +([\d.]+) *$", text, re.MULTILINE))
    if "Output token throughput (tok/s)" not in found:
        return {}
    failed = int(found.get("Failed requests", 0))
    result = {"tokens_per_s": float(found["Output token throughput (tok/s)"]), "said": found}
    result["errors"] = {"failed": failed} if failed else {}
    for name, label in (("tpot_p50", "Median TPOT"), ("ttft_p50", "Median TTFT"), ("ttft_p99", "P99 TTFT")):
        result[name] = float(found[f"{label} (ms)"])
    return {**result, "itl_p99": float(found["P99 ITL (ms)"])}


class Comparison:
    """The comparison that the command line requests, with its runs so far."""

    def __init__(self, arguments: argparse.Namespace, flags: list[str], scratch: Path) -> None:
        self._arguments = arguments
        self._scratch = scratch
        own = arguments.peer == "self"
        env = dict(os.environ)
        path = {} if arguments.peer_path is None else {"PYTHONPATH": arguments.peer_path}
        self.ours = ours(flags)
        # not in the repository, whose directories could shadow the peer's modules
        where = ROOT if own else scratch
        kind, more = PEERS[arguments.peer], flags if own else []
        env = env | path | dict(kind.environment)
        self.peer = Side(arguments.peer, kind, arguments.peer_python, where, env, more)
        self.runs: list[Run] = []
        self.servers: list[dict[str, Any]] = []

    def check(self) -> None:
        """Check early that the peer is installed. Raises `Failure`."""
        python, module = self.peer.python, self.peer.kind.module
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
        try:
            done = subprocess.run([python, "-c", code], cwd=self.peer.cwd, env=self.peer.env)
        except OSError as error:
            raise Failure(f"--peer-python: {python} cannot be run: {error.strerror}") from None
        if done.returncode:
            raise Failure(f"{python} has no {module}: --peer-python and --peer-path say where it is")

    def measure(self, side: Side) -> None:
        """Start a server, run all loads, stop it. Raises `Failure`."""
        arguments, number = self._arguments, len(self.servers) + 1
        log = self._scratch / f"{number}.log"
        side = replace(side, flags=shared_flags(side, arguments) + side.flags)
        with started(side, arguments.model, dummy=not arguments.real_weights, log=log) as server:
            version = (get(f"{server.url}/version") or b"").decode(errors="replace")
            print(f"{number}. {side.name} {version}: ready after {server.seconds:.1f} s", flush=True)
            told = {"server": side.name, "version": version, "ready_s": server.seconds}
            self.servers.append({**told, "command": server.command})
            for client in ("bench", arguments.peer) if arguments.peer_client else ("bench",):
                for load in arguments.loads:
                    if server.process.poll() is None:
                        self._drive(number, side.name, server, client, load)

    def _drive(self, number: int, name: str, server: Server, client: str, load: Load) -> None:
        if client == "bench":
            result, text = bench(server.url, load, self.ours.env, self._scratch)
        else:
            words = {"url": server.url, "model": self._arguments.model, **load}
            text = run(self.peer.command(self.peer.kind.client, **words), self.peer.cwd, self.peer.env)
            result = read_vllm(text)
        if not result:
            print(f"{client} gave no result; the end of what it said:\n{tail(text)}", file=sys.stderr)
            result = {"tokens_per_s": 0.0, "errors": {"no result": load["requests"]}, "said": text}
        done = Run(number, name, client, load["concurrency"], **result)
        self.runs.append(done)
        errors = f", errors: {done.errors}" if done.errors else ""
        print(f"   {client} at {done.concurrency}: {done.tokens_per_s:.0f} tok/s{errors}", flush=True)


def shared_flags(side: Side, arguments: argparse.Namespace) -> list[str]:
    """Flags of a server for what both have: number of GPUs and quantization."""
    flags, size = [], arguments.tensor_parallel_size
    if size > 1:
        flags += [word.format(size=size) for word in side.kind.parallel.split()]
    if arguments.quantization is not None:
        flags += [word.format(kind=arguments.quantization) for word in side.kind.quantized.split()]
    return flags


def every_run(runs: list[Run]) -> str:
    """Table with a line per run, grouped by load."""
    rows = []
    for one in sorted(runs, key=lambda one: (one.client != "bench", one.concurrency, one.start)):
        values = (one.tokens_per_s, one.tpot_p50, one.ttft_p50, one.ttft_p99, one.itl_p99)
        errors = ", ".join(f"{kind}: {count}" for kind, count in one.errors.items()) or "none"
        what = [one.client, str(one.concurrency), f"{one.start}. {one.server}"]
        rows.append([*what, *map(number_of, values), errors])
    times = "median TPOT, ms | p50 TTFT, ms | p99 TTFT, ms | p99 ITL, ms"
    return table(f"client | at once | server | output tok/s | {times} | errors", rows)


def ratio(ours: Run, peer: Run, name: str) -> str:
    """Ratio of ours to the peer's; `errors` if a request failed, since that eases the load."""
    if ours.errors or peer.errors:
        return "errors"
    mine, other = getattr(ours, name), getattr(peer, name)
    return f"{mine / other:.2f}" if mine and other else "-"


def ratios(runs: list[Run], peer: str) -> str:
    """Table of ratios, ours / peer, per load: one number per start of ours right before or after the peer."""
    rows = []
    for client, level in dict.fromkeys((one.client, one.concurrency) for one in runs):
        here = [one for one in runs if (one.client, one.concurrency) == (client, level)]
        mine, others = ([one for one in here if one.server == name] for name in ("ours", peer))
        pairs = [(own, other) for own in mine for other in others if abs(own.start - other.start) == 1]
        names = ("tokens_per_s", "tpot_p50", "ttft_p50")
        values = [", ".join(ratio(*pair, name) for pair in pairs) or "-" for name in names]
        rows.append([client, str(level), *values])
    return table(f"client | at once | ours / {peer}: output tok/s | median TPOT | p50 TTFT", rows)


def positive(text: str) -> list[int]:
    """Parse positive integers such as `1,16,64`. Raises ValueError."""
    found = [int(word) for word in text.split(",")]
    if min(found) <= 0:
        raise ValueError(text)
    return found


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse the arguments; adds `loads`. Also returns the flags after `--`."""
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="After --: flags of ours.")
    parser.add_argument("--model", required=True, help="checkpoint directory")
    parser.add_argument("--real-weights", action="store_true", help="load the weights; default: random")
    parser.add_argument("--peer", default="vllm", choices=PEERS)
    parser.add_argument("--peer-python", default=sys.executable, metavar="PYTHON", help="of the peer")
    parser.add_argument("--peer-path", metavar="PYTHONPATH", help="PYTHONPATH of the peer")
    parser.add_argument("--tensor-parallel-size", type=int, default=1, metavar="GPUS")
    parser.add_argument("--quantization", choices=["fp8"])
    parser.add_argument("--peer-client", action="store_true", help="measure with the peer's client too")
    parser.add_argument("--order", default="peer-first", choices=ORDERS)
    parser.add_argument("--concurrency", type=positive, default=[1, 16, 64, 256], metavar="N,N,...")
    how_many = "of each; default: 4 x concurrency, 3 x from 256 on, at least 6"
    parser.add_argument("--requests-per", type=positive, metavar="N,N,...", help=how_many)
    parser.add_argument("--input-tokens", type=int, default=512, metavar="N")
    parser.add_argument("--output-tokens", type=int, default=256, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")
    arguments = parser.parse_args(argv[:cut])
    levels = arguments.concurrency
    counts = arguments.requests_per or [max(6, (4 if level < 256 else 3) * level) for level in levels]
    if len(counts) != len(levels):
        parser.error("--requests-per: it must have as many numbers as --concurrency")
    if Path(arguments.model).is_dir():
        arguments.model = str(Path(arguments.model).resolve())
    elif arguments.peer != "self":
        parser.error(f"--model: {arguments.model} is no directory, and {arguments.peer} needs one")
    if arguments.peer_client and not PEERS[arguments.peer].client:
        parser.error(f"--peer-client: {arguments.peer} has no client of its own")
    shape = {"input": arguments.input_tokens, "output": arguments.output_tokens}
    pairs = zip(levels, counts, strict=True)
    arguments.loads = [{"concurrency": level, "requests": count, **shape} for level, count in pairs]
    return arguments, argv[cut + 1 :]


def main(argv: list[str]) -> int:
    arguments, flags = parse(argv)
    stop_by_signals()
    gpus, failure = nvidia_smi("name"), ""
    with tempfile.TemporaryDirectory() as scratch:
        whole = Comparison(arguments, flags, Path(scratch))
        try:
            whole.check()
            for name in ORDERS[arguments.order].split():
                whole.measure(whole.ours if name == "ours" else whole.peer)
        except (Failure, KeyboardInterrupt) as error:
            failure = str(error) or "interrupted"
    if whole.runs:
        shape = f"{arguments.input_tokens} tokens in, {arguments.output_tokens} out"
        print(f"\n{', '.join(gpus) or 'no GPU'}; {arguments.model}, {shape}\n\n{every_run(whole.runs)}")
        print(f"\n{ratios(whole.runs, arguments.peer)}")
    if arguments.json is not None:
        result = {"gpus": gpus, "settings": vars(arguments) | {"flags": flags}, "servers": whole.servers}
        result |= {"runs": [asdict(one) for one in whole.runs], "failure": failure}
        arguments.json.write_text(json.dumps(result, indent=2, default=str) + "\n")
    if failure:
        print(failure, file=sys.stderr)
    return 1 if failure or any(one.errors for one in whole.runs) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
