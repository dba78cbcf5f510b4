"""Requests wait for the check of their guides, each for its own."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from tests.unit.engines.tensorrt_llm.test_executor import request
from trtllm_openai.engines.tensorrt_llm import guided_requests
from trtllm_openai.engines.tensorrt_llm.guide_check import GuideChecker
from trtllm_openai.engines.tensorrt_llm.guided_requests import GuidedRequests
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import GenerationRequest, Guide


class Checker:
    """Checks nothing: the test decides."""

    def __init__(self) -> None:
        self.checks: list[Future[None]] = []
        self.closed = False

    def check(self, guide: Guide) -> Future[None]:
        self.checks.append(Future())
        return self.checks[-1]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def checker() -> Checker:
    return Checker()


@pytest.fixture
def subject(checker: Checker) -> GuidedRequests:
    return GuidedRequests(cast(GuideChecker, checker))


def guided(name: str) -> GenerationRequest:
    return msgspec.structs.replace(request(name), guide=Guide("regex", "a", "guided_regex"))


def test_what_has_no_guide_or_nobody_to_check_it_begins_at_once(subject: GuidedRequests) -> None:
    assert not subject.add(request("plain"))
    assert not GuidedRequests(None).add(guided("unchecked"))
    assert len(subject) == 0


def test_each_ends_by_its_own_guide(subject: GuidedRequests, checker: Checker) -> None:
    for name in ("good", "bad", "failed", "waits"):
        assert subject.add(guided(name))
    assert subject.take() == ([], [])
    good, bad, failed, _ = checker.checks
    good.set_result(None)
    bad.set_exception(InvalidRequest("no", "guided_regex"))
    failed.set_exception(RuntimeError("the process ended"))
    ready, ended = subject.take()
    assert [one.request_id for one in ready] == ["good"]
    assert [(one.request_id, one.error, one.error_code, one.error_param) for one in ended] == [
        ("bad", "no", "invalid_value", "guided_regex"),
        ("failed", "the process ended", None, None),
    ]
    assert len(subject) == 1
    assert subject.take() == ([], [])


def test_a_dropped_one_is_not_checked_any_more(subject: GuidedRequests, checker: Checker) -> None:
    subject.add(guided("a"))
    assert not subject.drop("b")
    assert subject.drop("a")
    assert checker.checks[0].cancelled()
    assert subject.take() == ([], [])


def test_none_waits_for_ever(
    subject: GuidedRequests, checker: Checker, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(guided_requests, "time", SimpleNamespace(monotonic=lambda: now[0]))
    subject.add(guided("a"))
    now[0] += guided_requests.TIMEOUT_S - 1
    assert subject.take() == ([], [])
    now[0] += 1
    _, (ended,) = subject.take()
    assert (ended.request_id, ended.error_code) == ("a", "queue_full")
    assert checker.checks[0].cancelled()


def test_it_ends_the_checker(subject: GuidedRequests, checker: Checker) -> None:
    subject.close()
    GuidedRequests(None).close()
    assert checker.closed
