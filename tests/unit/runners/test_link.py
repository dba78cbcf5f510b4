"""The link to a runner on another machine, through a proxy that reads it, cuts it and lets it heal.

Both ends are the real ones, with a real runner process.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from tests.unit.runners.test_pool import arrival, drain, run, spec, until
from tests.unit.runners.test_ray_host import ActorHandle, ActorLauncher
from trtllm_openai.engine_host.messages import LaunchSpec, Submit, decode_to_runner
from trtllm_openai.generation import GenerationRequest, SamplingParams
from trtllm_openai.processes.address import TcpAddress, parse_address
from trtllm_openai.processes.authentication import new_secret
from trtllm_openai.processes.framing import LENGTH
from trtllm_openai.processes.tls import new_identity
from trtllm_openai.runners import RunnerPool
from trtllm_openai.runners.connection import ConnectionEvents, RunnerConnection
from trtllm_openai.runners.state import Endpoint, Phase

PROMPT = [77, 78, 79, 80] * 8
"""Its encoding is 32 bytes in a row that occur nowhere else."""


class Proxy:
    """A port that stands for a runner's: records all bytes, and passes none on while it is `cut`."""

    def __init__(self) -> None:
        self.upstream = TcpAddress("127.0.0.1", 0)
        self.recorded = bytearray()
        self.joined = asyncio.Event()
        self.joined.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, upstream: TcpAddress) -> str:
        self.upstream = upstream
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return str(TcpAddress("127.0.0.1", self._server.sockets[0].getsockname()[1]))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other = await asyncio.open_connection(self.upstream.host, self.upstream.port)
        except OSError:  # the runner does not listen yet
            writer.close()
            return
        for source, sink in ((reader, other[1]), (other[0], writer)):
            task = asyncio.create_task(self._pass_on(source, sink))
            self._tasks.add(task)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                while piece := await source.read(65536):
                    await self.joined.wait()
                    self.recorded += piece
                    sink.write(piece)
                    await sink.drain()
        finally:
            sink.close()


class ProxiedLauncher(ActorLauncher):
    """Starts runners behind a proxy."""

    def __init__(self, proxy: Proxy, *, encrypted: bool) -> None:
        self.encrypted = encrypted
        self.hosts: list[ActorHandle] = []
        self._proxy = proxy

    async def start(self, spec: LaunchSpec) -> ActorHandle:
        handle = await super().start(spec)
        self.hosts.append(handle)
        where = parse_address(handle.address)
        assert isinstance(where, TcpAddress)
        handle.address = await self._proxy.listen(where)
        return handle


@asynccontextmanager
async def linked(
    *, encrypted: bool = True, stall_timeout: float = 30.0
) -> AsyncIterator[tuple[RunnerPool, Proxy, ProxiedLauncher]]:
    proxy = Proxy()
    launcher = ProxiedLauncher(proxy, encrypted=encrypted)
    pool = RunnerPool(
        [spec(itl=0.01)],
        load_timeout=30.0,
        stall_timeout=stall_timeout,
        retry_interval=60.0,
        on_change=lambda: None,
        launcher=launcher,
    )
    pool.start()
    try:
        await until(lambda: pool.status().ready == 1)
        yield pool, proxy, launcher
    finally:
        await pool.stop()
        await proxy.close()


def asked(pool: RunnerPool, tokens: int) -> GenerationRequest:
    return GenerationRequest(pool.new_request_id(), PROMPT, SamplingParams(tokens))


def test_a_capture_shows_neither_prompt_nor_answer() -> None:
    """Without TLS it shows both, so that this test would notice them."""

    async def capture(encrypted: bool) -> tuple[bool, bool, int]:
        async with linked(encrypted=encrypted) as (pool, proxy, _):
            request = asked(pool, 20)
            outputs = await drain(pool.submit([request]))
            tokens = [token for output in outputs for token in output.token_ids]
            assert len(tokens) == 20
            recorded = bytes(proxy.recorded)
            named = request.request_id.encode() in recorded and b"outputs" in recorded
            return msgspec.msgpack.encode(PROMPT) in recorded, named, len(recorded)

    async def test() -> None:
        assert (await capture(encrypted=False))[:2] == (True, True)
        prompt, answer, size = await capture(encrypted=True)
        assert (prompt, answer) == (False, False)
        assert size > 1000

    run(test())


def test_who_has_not_the_key_is_refused() -> None:
    async def test() -> None:
        async with linked() as (pool, _, launcher):
            endpoint = pool.runners[0].endpoint
            assert endpoint is not None
            where = str(launcher.hosts[0].address)
            heard: list[object] = []
            events = ConnectionEvents(
                lambda _, message: heard.append(message), heard.append, lambda *_: False
            )
            strangers = [
                RunnerConnection(wrong, events)
                for wrong in (
                    Endpoint(where, new_secret(), endpoint.identity),
                    Endpoint(where, endpoint.secret, new_identity()),
                    Endpoint(where, endpoint.secret, ""),  # in plain text
                    Endpoint(where, "", ""),
                )
            ]
            for stranger in strangers:
                stranger.open()
            await asyncio.sleep(1.5)  # longer than until a second attempt
            assert not any(isinstance(one, msgspec.Struct) for one in heard)  # that is, no message
            for stranger in strangers:
                stranger.close("the test ends", lost=False)
            assert await drain(pool.submit([asked(pool, 5)]))

    run(test())


def test_a_short_partition_delays_and_loses_nothing() -> None:
    async def test() -> None:
        async with linked(stall_timeout=8.0) as (pool, proxy, _):
            generations = [pool.submit([asked(pool, 300)]) for _ in range(3)]
            for generation in generations:
                await arrival(generation)
            proxy.joined.clear()
            await until(lambda: pool.runners[0].phase is Phase.UNRESPONSIVE)  # after 2 s
            proxy.joined.set()
            for generation in generations:
                outputs = await drain(generation)
                assert outputs[-1].finish_reason == "length"
            await until(lambda: pool.runners[0].phase is Phase.READY)
            assert pool.restarts == 0

    run(test())


def test_a_long_partition_replaces_the_runner() -> None:
    async def test() -> None:
        async with linked(stall_timeout=1.0) as (pool, proxy, launcher):
            generation = pool.submit([asked(pool, 3000)])
            await arrival(generation)
            proxy.joined.clear()
            outputs = await drain(generation)
            assert outputs[-1].finish_reason == "error"
            proxy.joined.set()
            await until(lambda: pool.status().ready == 1 and len(launcher.hosts) == 2)
            assert (await drain(pool.submit([asked(pool, 5)])))[-1].finish_reason == "length"
            assert await launcher.hosts[0].host.wait() == -9

    run(test())


def test_the_record_is_of_the_messages() -> None:
    """What the capture looks for is what `Submit` looks like."""
    body = msgspec.msgpack.encode(Submit([GenerationRequest("r", PROMPT, SamplingParams(1))]))
    assert msgspec.msgpack.encode(PROMPT) in LENGTH.pack(len(body)) + body
    assert isinstance(decode_to_runner(body), Submit)
