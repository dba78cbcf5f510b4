"""Everything that a client may try, by the promise that it tries: see `promises.py`.

A case attacks a `Target` and returns what was said to it, which is compared with `expected`. What it may cost
others is the same for all cases and is held by `test_abuse.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import budget
from tests.abuse import guides, http, origins, secrets, tenants, workers
from tests.abuse.case import VALUES, WORK, Case
from tests.abuse.promises import PROMISES
from tests.abuse.target import CHAT, TEXT, Target


def cases() -> list[Case]:
    """All cases, those of one promise together: see `full_cases`."""
    found = [*_work(), *_values()]
    for module in (guides, http, tenants, secrets, origins, workers):
        found += module.cases()
    order = list(PROMISES)
    return sorted(found, key=lambda case: order.index(case.promise))


def full_cases() -> list[Case]:
    """Those of `make abuse`."""
    return [case for case in cases() if case.full]


SLOW = (
    "prompt: 1,900 token ids, n 128",
    "responses: 4,096 items",
    "stop: a text of 8 kB, n 128",
    "stop: 8,000,000 numbers (16 MB)",
    "prompt_logprobs of 2000 tokens",
)


def _work() -> Iterator[Case]:
    for case in budget.cases():
        expected = "200" if case.param is None else f"400 {case.param or 'invalid_value'}"
        yield Case(WORK, case.name, _post(case.path, case.raw), expected, case.name not in SLOW)


def _post(path: str, make: Callable[[], Any]) -> Callable[[Target], str]:
    return lambda target: target.ask(path, make())


def _send(path: str, body: dict[str, Any]) -> Callable[[Target], str]:
    return lambda target: target.ask(path, body)


def _values() -> Iterator[Case]:
    """Values that ended a runner, each with all streams on it, and values at the ends of their ranges."""
    sampled = {"logprobs": 2, "top_p": 0.5, "presence_penalty": 1, "temperature": 1, "max_tokens": 4}
    stops = list(range(1024))
    refused: list[tuple[str, dict[str, Any], str]] = [
        ("repetition_penalty 1e-38", {"repetition_penalty": 1e-38}, "repetition_penalty"),
        ("repetition_penalty 1e38", {"repetition_penalty": 1e38}, "repetition_penalty"),
        ("temperature 1e300", {"temperature": 1e300}, "temperature"),
        ("seed 2**70", {"seed": 2**70}, "seed"),
        ("top_k 2**40", {"top_k": 2**40}, "top_k"),
        ("min_tokens 2**40", {"min_tokens": 2**40}, "min_tokens"),
        ("logit_bias 1e300", {"logit_bias": {"5": 1e300}}, "logit_bias.5"),
        ("stop_token_ids: the whole vocabulary", {"stop_token_ids": list(range(49_152))}, "stop_token_ids"),
        ("a grammar without end: root ::= root", {"guided_grammar": "root ::= root"}, "guided_grammar"),
        ("a schema without end: $ref #", {"guided_json": {"$ref": "#"}}, "guided_json"),
    ]
    for name, body, param in refused:
        asked = {"prompt": "x", **sampled, **body}
        yield Case(VALUES, name, _send(TEXT, asked), f"400 {param}")
    served: list[tuple[str, dict[str, Any]]] = [
        ("temperature 1e-300, top_p 1e-300", {"temperature": 1e-300, "top_p": 1e-300, "logprobs": 20}),
        ("penalties of 2, n 64", {"presence_penalty": 2, "frequency_penalty": 2, "n": 64, "max_tokens": 8}),
        ("min_p 1 with logit_bias of -100 and 100", {"min_p": 1, "logit_bias": {"5": -100, "6": 100}}),
        ("min_tokens 4 with 1024 stop_token_ids", {"min_tokens": 4, "stop_token_ids": stops}),
        ("prompt_logprobs of 2000 tokens", {"prompt": [5] * 2000, "echo": True, "logprobs": 20}),
        ("a priority, a salt and an adapter-like name", {"priority": 1, "cache_salt": "\u0000" * 1000}),
    ]
    for name, body in served:
        asked = {"prompt": "x", **sampled, **body}
        yield Case(VALUES, name, _send(TEXT, asked), "200", name not in SLOW)
    kwargs = {"chat_template_kwargs": {"self": 1}, "messages": [{"role": "user", "content": "x"}]}
    yield Case(VALUES, "chat_template_kwargs.self", _send(CHAT, kwargs), "400 chat_template_kwargs.self")
