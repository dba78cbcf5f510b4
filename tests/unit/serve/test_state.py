"""Start-up and shutdown of the served model."""

import asyncio

from trtllm_openai.api.context import Readiness, ServerContext
from trtllm_openai.config import Settings
from trtllm_openai.serve.state import InferenceService


def test_a_model_that_is_not_there_fails_with_its_reason() -> None:
    async def main() -> None:
        seen: list[Readiness] = []

        def changed(context: ServerContext) -> None:
            seen.append(context.readiness)

        service = InferenceService(Settings(engine="synthetic", model="/absent"), changed)
        assert not service.context.readiness.failed
        service.start()
        while not seen:
            await asyncio.sleep(0.01)
        assert seen[-1].failed
        assert "/absent" in seen[-1].reason
        await service.stop()

    asyncio.run(main())


def test_drain_and_interrupt() -> None:
    class Run:
        live = begun = 1
        adapter = None
        errors = 0

        def interrupt(self, error: Exception) -> None:
            self.errors += 1

    service = InferenceService(Settings(engine="synthetic"))
    run = Run()
    service.context.runs.add(run)
    service.drain()
    assert (service.context.readiness.reason, run.errors) == ("draining", 0)
    service.interrupt()
    assert run.errors == 1
