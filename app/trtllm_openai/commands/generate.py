"""`generate`: complete one prompt on the configured engine and stream the text to the terminal.

The engine runs in this process, without HTTP and without a runner process.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from trtllm_openai.commands import Subparsers
from trtllm_openai.config import Settings, add_flags, load_settings
from trtllm_openai.engine_host.loader import load_engine
from trtllm_openai.engines.base import Engine
from trtllm_openai.errors import ConfigError, InvalidRequest
from trtllm_openai.generation import GenerationRequest, SamplingParams
from trtllm_openai.generation.build import check_capabilities, check_context, supported_defaults
from trtllm_openai.generation.parameters import BY_NAME, converted
from trtllm_openai.serve.model import resolve_model
from trtllm_openai.serve.sampling_defaults import sampling_defaults
from trtllm_openai.text.choice import ChoiceDecoder
from trtllm_openai.text.tokenizer import Tokenizer

STEP_TIMEOUT_S = 0.1
SHUTDOWN_TIMEOUT_S = 10.0
CLEAR_LINE = "\r\x1b[2K"


def add_parser(subparsers: Subparsers) -> None:
    """Add `generate`: a flag for every setting, and those of one completion."""
    parser = subparsers.add_parser("generate", help="complete one prompt on the terminal, without HTTP")
    group = parser.add_argument_group("generation")
    group.add_argument("--prompt", required=True)
    group.add_argument("--max-tokens", type=int, default=64, metavar="N")
    for name, kind in (("--temperature", float), ("--top-p", float), ("--top-k", int)):
        group.add_argument(name, type=kind, help="default: the model's")
    group.add_argument("--seed", type=int, help="default: random")
    add_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the completion. Raises `CheckpointError`, `ConfigError` or `InvalidRequest`."""
    settings = load_settings(arguments)
    names = ("max_tokens", "temperature", "top_p", "top_k", "seed")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    for name, value in given.items():
        if fault := BY_NAME[name].fault(value):
            raise ConfigError(f"--{name.replace('_', '-')} {fault}")
    if arguments.max_tokens == 0:
        raise ConfigError("--max-tokens must be at least 1")
    return generate(settings, arguments.prompt, given)


def generate(settings: Settings, prompt: str, given: dict[str, float]) -> int:
    """Stream the completion of `prompt` to stdout, and nothing else; returns the exit status.

    `given`: sampling parameters by name; others have the model's defaults. Raises `CheckpointError`,
    `ConfigError` or `InvalidRequest`.
    """

    with answer_alone() as answer:
        return _generate(settings, prompt, given, answer)


@contextlib.contextmanager
def answer_alone() -> Iterator[TextIO]:
    """Standard output for the answer. Whatever else writes to it meanwhile, C++ included, goes to stderr."""
    original = sys.stdout
    original.flush()
    try:
        number = original.fileno()
    except io.UnsupportedOperation:  # replaced by an object in memory
        with contextlib.redirect_stdout(sys.stderr):
            yield original
        return
    kept = os.dup(number)
    os.dup2(sys.stderr.fileno(), number)
    try:
        with open(kept, "w", encoding=original.encoding, closefd=False) as answer:
            yield answer
    finally:
        original.flush()
        os.dup2(kept, number)
        os.close(kept)


def _generate(settings: Settings, prompt: str, given: dict[str, float], answer: TextIO) -> int:
    def progress(fraction: float, stage: str) -> None:
        if sys.stderr.isatty():
            print(f"{CLEAR_LINE}{fraction:4.0%}  {stage}", end="", file=sys.stderr, flush=True)

    location = resolve_model(settings, progress)
    tokenizer = Tokenizer.load(location.tokenizer_dir, settings.chat_template)
    engine = load_engine(settings, location.files(tokenizer), progress)
    if sys.stderr.isatty():
        print(CLEAR_LINE, end="", file=sys.stderr)
    ids = tokenizer.encode(prompt, add_special_tokens=True)
    defaults = supported_defaults(engine.info, sampling_defaults(settings, location.directories))
    sampling = SamplingParams(**converted({**defaults, **given}))
    check_context(engine.info, len(ids), sampling.max_tokens, "prompt")
    check_capabilities(engine.info, sampling, "logprobs")
    try:
        return _stream(engine, tokenizer, GenerationRequest("generate", ids, sampling), answer)
    finally:
        engine.shutdown(SHUTDOWN_TIMEOUT_S)


def _stream(engine: Engine, tokenizer: Tokenizer, request: GenerationRequest, answer: TextIO) -> int:
    decoder = ChoiceDecoder(tokenizer)
    started = time.perf_counter()
    engine.submit(request)
    while not decoder.finished:
        for output in engine.step(STEP_TIMEOUT_S):
            if output.error is not None:
                raise InvalidRequest(f"generation failed: {output.error}")
            answer.write(decoder.push(output).text)
            answer.flush()
    seconds = time.perf_counter() - started
    print(file=answer, flush=True)
    tokens = decoder.completion_tokens
    print(f"{tokens} tokens in {seconds:.2f} s, {tokens / seconds:.1f} tokens/s", file=sys.stderr)
    return 0
