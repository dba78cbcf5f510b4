"""Phases and their transitions, and what a pool's states come to."""

import msgspec
import pytest

from tests.unit.runners.fake_runner import FakeRunner
from trtllm_openai.generation import GenerationRequest
from trtllm_openai.runners.generation import Generation
from trtllm_openai.runners.runner import Runner
from trtllm_openai.runners.state import TRANSITIONS, Endpoint, Phase, PoolStatus, RunnerReport, RunnerState


def runner(changes: list[Phase]) -> Runner:
    def adopt(request: GenerationRequest, generation: Generation) -> bool:
        return False

    subject = FakeRunner(3, adopt, lambda: changes.append(subject.phase), stall_timeout=8.0)
    return subject


@pytest.mark.parametrize("before", Phase)
@pytest.mark.parametrize("after", Phase)
def test_only_legal_transitions_are_made(before: Phase, after: Phase) -> None:
    changes: list[Phase] = []
    subject = runner(changes)
    subject.transition(before)
    if before is after or after in TRANSITIONS[before]:
        subject.transition(after, "a reason")
        assert (subject.phase, subject.reason) == (after, "a reason")
        assert changes == [before, after]
    else:
        with pytest.raises(RuntimeError, match=f"runner 3: {before} cannot become {after}"):
            subject.transition(after)
        assert subject.phase is before
        assert changes == [before]


def test_a_runner_that_failed_never_serves_without_a_new_start() -> None:
    """Every way from FAILED to READY leads through STARTING."""
    reached = {Phase.FAILED}
    for _ in Phase:
        reached |= {after for before in reached for after in TRANSITIONS[before]} - {Phase.STARTING}
    assert reached == {Phase.FAILED, Phase.GIVEN_UP}


def state(index: int, phase: Phase, reason: str = "", loaded: float = 1.0) -> RunnerState:
    return RunnerState(index=index, state=phase, reason=reason, loaded=loaded)


def test_status_counts_ready_runners_and_names_the_others() -> None:
    status = PoolStatus.of(
        [
            state(0, Phase.READY),
            state(1, Phase.UNRESPONSIVE, "it gave no result for 3 s"),
            state(2, Phase.FAILED, "it was killed by signal 9", 0.0),
            state(3, Phase.DRAINING, "before it is restarted on request"),
        ]
    )
    assert (status.ready, status.total, status.progress, status.failed) == (1, 4, 0.75, False)
    assert status.reason == (
        "runner 1 is unresponsive: it gave no result for 3 s; "
        "runner 2 failed and is started again: it was killed by signal 9; "
        "runner 3 is draining before it is restarted on request"
    )


def test_a_runner_that_is_not_needed_is_not_missed() -> None:
    retiring = msgspec.structs.replace(state(1, Phase.DRAINING, "before it is ended"), retiring=True)
    assert PoolStatus.of([state(0, Phase.READY), retiring]) == PoolStatus(1, 1, 1.0, "", failed=False)


def test_a_pool_has_failed_when_every_runner_was_given_up() -> None:
    given_up = state(0, Phase.GIVEN_UP, "it ended with status 3", 0.0)
    assert PoolStatus.of([given_up]).failed
    assert not PoolStatus.of([given_up, state(1, Phase.FAILED)]).failed


def test_every_phase_that_is_not_ready_has_a_reason() -> None:
    for phase in set(Phase) - {Phase.READY}:
        assert PoolStatus.of([state(0, phase)]).reason.startswith("runner 0 ")


def test_a_report_survives_the_trip_and_secrets_are_not_printed() -> None:
    endpoint = Endpoint("tcp://10.0.0.1:4711", "a secret")
    report = RunnerReport([RunnerState(index=0, state=Phase.READY, endpoint=endpoint)], 2, 1)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=RunnerReport) == report
    assert "a secret" not in repr(report)
