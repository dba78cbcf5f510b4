"""Back-pressure: a paused producer, and one that is told to go on."""

import gc
import weakref

from trtllm_openai.api.flow import FlowControl


def test_pause_and_resume() -> None:
    seen: list[bool] = []
    flow = FlowControl(lambda: seen.append(flow.paused))
    flow.pause()
    assert flow.paused
    assert seen == []
    flow.resume()
    assert seen == [False], "the producer is called when it may write"


def test_a_closed_one_calls_nobody() -> None:
    seen: list[int] = []
    flow = FlowControl(lambda: seen.append(1))
    flow.pause()
    flow.close()
    flow.close()
    flow.resume()
    assert seen == []
    assert not flow.paused


class Producer:
    def __init__(self) -> None:
        self.flow = FlowControl(self.go_on)

    def go_on(self) -> None:
        pass


def test_close_frees_the_producer_without_the_garbage_collector() -> None:
    gc.disable()
    try:
        producer = Producer()
        freed = weakref.ref(producer)
        producer.flow.close()
        del producer
        assert freed() is None
    finally:
        gc.enable()
