"""`bench`: load-test a server. Turns the flags into a `Plan` for the package `bench`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from trtllm_openai.bench.plan import Load, Plan, parse_target, read_prompts
from trtllm_openai.bench.run import Output, default_processes, first_model, run_plan
from trtllm_openai.bench.stats import parse_slo
from trtllm_openai.commands import Subparsers
from trtllm_openai.errors import ConfigError


def add_parser(subparsers: Subparsers) -> None:
    """Add `bench`."""
    parser = subparsers.add_parser("bench", help="load-test any OpenAI-compatible server")
    parser.add_argument("--url", required=True, help="base URL of the server, e.g. http://127.0.0.1:8000")
    parser.add_argument("--endpoint", choices=["completions", "chat"], default="completions")
    parser.add_argument("--model", help="default: the first model that the server lists")
    parser.add_argument("--api-key", metavar="KEY")
    load = parser.add_mutually_exclusive_group()
    load.add_argument(
        "--concurrency",
        type=int,
        nargs="+",
        metavar="N",
        help="closed loop: concurrent requests, one or more load levels (default: 8)",
    )
    load.add_argument(
        "--rate",
        type=float,
        nargs="+",
        metavar="R",
        help="open loop: requests per second with Poisson arrivals, one or more load levels",
    )
    parser.add_argument(
        "--requests",
        type=int,
        metavar="N",
        help="requests per load level (default: 8 x concurrency, or 20 s at the rate; at least 32)",
    )
    parser.add_argument(
        "--warmup", type=int, default=8, metavar="N", help="uncounted requests before each load level"
    )
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="one prompt per line, or .jsonl; default: random prompts"
    )
    parser.add_argument(
        "--input-tokens",
        type=int,
        default=128,
        metavar="N",
        help="length of random prompts: tokens, or words with --endpoint chat",
    )
    parser.add_argument("--output-tokens", type=int, default=128, metavar="N")
    parser.add_argument(
        "--extra", default='{"ignore_eos": true}', metavar="JSON", help="further fields of every request body"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds for one request")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="client processes (default: one per two cores, at most 4)"
    )
    parser.add_argument(
        "--slo", default="", metavar="ttft=S,tpot=S,e2e=S", help="bounds for goodput, in seconds"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.html", help="write latency over load as a page")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the load test that the flags describe. Raises `ConfigError`."""
    loads = _loads(arguments)
    for name in ("input_tokens", "output_tokens", "timeout", "processes", "requests"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise ConfigError(f"--{name.replace('_', '-')}: must be above 0")
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
    return run_plan(plan, processes, Output(slo, arguments.json, arguments.plot))


def _loads(arguments: argparse.Namespace) -> list[Load]:
    if arguments.rate:
        if min(arguments.rate) <= 0:
            raise ConfigError("--rate: must be above 0")
        return [Load(arguments.requests or max(32, round(20 * rate)), rate=rate) for rate in arguments.rate]
    levels = arguments.concurrency or [8]
    if min(levels) <= 0:
        raise ConfigError("--concurrency: must be above 0")
    return [Load(arguments.requests or max(32, 8 * level), concurrency=level) for level in levels]


def _extra(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--extra: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError("--extra: must be a JSON object")
    return value
