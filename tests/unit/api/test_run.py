"""A run: what its consumer sees, and what it leaves behind, however it ends."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from trtllm_openai.api.accounting import Accounting
from trtllm_openai.api.choice import Choice, Delta
from trtllm_openai.api.errors import ApiError
from trtllm_openai.api.run import RequestRun
from trtllm_openai.api.time_limits import TimeLimits
from trtllm_openai.config import LimitSettings
from trtllm_openai.errors import InvalidRequest, Overloaded, ShuttingDown
from trtllm_openai.generation import QUEUE_FULL, QUEUE_TIMEOUT, GenerationRequest, SamplingParams, StepOutput
from trtllm_openai.runners import Admission, Generation, SharedCounters
from trtllm_openai.telemetry.metrics import Metrics
from trtllm_openai.telemetry.record import RequestRecord
from trtllm_openai.text.choice import ChoiceDecoder, TextRules
from trtllm_openai.text.tokenizer import Tokenizer


class Fixture:
    """One run of a single choice, and its consumer."""

    def __init__(self, tokenizer: Tokenizer, limits: TimeLimits, stop: tuple[str, ...] = ()) -> None:
        self.aborted: list[str] = []
        self.texts: list[str] = []
        self.lasts: list[bool] = []
        self.ends: list[Exception | None] = []
        self.closed: list[RequestRun] = []
        self.metrics = Metrics()
        self.record = RequestRecord()
        self.admission = Admission(LimitSettings(), lambda _: None, SharedCounters.alone())
        self.tokenizer = tokenizer
        self.generation = Generation(["r"], self.aborted.extend)
        decoder = ChoiceDecoder(tokenizer, TextRules(stop=stop))
        choice = Choice(0, GenerationRequest("r", [1, 2], SamplingParams(max_tokens=99)), decoder)
        accounting = Accounting(
            self.metrics,
            self.record,
            self.admission.enter("", [2]),
            [choice],
            prompt_tokens=2,
            started=time.perf_counter(),
        )
        self.run = RequestRun(
            [choice], self.generation, accounting, limits, self.admission.engine_refusal, self.closed.append
        )

    def consume(self, deltas: list[Delta], last: bool) -> None:
        self.texts.append("".join(delta.text for _, delta in deltas))
        self.lasts.append(last)

    def ended(self, error: Exception | None) -> None:
        self.ends.append(error)

    def put(self, text: str, reason: str | None = None, **fields: object) -> None:
        """Deliver an engine delta as a runner's message does."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if self.generation.put(StepOutput("r", ids, reason, **fields)):  # type: ignore[arg-type]
            self.generation.listener()

    def cancelled(self, reason: str) -> float:
        return self.metrics.cancelled.labels(reason).value


Check = Callable[[Callable[..., Fixture]], Awaitable[None]]


@pytest.fixture
def check(demo_tokenizer: Tokenizer) -> Callable[[Check], None]:
    def run(body: Check) -> None:
        def make(limits: TimeLimits | None = None, stop: tuple[str, ...] = ()) -> Fixture:
            return Fixture(demo_tokenizer, limits or TimeLimits(), stop)

        asyncio.run(body(make))  # type: ignore[arg-type]

    return run


def test_text_usage_and_end(check: Callable[[Check], None]) -> None:
    async def body(make: Callable[..., Fixture]) -> None:
        one = make()
        one.run.start(one)
        one.put("Hello", cached_tokens=1)
        one.put(" world", "stop")
        assert "".join(one.texts) == "Hello world"
        assert one.lasts == [False, True]
        assert one.ends == [None]
        usage = one.run.accounting.usage()
        assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) == (2, 1)
        one.run.close()
        assert one.closed == [one.run]
        assert one.record.generation is not None
        assert one.record.generation.finish_reasons == ["stop"]
        assert one.admission.waiting == 0
        assert one.cancelled("client_gone") == 0

    check(body)


def test_paused_deltas_come_together_after_resume(check: Callable[[Check], None]) -> None:
    async def body(make: Callable[..., Fixture]) -> None:
        one = make()
        one.run.start(one)
        one.run.flow.pause()
        one.put("Hello")
        one.put(" world")
        assert one.texts == []
        one.run.flow.resume()
        assert len(one.texts) == 1
        one.run.close()
        one.run.flow.resume()  # a closed run stays silent
        assert one.ends == []

    check(body)


