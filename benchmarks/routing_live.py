"""Chats over several turns, at a started server with two torch runners: TTFT with and without affinity.

    python benchmarks/routing_live.py [--chats N] [--turns N]

Every chat has a text of its own, which all of its turns begin with. Prints, for `runners.routing` prefix and
work, the share of prompt tokens that were cached and the time to first token of all turns but the first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "app"), str(ROOT)]

from tests.e2e.conftest import serve  # noqa: E402 - needs the path above

WORDS = ("river", "stone", "window", "garden", "paper", "winter", "morning", "letter", "bridge", "music")


async def _chat(client: httpx.AsyncClient, number: int, turns: int, ttft: list[float]) -> tuple[int, int]:
    """One chat. Returns its cached and all prompt tokens, without the first turn."""
    source = random.Random(number)
    messages = [{"role": "system", "content": " ".join(source.choices(WORDS, k=400))}]
    cached = prompted = 0
    for turn in range(turns):
        messages.append({"role": "user", "content": " ".join(source.choices(WORDS, k=40))})
        body = {
            "messages": messages,
            "max_tokens": 16,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        begun, first, text = time.perf_counter(), 0.0, ""
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if delta := "".join(one["delta"].get("content") or "" for one in chunk["choices"]):
                    first = first or time.perf_counter() - begun
                    text += delta
                if turn and (usage := chunk.get("usage")):
                    prompted += usage["prompt_tokens"]
                    cached += usage["prompt_tokens_details"]["cached_tokens"]
        if turn and first:
            ttft.append(first)
        messages.append({"role": "assistant", "content": text or "."})
        await asyncio.sleep(source.uniform(0.05, 0.5))
    return cached, prompted


async def _chats(url: str, chats: int, turns: int) -> str:
    ttft: list[float] = []
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        counts = await asyncio.gather(*(_chat(client, number, turns, ttft) for number in range(chats)))
    cached, prompted = map(sum, zip(*counts, strict=True))
    ttft.sort()
    return (
        f"cached {cached / prompted:.1%}, TTFT p50 {statistics.median(ttft) * 1000:.0f} ms, "
        f"p99 {ttft[int(len(ttft) * 0.99)] * 1000:.0f} ms ({len(ttft)} turns)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--chats", type=int, default=6)
    parser.add_argument("--turns", type=int, default=6)
    args = parser.parse_args()
    for routing in ("work", "prefix", "work", "prefix"):
        with serve("--replicas", "2", "--runners.routing", routing) as server:
            print(routing, asyncio.run(_chats(server.url, args.chats, args.turns)), flush=True)


if __name__ == "__main__":
    main()
