"""One completion on the configured engine, which runs in this process: no HTTP and no runner process."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

from trtllm_openai.api.guides import check_guide, schema_guide
from trtllm_openai.config import Settings
from trtllm_openai.engine_host.loader import load_engine
from trtllm_openai.engines.base import Engine
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import GenerationRequest, Guide, SamplingParams
from trtllm_openai.generation.build import check_capabilities, check_context, supported_defaults
from trtllm_openai.generation.parameters import converted
from trtllm_openai.serve.model import resolve_model
from trtllm_openai.serve.sampling_defaults import sampling_defaults
from trtllm_openai.text.choice import ChoiceDecoder
from trtllm_openai.text.tokenizer import Tokenizer

STEP_TIMEOUT_S = 0.1
SHUTDOWN_TIMEOUT_S = 10.0
CLEAR_LINE = "\r\x1b[2K"


def generate(
    settings: Settings,
    prompt: str,
    given: dict[str, float],
    *,
    schema: dict[str, Any] | None = None,
    stream: bool = True,
) -> int:
    """Write the completion of `prompt` to stdout, and nothing else; returns the exit status.

    `given`: sampling parameters by name; others have the model's defaults. `schema`: a JSON schema that the
    completion follows. `stream` false: all at once. Raises `CheckpointError`, `ConfigError` or
    `InvalidRequest`.
    """
    guide = schema_guide(schema, "--json") if schema is not None else None
    with answer_alone() as answer:
        return _generate(settings, prompt, given, guide, answer, stream)


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


def _generate(
    settings: Settings,
    prompt: str,
    given: dict[str, float],
    guide: Guide | None,
    answer: TextIO,
    stream: bool,
) -> int:
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
    if guide is not None:
        check_guide(engine.info, guide)
    try:
        request = GenerationRequest("generate", ids, sampling, guide=guide)
        return _write(engine, tokenizer, request, answer, stream)
    finally:
        engine.shutdown(SHUTDOWN_TIMEOUT_S)


def _write(
    engine: Engine, tokenizer: Tokenizer, request: GenerationRequest, answer: TextIO, stream: bool
) -> int:
    decoder = ChoiceDecoder(tokenizer)
    started = time.perf_counter()
    engine.submit(request)
    while not decoder.finished:
        for output in engine.step(STEP_TIMEOUT_S):
            if output.error is not None:
                raise InvalidRequest(f"generation failed: {output.error}")
            answer.write(decoder.push(output).text)
            if stream:
                answer.flush()
    seconds = time.perf_counter() - started
    print(file=answer, flush=True)
    tokens = decoder.completion_tokens
    print(f"{tokens} tokens in {seconds:.2f} s, {tokens / seconds:.1f} tokens/s", file=sys.stderr)
    return 0
