"""Guides are checked in a process that ends the bad ones: nothing that one does touches another."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator

import pytest

from trtllm_openai.engines.tensorrt_llm import guide_check
from trtllm_openai.engines.tensorrt_llm.guide_check import MAX_PROCESSES, GuideChecker
from trtllm_openai.errors import ConfigError, InvalidRequest
from trtllm_openai.generation import Guide

VOCABULARY = [bytes([byte]) for byte in range(256)] + [bytes([97 + i % 26, 97 + i // 26]) for i in range(600)]
PATIENCE = 60.0
CPU_S = 1


def stuck(i: int) -> Guide:
    """A guide that compiles for minutes."""
    return Guide("regex", "x".join(["(.{0,1000}){0,1000}"] * 20_000) + str(i), "guided_regex")


def make(vocab_size: int = len(VOCABULARY) + 1) -> GuideChecker:
    return GuideChecker(VOCABULARY, vocab_size, [len(VOCABULARY)], CPU_S, 256 << 20)


@pytest.fixture(scope="module")
def checker() -> Iterator[GuideChecker]:
    made = make()
    made.wait_until_ready()
    yield made
    made.close()
    made.close()


def refusal(checker: GuideChecker, guide: Guide) -> str:
    with pytest.raises(InvalidRequest) as caught:
        checker.check(guide).result(PATIENCE)
    assert caught.value.param == (guide.param or None)
    return str(caught.value)


def test_verdicts_of_every_kind(checker: GuideChecker) -> None:
    good = [
        Guide("json_object"),
        Guide("json_schema", '{"type": "object", "properties": {"a": {"type": "integer"}}}'),
        Guide("regex", "a+"),
        Guide("grammar", 'root ::= "a" | "b"'),
        Guide("structural_tag", '{"type":"structural_tag","format":{"type":"const_string","value":"x"}}'),
    ]
    for future in [checker.check(guide) for guide in good]:
        future.result(PATIENCE)
    message = refusal(checker, Guide("regex", "(", "guided_regex"))
    assert message.startswith("'guided_regex' cannot be used: ")
    assert ".cc" not in message, "no place in XGrammar's source"
    refusal(checker, Guide("json_schema", '{"type": "nothing"}', "response_format"))
    refusal(checker, Guide("grammar", "root ::= missing"))
    refusal(checker, Guide("structural_tag", "{}"))


def test_good_guides_beside_stuck_ones(checker: GuideChecker) -> None:
    """One more than are compiled at once, so that some must end for the good one to begin."""
    bad = [checker.check(stuck(i)) for i in range(MAX_PROCESSES + 1)]
    good = checker.check(Guide("regex", "b+"))
    good.result(PATIENCE)
    for future in bad:
        with pytest.raises(
            InvalidRequest, match=f"too complex, compiling it takes more than {CPU_S} s"
        ) as caught:
            future.result(PATIENCE)
        assert caught.value.param == "guided_regex"


def test_memory_is_bounded(checker: GuideChecker) -> None:
    values = ",".join(f'"{str(i) * 40}"' for i in range(100_000))
    assert "too complex" in refusal(checker, Guide("json_schema", f'{{"enum": [{values}]}}', "guided_json"))


def test_a_verdict_is_kept_and_shared_but_names_its_own_parameter(checker: GuideChecker) -> None:
    text = "(((kept"
    first = [checker.check(Guide("regex", text, f"parameter {i}")) for i in range(3)]
    for i, future in enumerate(first):
        with pytest.raises(InvalidRequest) as caught:
            future.result(PATIENCE)
        assert caught.value.param == f"parameter {i}"
    again = checker.check(Guide("regex", text, "later"))
    assert again.done(), "it is not compiled again"
    assert isinstance(again.exception(), InvalidRequest)


def test_a_cancelled_check_is_ended_unless_another_waits_for_it(checker: GuideChecker) -> None:
    alone, shared = checker.check(stuck(100)), [checker.check(stuck(101)) for _ in range(2)]
    assert alone.cancel()
    assert shared[0].cancel()
    assert "too complex" in str(shared[1].exception(PATIENCE))
    assert "too complex" in refusal(checker, stuck(100)), "cancelled, it has no verdict yet"


def test_the_process_is_replaced_and_what_waited_is_checked(
    checker: GuideChecker, caplog: pytest.LogCaptureFixture
) -> None:
    before = checker.pid
    assert before is not None
    os.kill(before, signal.SIGSTOP)
    waits = checker.check(Guide("regex", "c+"))
    os.kill(before, signal.SIGKILL)
    waits.result(PATIENCE)
    assert checker.pid != before
    assert [one for one in caplog.records if "starting it again now" in one.message]


def test_a_process_that_cannot_start_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    made = make()
    with pytest.raises(ConfigError, match=r"tensorrt_llm\.guided_decoding"):
        made.wait_until_ready()


def test_xgrammar_that_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert guide_check.available()
    monkeypatch.setattr(guide_check, "find_spec", lambda _: None)
    assert not guide_check.available()
    assert "unchecked" in caplog.text
