"""Nothing that one client sends costs another: each case of `cases.py` beside a probe and a stream.

`make abuse` runs all cases, three rounds of each, holds the memory of every process and writes the results
to docs/security.md. With the other tests each short case runs once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.abuse import page
from tests.abuse.case import Case
from tests.abuse.cases import cases, full_cases
from tests.abuse.conftest import FULL, RESULTS
from tests.abuse.guides import GOOD
from tests.abuse.probe import Seen
from tests.abuse.target import TEXT, Target, Watcher, forget_peaks, memory, start

ROUNDS = 3 if FULL else 1
CASES = full_cases() if FULL else [case for case in cases() if case.short]

LONGEST_STOP_S, LONGEST_GAP_S = 1.5, 3.0
"""What a busy machine keeps, for bodies of up to 16 MB. docs/security.md has what was measured."""
ALLOWED_GROWTH = 32 * 2**20
"""Bytes, from the second round to the third, of a process: buffers of two bodies that the allocator keeps."""
MIB = 2**20


@dataclass
class Abused:
    """The server and its neighbour."""

    target: Target
    watcher: Watcher


@pytest.fixture(scope="module")
def abused(few_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Abused]:
    with start(few_layers, tmp_path_factory.mktemp("abuse")) as target:
        watcher = Watcher(target)
        target.server.wait(lambda: watcher.take().tokens > 0, 60)
        assert (
            target.ask(TEXT, GOOD) == "200"
        )  # the process in which guides are compiled is there from now on
        processes = target.processes()
        at_first = {name: memory(pid, "VmRSS") for name, pid in processes.items()}
        yield Abused(target, watcher)
        for name, pid in processes.items():
            RESULTS.resting[name] = (at_first[name], memory(pid, "VmRSS"))
        watcher.close()


@pytest.mark.parametrize("case", CASES, ids=[f"{case.promise}: {case.name}" for case in CASES])
def test_abuse(abused: Abused, case: Case) -> None:
    target, processes = abused.target, abused.target.processes()
    rounds: list[Seen] = []
    resting: list[dict[str, int]] = []
    peak, sent = 0, target.sent
    for _ in range(ROUNDS):
        forget_peaks(list(processes.values()))
        before = memory(processes["HTTP"], "VmRSS")
        abused.watcher.take()
        found = case.attack(target)
        rounds.append(abused.watcher.take())
        peak = max(peak, memory(processes["HTTP"], "VmHWM") - before)
        resting.append({name: memory(pid, "VmRSS") for name, pid in processes.items()})
        assert found == case.expected
    assert [seen.errors for seen in rounds] == [[]] * ROUNDS, "the neighbour's stream"
    assert target.processes() == processes, "a process ended"
    assert min(seen.stop for seen in rounds) < LONGEST_STOP_S
    assert min(seen.gap for seen in rounds) < LONGEST_GAP_S
    assert peak < case.peak_mib * MIB, f"{peak / MIB:.0f} MiB"
    growth = 0
    if FULL:
        growth = max(resting[2][name] - resting[1][name] for name in processes)
        assert growth < ALLOWED_GROWTH, (resting[1], resting[2])
    waits = (min(seen.stop for seen in rounds), min(seen.gap for seen in rounds))
    RESULTS.rows.append(page.Row(case, (target.sent - sent) // ROUNDS, *waits, peak, growth))
