"""`generate`: one completion on the configured engine, streamed to the terminal, without HTTP.

The same engine code as the server's, in this process: what the first TensorRT-LLM recipes did with a script.
"""

from __future__ import annotations

import sys
import time

from trtllm_openai.config import Settings
from trtllm_openai.engine_host.loader import load_engine
from trtllm_openai.engines.base import Engine
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import GenerationRequest, SamplingParams
from trtllm_openai.generation.build import check_capabilities, check_context
from trtllm_openai.serve.model import resolve_model
from trtllm_openai.text.choice import ChoiceDecoder
from trtllm_openai.text.tokenizer import Tokenizer

STEP_TIMEOUT = 0.1


def generate(settings: Settings, prompt: str, sampling: SamplingParams) -> int:
    """Print the completion of `prompt` as it comes; returns the exit status.

    Raises `CheckpointError`, `ConfigError` or `InvalidRequest`.
    """

    def progress(fraction: float, what: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[2K{fraction:4.0%}  {what}", end="", file=sys.stderr, flush=True)

    place = resolve_model(settings, progress)
    tokenizer = Tokenizer.load(place.tokenizer_dir, settings.chat_template)
    engine = load_engine(settings, place.files(tokenizer), progress)
    if sys.stderr.isatty():
        print("\r\x1b[2K", end="", file=sys.stderr)
    ids = tokenizer.encode(prompt, add_special_tokens=True)
    check_context(engine.info, len(ids), sampling.max_tokens, "prompt")
    check_capabilities(engine.info, sampling, "logprobs")
    try:
        return _run(engine, tokenizer, GenerationRequest("generate", ids, sampling))
    finally:
        engine.shutdown(10.0)


def _run(engine: Engine, tokenizer: Tokenizer, request: GenerationRequest) -> int:
    decoder = ChoiceDecoder(tokenizer)
    started = time.perf_counter()
    engine.submit(request)
    while not decoder.finished:
        for output in engine.step(STEP_TIMEOUT):
            if output.error is not None:
                raise InvalidRequest(f"generation failed: {output.error}")
            sys.stdout.write(decoder.push(output).text)
            sys.stdout.flush()
    seconds = time.perf_counter() - started
    print(flush=True)
    tokens = decoder.completion_tokens
    print(f"{tokens} tokens in {seconds:.2f} s, {tokens / seconds:.1f} tokens/s", file=sys.stderr)
    return 0
