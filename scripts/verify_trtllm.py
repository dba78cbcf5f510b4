"""Proves the tensorrt_llm engine on a machine that has TensorRT-LLM and GPUs; prints a table.

    python scripts/verify_trtllm.py ENGINE_DIR TOKENIZER_DIR [-- flags for serve]

First every name that the server uses is checked against the installed package, then a server is started on
the engine and asked the things that matter over HTTP. Exit status 0: all of it holds.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from trtllm_openai.errors import ConfigError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "app"))

from trtllm_openai.engines.tensorrt_llm.loader import import_bindings

KOREAN = "대한민국의 수도는"
STARTUP = 1800.0


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    ok: bool
    fact: str = ""


def check_names(bindings: Any) -> list[Row]:
    """Construct everything with the keywords the server uses: nanobind classes cannot be inspected."""
    b = bindings
    checks: dict[str, Callable[[], Any]] = {
        "SamplingConfig": lambda: b.SamplingConfig(
            beam_width=1,
            temperature=0.7,
            top_p=0.9,
            top_k=5,
            min_p=0.1,
            seed=2**64 - 1,
            min_tokens=1,
            repetition_penalty=1.1,
            presence_penalty=0.1,
            frequency_penalty=0.1,
        ),
        "OutputConfig": lambda: b.OutputConfig(
            return_log_probs=True, exclude_input_from_output=True, return_perf_metrics=True
        ),
        "Request": lambda: b.Request(
            input_token_ids=[1, 2],
            max_tokens=1,
            streaming=True,
            sampling_config=b.SamplingConfig(beam_width=1, top_k=1),
            output_config=b.OutputConfig(),
            end_id=-1,
            stop_words=[[5]],
            priority=0.5,
            allotted_time_ms=datetime.timedelta(milliseconds=1000),
            guided_decoding_params=b.GuidedDecodingParams(b.GuidedDecodingParams.GuideType.JSON),
        ),
        "GuideType": lambda: [
            b.GuidedDecodingParams(kind, "x")
            for kind in (
                b.GuidedDecodingParams.GuideType.JSON_SCHEMA,
                b.GuidedDecodingParams.GuideType.REGEX,
                b.GuidedDecodingParams.GuideType.EBNF_GRAMMAR,
            )
        ],
        "GuidedDecodingConfig": lambda: b.GuidedDecodingConfig(
            backend=b.GuidedDecodingConfig.GuidedDecodingBackend.XGRAMMAR,
            encoded_vocab=["a", "b"],
            tokenizer_str=None,
            stop_token_ids=[0],
        ),
        "ExecutorConfig": lambda: b.ExecutorConfig(
            max_beam_width=1,
            scheduler_config=b.SchedulerConfig(
                capacity_scheduler_policy=b.CapacitySchedulerPolicy.MAX_UTILIZATION
            ),
            kv_cache_config=b.KvCacheConfig(
                enable_block_reuse=True, max_tokens=1024, free_gpu_memory_fraction=0.5
            ),
            enable_chunked_context=True,
            max_num_tokens=1024,
            gpu_weights_percent=1.0,
            max_batch_size=1,
            max_queue_size=1,
        ),
        "ParallelConfig": lambda: b.ParallelConfig(
            communication_type=b.CommunicationType.MPI,
            communication_mode=b.CommunicationMode.ORCHESTRATOR,
            device_ids=[0],
            orchestrator_config=b.OrchestratorConfig(
                is_orchestrator=True, worker_executable_path="x", spawn_processes=True
            ),
        ),
        "CommunicationMode.LEADER": lambda: b.CommunicationMode.LEADER,
        "FinishReason": lambda: [
            getattr(b.FinishReason, name)
            for name in ("NOT_FINISHED", "END_ID", "STOP_WORDS", "LENGTH", "TIMED_OUT", "CANCELLED")
        ],
        "ModelType.DECODER_ONLY": lambda: b.ModelType.DECODER_ONLY,
        "Executor": lambda: [
            getattr(b.Executor, name)
            for name in (
                "enqueue_request",
                "await_responses",
                "cancel_request",
                "get_latest_iteration_stats",
                "can_enqueue_requests",
                "shutdown",
            )
        ],
    }
    return [_row(f"name {name}", check) for name, check in checks.items()]


def check_server(url: str) -> list[Row]:
    """A conformance pass in small; the server is ready."""
    http = httpx.Client(base_url=url, timeout=300)

    def complete(**body: Any) -> dict[str, Any]:
        response = http.post("/v1/completions", json={"prompt": KOREAN, "max_tokens": 32, **body})
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def text(**body: Any) -> str:
        return str(complete(**body)["choices"][0]["text"])

    def stream(**body: Any) -> str:
        request = {"prompt": KOREAN, "max_tokens": 32, **body, "stream": True}
        pieces = ""
        with http.stream("POST", "/v1/completions", json=request) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    pieces += json.loads(line[6:])["choices"][0]["text"]
        return pieces

    def running() -> float:
        found = re.findall(
            r"^trtllm_openai_requests_running(?:{.*})? (\S+)$", http.get("/metrics").text, re.MULTILINE
        )
        return sum(map(float, found))

    def chat() -> str:
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16, "temperature": 0}
        return str(http.post("/v1/chat/completions", json=body).raise_for_status().json()["usage"])

    def leave() -> str:
        body = {"prompt": KOREAN, "max_tokens": 500, "ignore_eos": True, "stream": True}
        with http.stream("POST", "/v1/completions", json=body) as response:
            next(response.iter_lines())
        deadline = time.monotonic() + 5
        while running():
            assert time.monotonic() < deadline, "still running 5 s after the client left"
            time.sleep(0.05)
        return "nothing runs any more"

    def together() -> str:
        with ThreadPoolExecutor(16) as threads:
            texts = list(threads.map(lambda i: text(seed=i, ignore_eos=True), range(16)))
        assert all(texts)
        return f"{len(set(texts))} different texts of 16"

    def same(one: str, other: str) -> str:
        assert one == other, f"{one!r} is not {other!r}"
        return repr(one[:40])

    def seeded() -> str:
        same(text(seed=7), text(seed=7))
        assert len({text(seed=i, ignore_eos=True) for i in range(4)}) > 1, "the seed changes nothing"
        return "equal with one seed, different with others"

    def length() -> str:
        choice = complete(max_tokens=5, ignore_eos=True)
        assert choice["usage"]["completion_tokens"] == 5
        assert choice["choices"][0]["finish_reason"] == "length"
        return "5 tokens"

    def biased() -> str:
        answer = complete(max_tokens=3, ignore_eos=True, logit_bias={"100": 100}, temperature=0, logprobs=0)
        tokens = answer["choices"][0]["logprobs"]["tokens"]
        assert len(set(tokens)) == 1, tokens
        return repr(tokens[0])

    def logprobs() -> str:
        values = complete(temperature=0, logprobs=0)["choices"][0]["logprobs"]["token_logprobs"]
        assert values
        assert all(-100 < value <= 0 for value in values), values
        return f"{len(values)} values"

    def stopped() -> str:
        whole = text(temperature=0, ignore_eos=True)
        stop = whole[len(whole) // 2 :][:3]
        same(text(temperature=0, ignore_eos=True, stop=stop), whole[: whole.index(stop)])
        return repr(stop)

    checks: dict[str, Callable[[], Any]] = {
        "greedy repeats": lambda: same(text(temperature=0), text(temperature=0)),
        "stream equals whole": lambda: same(stream(temperature=0), text(temperature=0)),
        "seed": seeded,
        "max_tokens": length,
        "stop string": stopped,
        "logit_bias": biased,
        "logprobs": logprobs,
        "chat": chat,
        "16 at once": together,
        "client leaves": leave,
    }
    return [_row(name, check) for name, check in checks.items()]


def _row(name: str, check: Callable[[], Any]) -> Row:
    try:
        fact = check()
    except Exception as error:  # whatever it is, it belongs into the table
        return Row(name, False, f"{type(error).__name__}: {error}".split("\n")[0])
    return Row(name, True, fact if isinstance(fact, str) else "")


def verify(engine: str, tokenizer: str, flags: list[str]) -> list[Row]:
    """All rows. The server's own output goes to standard error."""
    try:
        package, bindings = import_bindings()
    except ConfigError as error:
        return [Row("import", False, str(error))]
    rows = [Row("import", True, f"tensorrt_llm {package.__version__}"), *check_names(bindings)]
    command = [sys.executable, "-m", "trtllm_openai", "serve", "--engine", "tensorrt_llm", "--model", engine]
    command += ["--tokenizer", tokenizer, "--port", "0", "--log-level", "warning", *flags]
    with tempfile.TemporaryFile("w+") as printed:
        path = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(command, stdout=printed, env={**os.environ, "PYTHONPATH": path})
        try:
            started = time.monotonic()
            url = None
            while url is None and process.poll() is None and time.monotonic() - started < STARTUP:
                time.sleep(0.1)
                printed.seek(0)
                url = re.search(r"is ready on (http://\S+)", printed.read())
            rows.append(Row("engine loads", url is not None, f"after {time.monotonic() - started:.0f} s"))
            if url is not None:
                rows += check_server(url[1])
        finally:
            process.terminate()
            try:
                rows.append(Row("server ends", process.wait(60) == 0))
            except subprocess.TimeoutExpired:
                process.kill()
                rows.append(Row("server ends", False, "not within 60 s"))
    return rows


def main() -> int:
    arguments = sys.argv[1:]
    flags = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
    given = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if len(given) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    rows = verify(given[0], given[1], flags)
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{'OK' if row.ok else 'FAIL':4}  {row.name:{width}}  {row.fact}")
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
