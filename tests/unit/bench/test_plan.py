"""Bodies that are sent: of the wished length, repeatable, from files or made up."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from trtllm_openai.bench.plan import Endpoint, Load, Plan, bodies, parse_target, read_prompts
from trtllm_openai.errors import ConfigError


def plan(endpoint: Endpoint = "completions", prompts: list[dict[str, Any]] | None = None) -> Plan:
    target = parse_target("http://127.0.0.1:9", None)
    extra = {"ignore_eos": True}
    return Plan(target, endpoint, "m", [Load(1, concurrency=1)], 5, 9, 0, 0, 1.0, extra, prompts or [])


def sent(subject: Plan, seed: int, count: int = 3) -> list[dict[str, Any]]:
    return [json.loads(body) for body in itertools.islice(bodies(subject, seed), count)]


def test_random_prompts_differ_and_repeat_with_the_seed() -> None:
    first = sent(plan(), 1)
    assert [len(body["prompt"]) for body in first] == [5, 5, 5]
    assert first[0]["prompt"] != first[1]["prompt"]
    assert first == sent(plan(), 1)
    assert first != sent(plan(), 2)
    assert first[0]["max_tokens"] == 9
    assert first[0]["stream_options"] == {"include_usage": True}
    assert first[0]["ignore_eos"] is True


def test_chat_prompts_are_words() -> None:
    (message,) = sent(plan("chat"), 1)[0]["messages"]
    assert message["role"] == "user"
    assert len(message["content"].split()) == 5


def test_files(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"prompt": "one", "max_tokens": 3}\n\n{"prompt": "two"}\n')
    found = sent(plan(prompts=read_prompts(lines, "completions")), 1, 4)
    assert {body["prompt"] for body in found} == {"one", "two"}
    assert {body["max_tokens"] for body in found} == {3, 9}
    text = tmp_path / "a.txt"
    text.write_text("one\ntwo\n")
    (first, _) = read_prompts(text, "chat")
    assert first == {"messages": [{"role": "user", "content": "one"}]}
    lines.write_text('{"messages": []}\n')
    with pytest.raises(ConfigError, match="--endpoint chat"):
        read_prompts(lines, "completions")
    lines.write_text('{"text": "no"}\n')
    with pytest.raises(ConfigError, match="prompt or messages"):
        read_prompts(lines, "completions")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:8000", ("h", 8000, False, "/v1")),
        ("h:80/", ("h", 80, False, "/v1")),
        ("https://api.example/openai/v1/", ("api.example", 443, True, "/openai/v1")),
    ],
)
def test_target(url: str, expected: tuple[str, int, bool, str]) -> None:
    target = parse_target(url, None)
    assert (target.host, target.port, target.tls, target.prefix) == expected


def test_wrong_url() -> None:
    with pytest.raises(ConfigError):
        parse_target("ftp://h", None)
