"""The flags of `bench`, and the plan they stand for."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from trtllm_openai.bench.plan import Load, Plan, parse_target, read_prompts
from trtllm_openai.bench.run import Output, default_processes, first_model, run
from trtllm_openai.bench.stats import parse_slo
from trtllm_openai.errors import ConfigError


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the flags of `bench`."""
    parser.add_argument("--url", required=True, help="the server, e.g. http://127.0.0.1:8000")
    parser.add_argument("--endpoint", choices=["completions", "chat"], default="completions")
    parser.add_argument("--model", help="default: the first of the server's list")
    parser.add_argument("--api-key", metavar="KEY")
    load = parser.add_mutually_exclusive_group()
    load.add_argument(
        "--concurrency",
        type=int,
        nargs="+",
        metavar="N",
        help="requests at once, one or more loads (default: 8)",
    )
    load.add_argument(
        "--rate",
        type=float,
        nargs="+",
        metavar="R",
        help="requests a second, at random times, one or more loads",
    )
    parser.add_argument(
        "--requests",
        type=int,
        metavar="N",
        help="of each load (default: 8 x concurrency, or 20 s of the rate)",
    )
    parser.add_argument(
        "--warmup", type=int, default=8, metavar="N", help="requests before each load, not counted"
    )
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="a text a line, or .jsonl; default: random"
    )
    parser.add_argument(
        "--input-tokens", type=int, default=128, metavar="N", help="of random prompts; words in chat"
    )
    parser.add_argument("--output-tokens", type=int, default=128, metavar="N")
    parser.add_argument(
        "--extra", default='{"ignore_eos": true}', metavar="JSON", help="more fields of each request"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="of one request")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="default: one for each two cores, at most 4"
    )
    parser.add_argument(
        "--slo", default="", metavar="ttft=S,tpot=S,e2e=S", help="what goodput counts, in seconds"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.html", help="write latency against load as a page")


def main(arguments: argparse.Namespace) -> int:
    """Run the load test that the flags describe. Raises `ConfigError`."""
    loads = _loads(arguments)
    for name in ("input_tokens", "output_tokens", "timeout", "processes", "requests"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise ConfigError(f"--{name.replace('_', '-')}: it must be above 0")
    try:
        slo = parse_slo(arguments.slo)
    except ValueError as error:
        raise ConfigError(f"--slo: {error}") from None
    target = parse_target(arguments.url, arguments.api_key)
    plan = Plan(
        target=target,
        endpoint=arguments.endpoint,
        model=arguments.model or first_model(target),
        loads=loads,
        input_tokens=arguments.input_tokens,
        output_tokens=arguments.output_tokens,
        seed=arguments.seed,
        warmup=max(arguments.warmup, 0),
        timeout=arguments.timeout,
        extra=_extra(arguments.extra),
        prompts=read_prompts(arguments.prompts, arguments.endpoint) if arguments.prompts else [],
    )
    processes = arguments.processes or default_processes(loads)
    return run(plan, processes, Output(slo, arguments.json, arguments.plot))


def _loads(arguments: argparse.Namespace) -> list[Load]:
    if arguments.rate:
        if min(arguments.rate) <= 0:
            raise ConfigError("--rate: it must be above 0")
        return [Load(arguments.requests or max(32, round(20 * rate)), rate=rate) for rate in arguments.rate]
    levels = arguments.concurrency or [8]
    if min(levels) <= 0:
        raise ConfigError("--concurrency: it must be above 0")
    return [Load(arguments.requests or max(32, 8 * level), concurrency=level) for level in levels]


def _extra(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--extra: it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError("--extra: it must be a JSON object")
    return value
