"""What the engine answers: sampling, ends, log-probabilities, reuse and guides."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from scripts.trtllm_checks.server import CHAT, Server
from scripts.trtllm_checks.table import Row, expect, rows, same

SCHEMA = {
    "type": "object",
    "properties": {"capital": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
    "required": ["capital", "people"],
    "additionalProperties": False,
}
TAG = {
    "type": "structural_tag",
    "format": {"type": "sequence", "elements": [{"type": "const_string", "value": "Seoul!"}]},
}
BAD_GUIDES: dict[str, Any] = {
    "guided_regex": "(",
    "guided_grammar": "root ::= missing",
    "guided_json": {"type": "nothing"},
}
LEFT_OUT: dict[str, tuple[str, ...]] = {
    "lookahead_decoding": ("seed", "greedy logprobs below 0", "guide: ", "bad guides"),
    "draft_tokens_external": ("greedy logprobs below 0",),
}
"""Rows, by how they begin, of what an engine built for a speculative decoding mode cannot do."""


def check_answers(server: Server, mode: str = "none") -> list[Row]:
    """Rows of a server with default limits and, unless the engine was built for lookahead decoding, guided
    decoding. `mode`: its mode of speculative decoding.
    """
    complete, text = server.complete, server.text

    def seeded() -> str:
        same(text(seed=7, ignore_eos=True), text(seed=7, ignore_eos=True))
        others = {text(seed=i, ignore_eos=True) for i in range(4)}
        expect(len(others) > 1, "four seeds, one text: the seed changes nothing")
        return f"equal with one seed, {len(others)} texts of 4 with others"

    def length() -> str:
        answer = complete(max_tokens=5, ignore_eos=True)
        seen = answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]
        expect(seen == (5, "length"), f"5 tokens asked for: {seen}")
        return "5 tokens"

    def least() -> str:
        seen = [complete(prompt="x", temperature=0, min_tokens=n, max_tokens=40) for n in (0, 24)]
        free, forced = (one["usage"]["completion_tokens"] for one in seen)
        expect(forced >= 24, f"min_tokens 24: {forced} tokens")
        return f"{free} tokens without, {forced} with min_tokens 24"

    def stopped() -> str:
        whole = text(temperature=0, ignore_eos=True)
        stop = whole[len(whole) // 2 :][:3]
        same(server.same_text(temperature=0, ignore_eos=True, stop=stop), whole[: whole.index(stop)])
        return repr(stop)

    def biased() -> str:
        found = server.http.post("/tokenize", json={"prompt": "x"}).raise_for_status().json()
        token = found["tokens"][-1]
        answer = text(max_tokens=3, ignore_eos=True, logit_bias={str(token): 100}, temperature=0)
        return repr(same(answer.replace(" ", ""), "xxx"))

    def logprobs() -> str:
        answer = complete(temperature=0, logprobs=0, ignore_eos=True)["choices"][0]["logprobs"]
        values = answer["token_logprobs"]
        expect(values and all(-100 < value <= 0 for value in values), f"values: {values}")
        expect(any(value < 0 for value in values), "all are 0.0: they are normalized after the top_k cut")
        return f"{len(values)} values, mean {sum(values) / len(values):.3f}"

    def reused() -> str:
        prompt = "The quick brown fox jumps over the lazy dog. " * 20
        usage = [complete(prompt=prompt, max_tokens=1)["usage"] for _ in range(2)][-1]
        cached, total = usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]
        expect(0 < cached <= total, f"the second time {cached} of {total} prompt tokens were cached")
        return f"{cached} of {total} prompt tokens the second time"

    def together() -> str:
        with ThreadPoolExecutor(16) as threads:
            texts = list(threads.map(lambda i: text(seed=i, ignore_eos=True), range(16)))
        expect(all(texts), "an empty text")
        return f"{len(set(texts))} different texts of 16"

    def chat(**body: Any) -> str:
        message = {"messages": [{"role": "user", "content": "The capital of South Korea?"}]}
        answer = server.post(CHAT, **message, temperature=0, **body).raise_for_status().json()
        return str(answer["choices"][0]["message"]["content"])

    def formed(response_format: dict[str, Any]) -> str:
        return chat(response_format=response_format, max_tokens=200)

    def json_object() -> str:
        answer = formed({"type": "json_object"})
        expect(isinstance(json.loads(answer), dict), f"not an object: {answer!r}")
        return answer[:40]

    def json_schema() -> str:
        answer = formed({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}})
        found = json.loads(answer)
        expect(
            set(found) == {"capital", "people"} and isinstance(found["people"], int), f"not so: {answer!r}"
        )
        return answer[:60]

    def structural_tag() -> str:
        return repr(same(formed(TAG), "Seoul!"))

    def regex() -> str:
        answer = text(guided_regex="[A-Z][a-z]{3}-[0-9]{2}", temperature=0)
        expect(re.fullmatch("[A-Z][a-z]{3}-[0-9]{2}", answer), f"does not match: {answer!r}")
        return repr(answer)

    def grammar() -> str:
        answer = text(guided_grammar='root ::= "yes" | "no"', temperature=0)
        expect(answer in ("yes", "no"), f"neither yes nor no: {answer!r}")
        return repr(answer)

    def beside_bad_guides() -> str:
        with ThreadPoolExecutor(3) as threads:
            body = {"max_tokens": 200, "ignore_eos": True}
            streams = [threads.submit(lambda: list(server.stream(**body))) for _ in range(3)]
            server.wait("three streams run", lambda: server.metric("requests_running") >= 3, 30)
            for param, guide in BAD_GUIDES.items():
                refused = server.post(**{param: guide})
                expect(refused.status_code == 400, f"{param} {guide!r}: {refused.status_code} {refused.text}")
            ends = [stream.result()[-1] for stream in streams]
        reasons = [end["choices"][0]["finish_reason"] if "choices" in end else str(end) for end in ends]
        expect(reasons == ["length"] * 3, f"the streams ended with {reasons}")
        return f"3 streams whole beside {len(BAD_GUIDES)} refused guides"

    def applies(name: str, check: Callable[[], Any]) -> Callable[[], Any]:
        left_out = name.startswith(LEFT_OUT.get(mode, ()))
        return (lambda: f"does not apply: the engine was built for {mode}") if left_out else check

    checks: dict[str, Callable[[], Any]] = {
        "greedy repeats": lambda: repr(same(text(temperature=0), text(temperature=0))[:40]),
        "stream equals whole": lambda: repr(server.same_text(temperature=0)[:40]),
        "seed": seeded,
        "max_tokens": length,
        "min_tokens": least,
        "stop string": stopped,
        "logit_bias": biased,
        "greedy logprobs below 0": logprobs,
        "cached tokens of a repeated prompt": reused,
        "chat": lambda: repr(chat()[:40]),
        "16 at once": together,
        "guide: json_object": json_object,
        "guide: json_schema": json_schema,
        "guide: regex": regex,
        "guide: grammar": grammar,
        "guide: structural_tag": structural_tag,
        "bad guides beside good streams": beside_bad_guides,
    }
    return rows({name: applies(name, check) for name, check in checks.items()})
