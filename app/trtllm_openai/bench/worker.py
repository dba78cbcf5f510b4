"""One client process of a load test.

Protocol over the pipe to the coordinator, for each load: it sends "ready" after the warm-up, waits for "go",
sends the number of finished requests while it runs, and the records at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from multiprocessing.connection import Connection as Pipe

import msgspec
import uvloop

from trtllm_openai.bench.client import Client
from trtllm_openai.bench.plan import Load, Plan, Record, bodies

PROGRESS_INTERVAL_S = 0.2
encode = msgspec.msgpack.Encoder().encode
decode_records = msgspec.msgpack.Decoder(list[Record]).decode


def run(plan: bytes, index: int, processes: int, pipe: Pipe) -> None:
    """Main function of the process. `plan`: a `Plan` as msgpack."""
    decoded = msgspec.msgpack.decode(plan, type=Plan)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_Worker(decoded, index, processes, pipe).run())


class _Worker:
    def __init__(self, plan: Plan, index: int, processes: int, pipe: Pipe) -> None:
        self._plan = plan
        self._index = index
        self._processes = processes
        self._pipe = pipe
        self._client = Client(plan.target, plan.timeout)
        self._records: list[Record] = []

    async def run(self) -> None:
        for number, whole in enumerate(self._plan.loads):
            load = whole.share(self._index, self._processes)
            seed = self._plan.seed + 1000 * number + self._index
            warmup = Load(
                -(-self._plan.warmup // self._processes), load.concurrency or (1 if load.rate is None else 8)
            )
            if self._plan.warmup and load.requests:
                await self._closed(warmup, bodies(self._plan, -1 - seed))
            self._records = []
            self._pipe.send_bytes(b"ready")
            await asyncio.to_thread(self._pipe.recv_bytes)
            progress = asyncio.create_task(self._report_progress())
            source = bodies(self._plan, seed)
            if load.rate is None:
                await self._closed(load, source)
            else:
                await self._open(load, source, random.Random(seed))
            progress.cancel()
            self._pipe.send_bytes(encode(self._records))
        self._client.close()

    async def _closed(self, load: Load, source: Iterator[bytes]) -> None:
        """Closed loop: `concurrency` clients, each sending its next request when a response is complete."""
        left = load.requests

        async def one() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await self._send(next(source))

        await asyncio.gather(*(one() for _ in range(min(load.concurrency or 1, load.requests))))

    async def _open(self, load: Load, source: Iterator[bytes], chance: random.Random) -> None:
        """Open loop: requests arrive as a Poisson process, independent of responses."""
        assert load.rate is not None
        clock = asyncio.get_running_loop().time
        due = clock()
        async with asyncio.TaskGroup() as group:
            for _ in range(load.requests):
                due += chance.expovariate(load.rate)
                body = next(source)
                await asyncio.sleep(max(due - clock(), 0))
                group.create_task(self._send(body))

    async def _send(self, body: bytes) -> None:
        self._records.append(await self._client.generate(self._plan.endpoint, body))

    async def _report_progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL_S)
            self._pipe.send_bytes(b"%d" % len(self._records))