@pytest.mark.parametrize("code", [QUEUE_TIMEOUT, QUEUE_FULL])
@pytest.mark.parametrize("accepting", [False, True])
def test_a_full_engine_queue_is_overload(check: Callable[[Check], None], code: str, accepting: bool) -> None:
    """`accepting`: a guided stream, which waits for the engine before its response starts."""

    async def body(make: Callable[..., Fixture]) -> None:
        one = make(TimeLimits(queue_timeout_s=0.01) if code == QUEUE_TIMEOUT else None)
        if not accepting:
            one.run.start(one)
        if code == QUEUE_FULL:
            one.put("", "error", error="no place", error_code=code)
        elif not accepting:
            await asyncio.sleep(0.1)
        if accepting:
            with pytest.raises(Overloaded) as caught:
                await one.run.accepted()
            error: Exception | None = caught.value
        else:
            (error,) = one.ends
        assert isinstance(error, Overloaded)
        assert error.code == code
        assert error.retry_after_ms >= 1000
        one.run.close()

    check(body)


def test_stop_string_aborts_the_sequence(check: Callable[[Check], None]) -> None:
    async def body(make: Callable[..., Fixture]) -> None:
        one = make(None, ("STOP",))
        one.run.start(one)
        one.put("Hello STOP more")
        assert one.texts == ["Hello "]
        assert one.aborted == ["r"]
        assert one.ends == [None]
        one.run.close()

    check(body)


def test_close_before_the_end_aborts_and_counts(check: Callable[[Check], None]) -> None:
    async def body(make: Callable[..., Fixture]) -> None:
        one = make()
        one.run.start(one)
        one.put("Hello")
        one.run.close()
        one.run.close()
        assert one.aborted == ["r"]
        assert one.cancelled("client_gone") == 1
        assert one.admission.waiting == 0

    check(body)


@pytest.mark.parametrize("limits", [TimeLimits(0.01), TimeLimits(60, 0.01)])
def test_timeouts(check: Callable[[Check], None], limits: TimeLimits) -> None:
    async def body(make: Callable[..., Fixture]) -> None:
        one = make(limits)
        one.run.start(one)
        async with asyncio.timeout(5):
            while not one.ends:
                await asyncio.sleep(0.005)
        (error,) = one.ends
        assert isinstance(error, ApiError)
        assert (error.status, error.code) == (504, "timeout")
        assert one.aborted == ["r"]
        one.run.close()
        assert one.cancelled("timeout") == 1

    check(body)


def test_first_token_cancels_its_timer(check: Callable[[Check], None]) -> None:
    async def body(make: Callable[..., Fixture]) -> None:
        one = make(TimeLimits(60, 0.05))
        one.run.start(one)
        one.put("Hello")
        await asyncio.sleep(0.1)
        assert one.ends == []
        one.run.close()

    check(body)


@pytest.mark.parametrize(
    ("code", "kind"), [(QUEUE_FULL, Overloaded), ("bad_grammar", InvalidRequest), (None, ApiError)]
)
def test_engine_errors(check: Callable[[Check], None], code: str | None, kind: type[Exception]) -> None:
    async def body(make: Callable[..., Fixture]) -> None:
        one = make()
        one.run.start(one)
        one.put("", "error", error="no", error_code=code)
        assert [type(error) for error in one.ends] == [kind]
        one.run.close()
        assert one.cancelled("error") == 1

    check(body)


@pytest.mark.parametrize("accepting", [False, True])
def test_an_engine_that_has_begun_ends_the_wait_in_the_queue(
    check: Callable[[Check], None], accepting: bool
) -> None:
    """Its first output may bring no token yet: that is no text, and no time to first token."""

    async def body(make: Callable[..., Fixture]) -> None:
        one = make(TimeLimits(queue_timeout_s=0.05))
        if not accepting:
            one.run.start(one)
        one.put("", queued_ms=3.0)
        if accepting:
            await one.run.accepted()
            one.run.start(one)
        assert one.admission.waiting == 0
        assert one.run.accounting.timings() is None
        await asyncio.sleep(0.1)
        assert (one.texts, one.ends) == ([], [])
        one.put("Hello", "stop", prompt_logprobs=[None])
        assert (one.texts, one.ends) == (["Hello"], [None])
        assert one.run.choices[0].prompt_logprobs == [None]
        timings = one.run.accounting.timings()
        assert timings is not None
        assert timings.queue == pytest.approx(0.003)
        one.run.close()

    check(body)


def test_interrupt_before_there_is_a_consumer(check: Callable[[Check], None]) -> None:
    async def body(make: Callable[..., Fixture]) -> None:
        one = make()
        one.run.interrupt(ShuttingDown())
        with pytest.raises(ShuttingDown):
            await one.run.accepted()
        one.run.start(one)
        assert [type(error) for error in one.ends] == [ShuttingDown]
        one.run.close()
        assert one.cancelled("shutdown") == 1

    check(body)
