"""Starts, awaits and stops the servers of a benchmark, with all of their processes.

One server at a time. Linux only: processes are found in /proc.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
READY_WITHIN, STOP_WITHIN, KILLED_WITHIN, MEMORY_WITHIN = 900.0, 60.0, 10.0, 60.0  # seconds
Process = tuple[int, str]
"""Process id and start time, since ids are reused."""
MEMORY_SLACK = 512
"""GPU memory in MiB above the initial usage that still counts as released."""
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # ignores http_proxy


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of server: arguments for `python`, separated by spaces, with {placeholders}."""

    module: str
    """Module that its Python must be able to import."""
    start: str
    dummy: str
    """Added for random weights."""
    health: str
    """Path that returns 200 once the server is ready."""
    client: str = ""
    """Its own load test; empty without one."""
    parallel: str = ""
    """Added for a model on {size} GPUs; without spaces in a value."""
    quantized: str = ""
    """Added for the quantization {kind}."""
    environment: tuple[tuple[str, str], ...] = ()


OURS = Kind(
    module="trtllm_openai",
    start="-m trtllm_openai serve --engine torch --model {model} --port {port} --served-model-name m "
    "--torch.enable-prefix-caching false",
    dummy="--torch.load-format dummy",
    health="/health/ready",
    parallel="--torch.tensor-parallel-size {size}",
    quantized="--torch.quantization {kind}",
)
PEERS = {
    "vllm": Kind(
        module="vllm",
        start="-m vllm.entrypoints.cli.main serve {model} --port {port} --served-model-name m "
        "--max-model-len 8192 --gpu-memory-utilization 0.7 --no-enable-prefix-caching "
        "--disable-uvicorn-access-log",
        dummy="--load-format dummy",
        health="/health",
        client="-m vllm.entrypoints.cli.main bench serve --backend vllm --base-url {url} --model m "
        "--tokenizer {model} --dataset-name random --max-concurrency {concurrency} --num-prompts {requests} "
        "--random-input-len {input} --random-output-len {output} --ignore-eos --temperature 0",
        # Both of its fast all-reduces over NVLink multicast are off: where the driver forbids multicast, it
        # does not start with them. Its custom one-shot all-reduce remains.
        parallel="--tensor-parallel-size {size} --compilation-config "
        '{{"pass_config":{{"fuse_allreduce_rms":false}}}}',
        quantized="--quantization {kind}",
        environment=(("VLLM_ALLREDUCE_USE_SYMM_MEM", "0"),),
    ),
    "self": OURS,
}


class Failure(Exception):  # noqa: N818 - ends the benchmark, not an error of this program
    """Ends the benchmark with a message for the user."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two compared servers, and how to run its Python."""

    name: str
    kind: Kind
    python: str
    cwd: Path
    env: dict[str, str]
    flags: list[str]

    def command(self, words: str, **values: object) -> list[str]:
        """Fill in the `start` or `client` template of a kind."""
        return [self.python, *(word.format(**values) for word in words.split())]


def ours(flags: list[str]) -> Side:
    """This server, of this repository, with further flags."""
    path = os.pathsep.join(filter(None, [str(ROOT / "app"), os.environ.get("PYTHONPATH")]))
    return Side("ours", OURS, sys.executable, ROOT, dict(os.environ) | {"PYTHONPATH": path}, flags)


def stop_by_signals() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, so that no server stays behind."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server that was ready after `seconds`."""

    process: subprocess.Popen[bytes]
    command: list[str]
    url: str
    seconds: float


def get(url: str) -> bytes | None:
    """Return the body of a 200 response, else None."""
    try:
        with OPENER.open(url, timeout=5) as answer:
            return bytes(answer.read())
    except (OSError, http.client.HTTPException):
        return None


def tail(text: str, lines: int = 40) -> str:
    """The end of a log, indented."""
    return "\n".join(f"  | {line}" for line in text.splitlines()[-lines:])


def nvidia_smi(query: str) -> list[str]:
    """A value for each GPU of CUDA_VISIBLE_DEVICES, or of the machine; empty where there is no nvidia-smi."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        command += ["-i", visible]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def gpu_memory() -> int:
    """MiB in use on the GPUs."""
    return sum(int(value) for value in nvidia_smi("memory.used") if value.strip().isdigit())


def living() -> dict[Process, tuple[int, int]]:
    """All processes except zombies, with their parent and process group ids."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text(errors="replace").rsplit(")", 1)[1].split()
            if fields[0] != "Z":
                found[int(path.parent.name), fields[19]] = int(fields[1]), int(fields[2])
    return found


def family(leader: int) -> set[Process]:
    """Live processes of `leader`'s process group, and all of their descendants."""
    every, pids, found = living(), {leader}, set[Process]()
    while more := {
        one
        for one, (parent, group) in every.items()
        if one not in found and (one[0] == leader or group == leader or parent in pids)
    }:
        found |= more
        pids |= {pid for pid, _ in more}
    return found


def stop(process: subprocess.Popen[bytes], known: set[Process]) -> None:
    """Stop a server with all of its processes, including `known` ones that may be orphaned by now."""
    mine = known | family(process.pid)

    def gone(within: float) -> bool:
        deadline = time.monotonic() + within
        while left := process.poll() is None or mine & living().keys():
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return not left

    ended = False
    try:
        process.terminate()
        ended = gone(STOP_WITHIN)
    finally:  # too slow, or interrupted once more
        if not ended:
            mine |= family(process.pid)
            for pid, _ in mine & living().keys():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            gone(KILLED_WITHIN)


def wait_until_ready(side: Side, process: subprocess.Popen[bytes], url: str, log: Path) -> float:
    """Wait for readiness and return the seconds it took. Raises `Failure`."""
    began = time.monotonic()
    while get(url + side.kind.health) is None:
        status, waited = process.poll(), time.monotonic() - began
        if status is not None or waited > READY_WITHIN:
            what = f"was not ready in {waited:.0f} s" if status is None else f"ended with status {status}"
            raise Failure(f"{side.name} {what}; the end of its log:\n{tail(log.read_text(errors='replace'))}")
        time.sleep(0.1)
    return time.monotonic() - began


@contextmanager
def started(side: Side, model: str, *, dummy: bool, log: Path) -> Iterator[Server]:
    """Yield a ready server; on exit, stop it and wait until its GPU memory is free. Raises `Failure`."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = f"{side.kind.start} {side.kind.dummy if dummy else ''}"
    command, url = side.command(words, model=model, port=port) + side.flags, f"http://127.0.0.1:{port}"
    before = gpu_memory()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=side.cwd,
            env=side.env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    known: set[Process] = set()
    try:
        seconds = wait_until_ready(side, process, url, log)
        known = family(process.pid)
        yield Server(process, command, url, seconds)
        if process.poll() is not None:
            text = tail(log.read_text(errors="replace"))
            raise Failure(f"{side.name} ended while it was measured; the end of its log:\n{text}")
    finally:
        stop(process, known)
    deadline = time.monotonic() + MEMORY_WITHIN
    while (after := gpu_memory()) > before + MEMORY_SLACK and time.monotonic() < deadline:
        time.sleep(0.5)
    if after > before + MEMORY_SLACK:
        raise Failure(
            f"{side.name} is gone, but {after} MiB of GPU memory are in use; it was {before} before"
        )
