"""Measures what a flood of one API key costs another key's time to first token, on the demo model on a CPU.

    python benchmarks/fairness.py [--rounds N] [--prompt N] [--flood N] [-- SERVER_FLAGS]

A server with two keys is started. In each round the polite key asks one request after the other, first alone
and then while the other key has `--flood` requests under way all the time, of which one batch decodes and
the rest waits. Prompts are random token ids, so that no cached prefix helps. The table gives the polite key's
time to first token (p50, p99), the ratios, and the flood's tokens a second and longest gap between tokens,
with the polite key's requests beside it and without. The target is a ratio of p99 of at most 2.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "app"), str(ROOT)]

from benchmarks.frontend import started  # noqa: E402 - needs the path above
from trtllm_openai.api.auth import make_key  # noqa: E402
from trtllm_openai.bench.client import Client  # noqa: E402
from trtllm_openai.bench.plan import Target  # noqa: E402

ANSWER = 24
"""Tokens of each answer of the flood."""

HEAD = """\
| round | p50 alone, ms | beside | ratio | p99 alone, ms | beside | ratio | flood alone, tokens/s | gap, ms \
| flood beside, tokens/s | gap, ms |
"""


@dataclass(slots=True)
class Flood:
    """Requests of one key that are under way all the time."""

    target: Target
    size: int
    prompt: int
    tokens: int = 0
    gaps: array[float] = field(default_factory=lambda: array("d"))

    async def run(self) -> None:
        """Ask until cancelled."""
        client = Client(self.target, 600)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.size):
                    group.create_task(self._ask(client))
        finally:
            client.close()

    async def _ask(self, client: Client) -> None:
        while True:
            record = await client.generate("completions", body(self.prompt, ANSWER))
            assert not record.error, record.error
            self.tokens += record.output_tokens
            self.gaps.frombytes(record.gaps)


def body(prompt: int, answer: int) -> bytes:
    """A request whose prompt is in no cache."""
    ids = [random.randrange(1000, 40_000) for _ in range(prompt)]
    fields = {"max_tokens": answer, "ignore_eos": True, "stream": True}
    return json.dumps({"prompt": ids, **fields, "stream_options": {"include_usage": True}}).encode()


async def ask(target: Target, count: int, prompt: int, answer: int, pause: float) -> list[float]:
    """Times to first token of `count` requests, one after the other, in seconds."""
    client, found = Client(target, 600), []
    for _ in range(count):
        record = await client.generate("completions", body(prompt, answer))
        assert not record.error, record.error
        found.append(record.ttft)
        await asyncio.sleep(random.uniform(0, 2 * pause))
    client.close()
    return found


async def measure(polite: Target, flooding: Target, arguments: argparse.Namespace) -> list[float]:
    """One round: a row of the table."""
    asked = arguments.asked, arguments.prompt, arguments.answer, arguments.pause
    alone = await ask(polite, *asked)
    flood = Flood(flooding, arguments.flood, arguments.flood_prompt)
    task = asyncio.create_task(flood.run())
    await asyncio.sleep(5)
    paces = []
    for beside in (False, True):
        flood.tokens, flood.gaps = 0, array("d")
        began = time.monotonic()
        if beside:
            found = await ask(polite, *asked)
        else:
            await asyncio.sleep(arguments.unbothered)
        paces += [flood.tokens / (time.monotonic() - began), max(flood.gaps, default=0.0) * 1000]
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(1)  # the server notices that they are gone
    row = [1000 * share(times, at) for at in (0.5, 0.99) for times in (alone, found)]
    return [*row[:2], row[1] / row[0], *row[2:], row[3] / row[2], *paces]


def share(times: list[float], at: float) -> float:
    """The quantile `at`, by nearest rank: of fewer than 100 times p99 is the longest."""
    return sorted(times)[min(len(times) - 1, int(at * len(times)))]


@contextmanager
def server(flags: list[str]) -> Iterator[tuple[Target, Target]]:
    """A server; the polite key's and the flood's way to it."""
    made = [make_key(name, "api") for name in ("polite", "flood")]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "keys")
        file.write_text("".join(line + "\n" for _, line in made))
        file.chmod(0o600)
        command = [sys.executable, "-m", "trtllm_openai", "serve", "--port", "0", "--log-level", "warning"]
        command += ["--api-keys-file", str(file), *flags]
        with started(command, r"is ready on http://\S+:(\d+)") as process:
            first, second = (Target("127.0.0.1", process.port, False, "/v1", key) for key, _ in made)
            yield first, second


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--asked", type=int, default=40, help="requests of the polite key in each part")
    parser.add_argument("--prompt", type=int, default=30, help="tokens of its prompts")
    parser.add_argument("--answer", type=int, default=1, help="tokens of its answers")
    parser.add_argument("--pause", type=float, default=0.1, help="mean seconds between its requests")
    parser.add_argument("--flood", type=int, default=64, help="requests of the flood that are under way")
    parser.add_argument("--flood-prompt", type=int, default=30, help="tokens of the flood's prompts")
    parser.add_argument("--unbothered", type=float, default=10, help="seconds of the flood without the other")
    parser.add_argument("flags", nargs="*", help="flags for the server, after --")
    arguments = parser.parse_args()
    print(HEAD + "|---" * 11 + "|")
    rows = []
    with server(["--torch.device", "cpu", *arguments.flags]) as (polite, flooding):
        asyncio.run(ask(polite, 5, arguments.prompt, 2, 0))
        for number in range(arguments.rounds):
            rows.append(asyncio.run(measure(polite, flooding, arguments)))
            _print(str(number + 1), rows[-1])
    _print("median", [statistics.median(column) for column in zip(*rows, strict=True)])
    return 0


def _print(name: str, row: list[float]) -> None:
    cells = [f"{value:.2f}" if at in (2, 5) else f"{value:.0f}" for at, value in enumerate(row)]
    print("| " + " | ".join([name, *cells]) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
