"""`bench`: load-test a server. Turns the flags into a `Plan` for the package `bench`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from trtllm_openai.commands.verb import API_KEY, URL, Verb
from trtllm_openai.errors import ConfigError

if TYPE_CHECKING:
    from trtllm_openai.bench.plan import Load


def run(**flags: Any) -> int:
    """Run the load test that the flags describe. Raises `ConfigError` or `InvalidRequest`."""
    from trtllm_openai.bench.plan import Plan, parse_target, read_prompts
    from trtllm_openai.bench.run import Output, default_processes, first_model, run_plan
    from trtllm_openai.bench.stats import parse_slo

    arguments = SimpleNamespace(**flags)
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


def _loads(arguments: SimpleNamespace) -> list[Load]:
    from trtllm_openai.bench.plan import Load

    if arguments.rate and arguments.concurrency:
        raise ConfigError("--rate and --concurrency: only one of them")
    if arguments.rate:
        if min(arguments.rate) <= 0:
            raise ConfigError("--rate: must be above 0")
        return [Load(arguments.requests or max(32, round(20 * rate)), rate=rate) for rate in arguments.rate]
    levels: list[int] = arguments.concurrency or [8]
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


def _numbers(kind: type[int] | type[float]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that reads numbers with commas between them."""

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int] | list[float] | None:
        try:
            return None if value is None else [kind(one) for one in value.split(",")]
        except ValueError:
            raise click.BadParameter("must be numbers with commas between them", ctx, param) from None

    return read


class Bench(Verb):
    """Takes `--concurrency 1 8 64` too, which is `--concurrency 1,8,64`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        joined: list[str] = []
        for word in args:
            in_list = len(joined) > 1 and joined[-2] in ("--concurrency", "--rate")
            if in_list and re.fullmatch(r"\d+(\.\d+)?", word):
                joined[-1] += f",{word}"
            else:
                joined.append(word)
        return super().parse_args(ctx, joined)


command = Bench(
    "bench",
    help="Load-test any OpenAI-compatible server: time to first token, inter-token latency, throughput.",
    run=run,
    params=[
        URL,
        click.Option(
            ["--endpoint"],
            type=click.Choice(["completions", "chat"]),
            default="completions",
            show_default=True,
        ),
        click.Option(["--model"], metavar="ID", help="without: the first model that the server lists"),
        API_KEY,
        click.Option(
            ["--concurrency"],
            metavar="N,N",
            callback=_numbers(int),
            help="closed loop: concurrent requests, one or more load levels (without: 8)",
        ),
        click.Option(
            ["--rate"],
            metavar="R,R",
            callback=_numbers(float),
            help="open loop: requests per second with Poisson arrivals, one or more load levels",
        ),
        click.Option(
            ["--requests"],
            type=int,
            metavar="N",
            help="requests per load level (without: 8 x concurrency, or 20 s at the rate; at least 32)",
        ),
        click.Option(
            ["--warmup"], type=int, default=8, metavar="N", help="uncounted requests before each load level"
        ),
        click.Option(
            ["--prompts"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="one prompt per line, or .jsonl; without: random prompts",
        ),
        click.Option(
            ["--input-tokens"],
            type=int,
            default=128,
            metavar="N",
            help="length of random prompts: tokens, or words with --endpoint chat",
        ),
        click.Option(["--output-tokens"], type=int, default=128, metavar="N"),
        click.Option(
            ["--extra"],
            default='{"ignore_eos": true}',
            metavar="JSON",
            show_default=True,
            help="further fields of every request body",
        ),
        click.Option(["--seed"], type=int, default=0, metavar="N"),
        click.Option(["--timeout"], type=float, default=600.0, metavar="S", help="seconds for one request"),
        click.Option(
            ["--processes"],
            type=int,
            metavar="N",
            help="client processes (without: one per two cores, at most 4)",
        ),
        click.Option(
            ["--slo"], default="", metavar="ttft=S,tpot=S,e2e=S", help="bounds for goodput, in seconds"
        ),
        click.Option(
            ["--json"], type=click.Path(path_type=Path), metavar="FILE", help="write the result as JSON"
        ),
        click.Option(
            ["--plot"],
            type=click.Path(path_type=Path),
            metavar="FILE.html",
            help="write latency over load as a page",
        ),
    ],
    examples=[
        ("trtllm-openai bench --concurrency 1,8,64", "three load levels against a local server"),
        (
            "trtllm-openai bench --url http://host:8000 --rate 4 --slo ttft=0.5",
            "goodput at 4 requests a second",
        ),
        ("trtllm-openai bench --endpoint chat --prompts mine.jsonl --plot out.html", "prompts of your own"),
    ],
)
