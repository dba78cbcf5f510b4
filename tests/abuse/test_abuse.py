"""Nothing that one client sends costs another: each case of `cases.py` beside a probe and a stream.

`make abuse` runs all cases in three rounds, compares the memory of every process after them, and writes the
results to docs/security.md. With the other tests each short case runs once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.abuse import page
from tests.abuse.case import Case
from tests.abuse.cases import cases, full_cases
from tests.abuse.conftest import FULL, RESULTS
from tests.abuse.guides import GOOD
from tests.abuse.probe import Seen
from tests.abuse.target import TEXT, Target, Watcher, forget_peaks, memory, start
from trtllm_openai.processes.memory import INTERVAL_S

ROUNDS = 3 if FULL else 1
CASES = full_cases() if FULL else [case for case in cases() if case.short]

LONGEST_STOP_S, LONGEST_GAP_S = 1.5, 3.0
"""Bounds that a busy machine keeps, for bodies of up to 16 MB; docs/security.md has measurements."""
ALLOWED_GROWTH = 16 * 2**20
"""Bytes, from the second round to the third, of a process at rest.

Caches are full after the first round, or nearly so, and a process at rest has given freed memory back. What
is kept of one body of 16 MB, or 200 kB of each case, is more than this.
"""
MIB = 2**20


@dataclass
class Abused:
    """The server and its neighbour. `resting`: of each process, before all rounds and after each."""

    target: Target
    watcher: Watcher
    resting: dict[str, list[int]] = field(default_factory=dict)

    def rest(self) -> None:
        """Measure all processes without a neighbour, once they had the time to give memory back."""
        self.watcher.close()
        time.sleep(2.5 * INTERVAL_S if FULL else 0)
        for name, pid in self.target.processes().items():
            self.resting.setdefault(name, []).append(memory(pid, "VmRSS"))
        self.watch()

    def watch(self) -> None:
        self.watcher = Watcher(self.target)
        self.target.server.wait(lambda: self.watcher.take().tokens > 0, 60)


@dataclass
class Measured:
    """The results of a case's rounds. `growth`: of the process that grew most in the latest round."""

    rounds: list[Seen] = field(default_factory=list)
    peak: int = 0
    growth: int = 0
    sent: int = 0


MEASURED: dict[str, Measured] = {}


@pytest.fixture(scope="module")
def abused(few_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Abused]:
    with start(few_layers, tmp_path_factory.mktemp("abuse")) as target:
        one = Abused(target, Watcher(target))
        # The process in which guides are compiled is there from now on.
        assert target.ask(TEXT, GOOD) == "200"
        one.rest()
        yield one
        one.watcher.close()


@pytest.mark.parametrize("case", CASES, ids=[f"{case.promise}: {case.name}" for case in CASES])
@pytest.mark.parametrize("number", range(1, ROUNDS + 1))  # all cases, and all of them again
def test_abuse(abused: Abused, case: Case, number: int) -> None:
    target, processes = abused.target, abused.target.processes()
    measured = MEASURED.setdefault(case.name, Measured())
    forget_peaks(list(processes.values()))
    before = {name: memory(pid, "VmRSS") for name, pid in processes.items()}
    sent = target.sent
    abused.watcher.take()
    found = case.attack(target)
    measured.rounds.append(abused.watcher.take())
    measured.peak = max(measured.peak, memory(processes["HTTP"], "VmHWM") - before["HTTP"])
    measured.growth = max(memory(pid, "VmRSS") - before[name] for name, pid in processes.items())
    measured.sent = target.sent - sent
    assert found == case.expected
    assert measured.rounds[-1].errors == [], "the neighbour's stream"
    assert target.processes() == processes, "a process ended"
    assert measured.peak < case.peak_mib * MIB, f"{measured.peak / MIB:.0f} MiB"
    if number == ROUNDS:
        stop, gap = (min(seen.stop for seen in measured.rounds), min(seen.gap for seen in measured.rounds))
        assert stop < LONGEST_STOP_S
        assert gap < LONGEST_GAP_S
        RESULTS.rows.append(page.Row(case, measured.sent, stop, gap, measured.peak, measured.growth))
    if case is CASES[-1]:
        abused.rest()


@pytest.mark.skipif(not FULL, reason="one round shows nothing")
def test_no_process_grows(abused: Abused) -> None:
    RESULTS.resting = abused.resting
    assert {name: len(sizes) for name, sizes in abused.resting.items()} == dict.fromkeys(
        abused.target.processes(), 1 + ROUNDS
    )
    growth = {name: sizes[-1] - sizes[-2] for name, sizes in abused.resting.items()}
    assert max(growth.values()) < ALLOWED_GROWTH, {name: size / MIB for name, size in growth.items()}
