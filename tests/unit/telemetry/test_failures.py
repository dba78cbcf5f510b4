"""The latest failures: what counts as one, and that a flood of one kind leaves room for the others."""

import logging

import pytest

from trtllm_openai.generation import SamplingParams
from trtllm_openai.telemetry.failures import KEPT, MAX_LENGTH, Failure, FailureHandler, Failures, latest
from trtllm_openai.telemetry.record import GenerationRecord, RequestRecord


def failure(what: str, at: float = 0.0, reason: str = "") -> Failure:
    return Failure(at, "http", what, reason)


def record(status: int, code: str = "", end: str = "") -> RequestRecord:
    generation = GenerationRecord(SamplingParams(max_tokens=9), 1, 1, 0, 0, [], None, None, end)
    return RequestRecord("id", "POST", route="/v1/x", status=status, code=code, generation=generation)


@pytest.mark.parametrize(
    ("status", "code", "end", "reason"),
    [
        (500, "internal_error", "", "internal_error"),
        (503, "", "", "status 503"),
        (429, "queue_full", "", "queue_full"),
        (200, "", "timeout", "timeout"),
        (200, "", "error", "error"),
        (200, "", "", None),
        (200, "", "client_gone", None),
        (400, "invalid_value", "", None),
        (499, "", "client_gone", None),
    ],
)
def test_what_the_server_failed_and_not_what_the_client_did(
    status: int, code: str, end: str, reason: str | None
) -> None:
    failures = Failures("http-3")
    failures.add_request(record(status, code, end))
    found = [(one.process, one.what, one.reason, one.status) for one in failures.recent()]
    assert found == ([] if reason is None else [("http-3", "POST /v1/x", reason, status)])


def test_equal_ones_are_counted_and_the_latest_is_first() -> None:
    failures = Failures("http")
    for at, what in enumerate(["crash", *["flood"] * 1000, "late", "flood"]):
        failures.add(failure(what, at))
    assert [(one.what, one.count, one.at) for one in failures.recent()] == [
        ("flood", 1001, 1002),
        ("late", 1, 1001),
        ("crash", 1, 0),
    ]


def test_they_are_bounded() -> None:
    failures = Failures("http")
    for number in range(KEPT + 7):
        failures.add(failure(str(number)))
    assert [one.what for one in failures.recent()] == [str(number) for number in range(KEPT + 6, 6, -1)]


def test_warnings_of_the_log_without_tracebacks() -> None:
    failures = Failures("supervisor")
    handler = FailureHandler(failures)
    log = logging.getLogger("trtllm_openai.runners.process")
    try:
        log.info("all is well")
        log.warning("runner %d is %s", 3, "x" * 2 * MAX_LENGTH)
        try:
            raise ValueError("secret of a traceback")
        except ValueError:
            log.exception("it failed")
    finally:
        handler.close()
    log.error("nobody listens any more")
    after, before = failures.recent()
    assert (after.what, after.reason, after.level) == ("runners.process", "it failed", "error")
    assert before.reason.startswith("runner 3 is xxx")
    assert (len(before.reason), before.level) == (MAX_LENGTH, "warning")


def test_those_of_several_processes() -> None:
    mine = [failure(str(at), at) for at in range(40)]
    others = [failure(str(at), at) for at in range(40, 80)]
    assert [one.what for one in latest([mine, others])] == [str(at) for at in range(79, 79 - KEPT, -1)]
