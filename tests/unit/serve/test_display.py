"""Start-up as it is shown: stages, the bar on a terminal, lines elsewhere."""

import io
import itertools

from trtllm_openai.runners.state import Phase, RunnerState
from trtllm_openai.serve.display import CLEAR, StartupDisplay


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def runner(index: int, stage: str, share: float, phase: Phase = Phase.LOADING) -> RunnerState:
    return RunnerState(index=index, state=phase, reason=stage, loaded=share)


def test_lines_for_each_tenth_and_each_stage() -> None:
    stream = io.StringIO()
    display = StartupDisplay(stream)
    for share, stage in ((0.0, "reading"), (0.05, "reading"), (0.31, "reading"), (0.35, "capturing")):
        display.update(share, "", [runner(0, stage, share)])
    display.update(1.0, "", [runner(0, "", 1.0, Phase.READY)])
    display.end()
    assert stream.getvalue().splitlines() == [
        "loading   0%  reading",
        "loading  31%  reading",
        "loading  35%  capturing",
        "loading 100%  ready",
    ]


def test_a_terminal_has_the_time_left_and_what_each_stage_took() -> None:
    stream = Terminal()
    seconds = itertools.count(0.0, 10.0)
    display = StartupDisplay(stream, lambda: next(seconds))
    display.update(0.0, "converting x.gguf")
    display.update(0.0, "", [runner(0, "reading weights", 0.0)])
    display.update(0.5, "", [runner(0, "reading weights", 0.5)])
    display.update(0.9, "", [runner(0, "capturing CUDA graphs", 0.9)])
    display.end()
    shown = stream.getvalue().split(CLEAR)
    assert shown[1] == "[........................]   0%  converting x.gguf"
    assert [" ".join(line.split()) for line in shown if line.endswith(" s\n")] == [
        "converting x.gguf 10.0 s",
        "reading weights 20.0 s",
    ]
    assert "[############............]  50%  reading weights, about 10 s left" in shown
    assert shown[-1] == "", "the bar is removed"


def test_every_replica_counts() -> None:
    stream = io.StringIO()
    display = StartupDisplay(stream)
    both = [runner(0, "reading weights", 0.4), runner(1, "", 0.0, Phase.STARTING)]
    display.update(0.2, "", both)
    display.update(0.25, "", [both[0], runner(1, "no memory", 0.0, Phase.FAILED)])
    first, second = stream.getvalue().splitlines()
    assert first == "loading  20%  reading weights; starting"
    assert second == "loading  25%  reading weights; runner 1 failed and is started again: no memory"
