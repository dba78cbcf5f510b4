"""The command line: `serve`, `bench`, `generate`, `inspect`, `doctor` and `key`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trtllm_openai import __version__
from trtllm_openai.bench import flags as bench
from trtllm_openai.config import Settings, add_flags, load_settings
from trtllm_openai.errors import CheckpointError, ConfigError, InvalidRequest

Run = Callable[[Settings, argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 1 it cannot be done, 2 wrong usage or configuration."""
    parser = argparse.ArgumentParser(
        prog="trtllm-openai", description="OpenAI-compatible inference server over TensorRT-LLM engines."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    with_settings: dict[str, tuple[Any, Run]] = {}
    serving = commands.add_parser("serve", help="serve a model over HTTP")
    with_settings["serve"] = add_flags(serving), _serve
    generating = commands.add_parser("generate", help="complete one prompt on the terminal, without HTTP")
    _add_generation_flags(generating)
    with_settings["generate"] = add_flags(generating), _generate
    examining = commands.add_parser("doctor", help="check what this machine lacks for the configured engine")
    with_settings["doctor"] = add_flags(examining), _doctor
    measuring = commands.add_parser("bench", help="load any OpenAI-compatible server and time its answers")
    bench.add_flags(measuring)
    keying = commands.add_parser("key", help="make an API key and its line for api_keys_file")
    keying.add_argument("name", help="whose key it is; shown in logs")
    keying.add_argument("--scopes", choices=["api", "admin", "api,admin"], default="api")
    inspecting = commands.add_parser("inspect", help="show what a TensorRT-LLM engine directory is")
    inspecting.add_argument("directory", type=Path)
    inspecting.add_argument("--json", action="store_true", help="as JSON")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "inspect":
            return _inspect(arguments)
        if arguments.command == "bench":
            return bench.main(arguments)
        if arguments.command == "key":
            return _key(arguments)
        flags, run = with_settings[arguments.command]
        return run(load_settings(flags, arguments, arguments.config), arguments)
    except ConfigError as error:
        print(f"trtllm-openai: wrong configuration\n{error}", file=sys.stderr)
        return 2
    except (CheckpointError, InvalidRequest) as error:
        print(f"trtllm-openai: {error}", file=sys.stderr)
        return 1


def _add_generation_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("generation")
    group.add_argument("--prompt", required=True)
    group.add_argument("--max-tokens", type=int, default=64, metavar="N")
    group.add_argument("--temperature", type=float, default=1.0)
    group.add_argument("--top-p", type=float, default=1.0)
    group.add_argument("--top-k", type=int, default=0)
    group.add_argument("--seed", type=int, help="default: another text every time")


def _serve(settings: Settings, _: argparse.Namespace) -> int:
    from trtllm_openai.serve.command import run

    return run(settings)


def _generate(settings: Settings, arguments: argparse.Namespace) -> int:
    from trtllm_openai.commands.generate import generate
    from trtllm_openai.generation import SamplingParams
    from trtllm_openai.generation.parameters import BY_NAME, converted

    names = ("max_tokens", "temperature", "top_p", "top_k", "seed")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    for name, value in given.items():
        if fault := BY_NAME[name].fault(value):
            raise ConfigError(f"--{name.replace('_', '-')} {fault}")
    if arguments.max_tokens == 0:
        raise ConfigError("--max-tokens must be at least 1")
    sampling = SamplingParams(**converted(given))
    return generate(settings, arguments.prompt, sampling)


def _doctor(settings: Settings, _: argparse.Namespace) -> int:
    from trtllm_openai.commands.doctor import examine, report

    findings = examine(settings)
    print(report(findings))
    return 1 if any(finding.mend for finding in findings) else 0


def _key(arguments: argparse.Namespace) -> int:
    from trtllm_openai.api.auth import make_key

    if not arguments.name.isprintable() or any(char.isspace() or char == "#" for char in arguments.name):
        raise ConfigError("name: it must be printable, without spaces and #")
    key, line = make_key(arguments.name, arguments.scopes)
    print(f"The key, shown only now:\n  {key}\nIts line for api_keys_file:\n  {line}")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from trtllm_openai.commands.inspect import inspect

    print(inspect(arguments.directory, as_json=arguments.json))
    return 0
