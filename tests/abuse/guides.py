"""Guides that compile for ever, overflow a stack, or take long for every token; a good one beside each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.abuse.case import GUIDES, Case
from tests.abuse.target import TEXT, Target

SLOW = ("multipleOf four primes",)
AT_ONCE = 3
"""Requests with a hostile guide, on two processes that compile."""
GOOD = {"prompt": "x", "max_tokens": 8, "guided_regex": "[a-z]{3}"}

HOSTILE: list[tuple[str, dict[str, Any], str]] = [
    ("((a{1,100}){1,100}){1,100}", {"guided_regex": "((a{1,100}){1,100}){1,100}"}, "400 guided_regex"),
    (
        "multipleOf four primes",
        {"guided_json": {"allOf": [{"type": "integer", "multipleOf": p} for p in (101, 103, 107, 109)]}},
        "400 guided_json",
    ),
    (
        "3,000 chained rules",
        {
            "guided_grammar": "root ::= r0\n"
            + "\n".join(f'r{i} ::= "x" r{(i + 1) % 3000} | "y"' for i in range(3000))
        },
        "400 guided_grammar",
    ),
    (
        "an ambiguous grammar",
        {"guided_grammar": 'root ::= a a a a a a a a "."\na ::= [a-z]* a | "" | a a'},
        "200",
    ),
    ("a character that no token has", {"guided_regex": "\x04"}, "400 guided_regex"),
]


def cases() -> Iterator[Case]:
    """Each guide several times at once, and one whose clients leave."""
    for name, fields, expected in HOSTILE:
        yield Case(
            GUIDES,
            f"{name}, {AT_ONCE} at once",
            _beside(fields),
            f"{expected}; a good one 200",
            name not in SLOW,
        )
    name, fields, _ = HOSTILE[1]
    yield Case(GUIDES, f"{name}, its clients leave", _left(fields), "left; a good one 200")


def _body(fields: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": "x", "max_tokens": 200, "logprobs": 2, "top_p": 0.9, "temperature": 1, **fields}


def _beside(fields: dict[str, Any]) -> Callable[[Target], str]:
    def attack(target: Target) -> str:
        with ThreadPoolExecutor(1) as beside:
            bad = beside.submit(target.ask_all, TEXT, [_body(fields)] * AT_ONCE)
            good = target.ask(TEXT, GOOD)
        return f"{', '.join(dict.fromkeys(bad.result()))}; a good one {good}"

    return attack


def _left(fields: dict[str, Any]) -> Callable[[Target], str]:
    def attack(target: Target) -> str:
        content = json.dumps(_body(fields)).encode()
        for _ in range(AT_ONCE):
            with target.connect() as client:
                client.sendall(target.head(TEXT, f"content-length: {len(content)}") + content)
        return f"left; a good one {target.ask(TEXT, GOOD)}"

    return attack
