"""Start-up on standard error: on a terminal a bar with the time left and a line for each finished stage,
elsewhere a line for each stage and for every 10 %.

Stages are what runners report (reading weights, capturing CUDA graphs …), and before there are runners what
is done to the checkpoint (downloading, converting).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from trtllm_openai.runners.state import Phase, RunnerState
from trtllm_openai.serve.uvicorn import print_safely

WIDTH = 24
"""Characters of the bar."""
LINE = 110
"""Characters of a line at most."""
CLEAR = "\r\x1b[2K"
WORTH_A_LINE_S = 0.1
SURE_AFTER = 0.05
"""Share of the work after which the time left is told."""


class StartupDisplay:
    """Shows how far start-up is; `end` leaves a clean line."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds."""
        self._stream = stream or sys.stderr
        self._clock = clock
        self._tty = self._stream.isatty()
        self._stages: dict[str, float] = {}  # present ones, with their begin
        self._tenth = -1
        self._shown = ""
        self._begun = (0.0, 0.0)  # time and share at which the present part began

    def update(self, share: float, reason: str, states: Sequence[RunnerState] = ()) -> None:
        """`share` (0..1) of the loading is done. `states`: the runners, once there are any; else `reason`
        says what is done."""
        now = self._clock()
        stages = list(dict.fromkeys(filter(None, map(_stage, states)))) if states else [reason]
        ended = [stage for stage in self._stages if stage not in stages]
        new = [stage for stage in stages if stage not in self._stages]
        if not self._stages or share < self._begun[1] or (new and share == self._begun[1]):
            self._begun = now, share
        if self._tty:
            for stage in ended:
                seconds = now - self._stages[stage]
                if seconds >= WORTH_A_LINE_S:
                    print_safely(f"{CLEAR}  {stage:{LINE - 20}.{LINE - 20}} {seconds:8.1f} s", self._stream)
        self._stages = {stage: self._stages.get(stage, now) for stage in stages}
        if self._tty:
            self._bar(share, "; ".join(stages), now)
        elif new or int(share * 10) > self._tenth:
            print_safely(f"loading {share:4.0%}  {'; '.join(stages) or 'ready'}", self._stream)
        self._tenth = int(share * 10)

    def end(self) -> None:
        """Remove the bar."""
        if self._tty and self._shown:
            print_safely(CLEAR, self._stream, end="")
            self._shown = ""

    def _bar(self, share: float, text: str, now: float) -> None:
        filled = round(share * WIDTH)
        left = self._time_left(share, now)
        line = f"[{'#' * filled}{'.' * (WIDTH - filled)}] {share:4.0%}  {text}"[: LINE - len(left)] + left
        if line != self._shown:
            print_safely(f"{CLEAR}{line}", self._stream, end="")
            self._shown = line

    def _time_left(self, share: float, now: float) -> str:
        begin, before = self._begun
        done = share - before
        if done < SURE_AFTER or share >= 1:
            return ""
        seconds = (now - begin) * (1 - share) / done
        return f", about {seconds:.0f} s left" if seconds < 90 else f", about {seconds / 60:.0f} min left"


def _stage(state: RunnerState) -> str:
    """What a runner is doing; empty once it is ready."""
    if state.state is Phase.READY:
        return ""
    if state.state is Phase.LOADING:
        return state.reason
    return "starting" if state.state is Phase.STARTING else str(state)
