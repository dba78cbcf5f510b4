"""Routing policies on a simulated clock: the real router, over runners with the costs of an engine on a GPU.

    python benchmarks/routing.py [--runners 8 64 512] [--write docs] [--decision]

A runner's step decodes every running sequence and computes up to `STEP_TOKENS` prompt tokens, and takes as
long as `Costs` says. Its prefix cache is the torch engine's own block pool. Three kinds of clients: questions
about documents that are asked for by Zipf's law, chats over several turns, and agents whose transcript grows
by the output of tools. Every policy gets the same requests at the same times; a client sends its next turn
some time after the answer.

    hit rate    prompt tokens that were cached, of all
    TTFT        time to first token, p50 and p99
    imbalance   work of the busiest runner over the mean, in windows of `WINDOW_S`, averaged: the time of its
                steps, without what a step costs whatever is in it

`--decision` measures the decision alone, in microseconds. `--write DIR` writes routing.md and routing.svg.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "app"), str(ROOT)]

from benchmarks.routing_model import (  # noqa: E402 - needs the path above
    BLOCK,
    KV_BLOCKS,
    POLICIES,
    TURNS_OF,
    Result,
    Tokens,
    simulate,
)
from benchmarks.routing_plot import plot  # noqa: E402
from trtllm_openai.generation import GenerationRequest, SamplingParams  # noqa: E402
from trtllm_openai.runners.routing import Router  # noqa: E402

SECONDS = {8: 150.0, 64: 60.0}
"""Simulated seconds by number of runners; `LEAST_S` with others."""
LEAST_S = 20.0
BEGIN, END = "<!-- benchmarks/routing.py -->", "<!-- end -->"
"""What the table of docs/routing.md is between."""


def decision(runners: int, tokens: int = 32_768) -> dict[str, float]:
    """Median microseconds of a decision: for prompts that a runner holds, and for new ones."""
    source = random.Random(1)
    router = Router(source=source)
    for index in range(runners):
        router.add_runner(index, KV_BLOCKS * BLOCK)
    router.set_ready(range(runners))
    make = Tokens(source)
    base, ids = make(tokens), itertools.count()

    def request(prompt: list[int]) -> GenerationRequest:
        return GenerationRequest(str(next(ids)), prompt, SamplingParams(8))

    for _ in range(4 * runners):
        cut = source.randrange(1000, tokens)
        one = request(base[:cut] + make(tokens - cut))
        router.sent(router.choose(one), [one])
        router.ended(one.request_id)
    found = {}
    kinds = {
        "held": [request(base[: tokens - 100] + make(100)) for _ in range(50)],
        "new": [request(make(tokens)) for _ in range(50)],
    }
    for kind, asked in kinds.items():
        times = []
        for one in asked:
            router.choose(one)
            begun = time.perf_counter()
            router.choose(one)
            times.append(time.perf_counter() - begun)
        found[kind] = statistics.median(times) * 1e6
    return found


def table(results: list[Result]) -> str:
    """The results as Markdown."""
    lines = [
        "| clients | runners | policy | requests | hit rate | TTFT p50 | TTFT p99 | imbalance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.kind} | {one.runners} | {one.policy} | {one.requests} | {one.hit_rate:.1%} | "
        f"{one.ttft_p50 * 1000:.0f} ms | {one.ttft_p99 * 1000:.0f} ms | {one.imbalance:.2f} |"
        for one in results
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runners", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--kinds", nargs="+", default=list(TURNS_OF))
    parser.add_argument("--policies", nargs="+", default=list(POLICIES))
    parser.add_argument("--seconds", type=float, help="simulated; default 150, and less with more runners")
    parser.add_argument("--write", type=Path, metavar="DIR", help="write the table and the plot there")
    parser.add_argument("--decision", action="store_true", help="measure the decision, and nothing else")
    args = parser.parse_args()
    if args.decision:
        for runners in args.runners:
            print(runners, {kind: round(value, 1) for kind, value in decision(runners).items()})
        return
    results = []
    for runners in args.runners:
        seconds = args.seconds or SECONDS.get(runners, LEAST_S)
        for kind in args.kinds:
            for policy in args.policies:
                results.append(simulate(kind, runners, policy, seconds))
                print(table(results[-1:]).splitlines()[-1], flush=True)
    if args.write:
        (args.write / "routing.svg").write_text(plot(results))
        page = args.write / "routing.md"
        text = page.read_text()
        head, _, rest = text.partition(BEGIN)
        page.write_text(f"{head}{BEGIN}\n{table(results)}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
