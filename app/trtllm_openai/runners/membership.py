"""One front machine's membership in a pool that several share: it follows the leader, or leads.

The leader has a `RunnerPool`, which starts runners and keeps them running; it takes over those that it finds.
A front machine that does not hear from the registry for `FENCE_S` no longer leads, before another one may.
That does not touch the runners nor the sequences on them: each front machine has its own connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Protocol

import msgspec

from trtllm_openai.engine_host.messages import LaunchSpec
from trtllm_openai.runners.launcher import Launcher, RunnerHandle, SharedLauncher
from trtllm_openai.runners.pool import RunnerPool
from trtllm_openai.runners.process import EXIT_TIMEOUT_S, Running
from trtllm_openai.runners.registry import LEASE_S, SYNC_S, Beat, Order, View
from trtllm_openai.runners.state import RunnerReport, RunnerState, RunnerUnresponsive

log = logging.getLogger(__name__)

FENCE_S = 0.7 * LEASE_S
JOIN_TIMEOUT_S = 20.0
"""Seconds in which the registry must have answered once; then this front machine cannot start."""

MakePool = Callable[[Callable[[], None], Launcher, Mapping[int, Running], int], RunnerPool]
"""Makes the leader's pool: with `on_change`, its launcher, the runners to take over, and how many were wanted
(0: nobody has led yet)."""


class RegistryClient(Protocol):
    """A way to the registry. Every method raises `OSError` if it cannot be reached."""

    async def sync(self, beat: Beat) -> View: ...

    async def leads(self, front: str, term: int) -> bool: ...

    async def leave(self, front: str) -> int: ...

    async def remove(self) -> None:
        """End the registry: nobody is left."""


class Membership:
    """Implements `runners.attached.SupervisorClient`. Must be `open`ed and `leave`d."""

    def __init__(
        self,
        front: str,
        registry: RegistryClient,
        launcher: SharedLauncher,
        make_pool: MakePool,
        settings: dict[str, str],
    ) -> None:
        """`front`: a name that no other has. `settings`: see `Beat`."""
        self.front = front
        self.refused = ""
        """Why this front machine may not take part, or cannot."""
        self._registry = registry
        self._launcher = launcher
        self._make_pool = make_pool
        self._settings = settings
        self._known = View(leader="", term=0, revision=0)  # with the latest report
        self._behind = False  # the registry: it was made again
        self._report = RunnerReport([], 0, 0)
        self._fronts: set[str] = set()
        self._leading: RunnerPool | None = None
        self._term = 0  # under which it leads
        self._published = b""
        self._orders: list[Order] = []
        self._heard_at = time.monotonic()
        self._warned = False
        self._news = asyncio.Event()
        self._on_report: Callable[[RunnerReport], None] = lambda report: None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def report(self) -> RunnerReport:
        """The runners as the leader has them; before anything was heard, none."""
        return self._leading.report_now() if self._leading is not None else self._report

    def open(self, on_report: Callable[[RunnerReport], None]) -> None:
        """Begin; `on_report` is called with every new report, and when this front machine is refused."""
        self._on_report = on_report
        self._keeper = asyncio.create_task(self._keep())

    async def leave(self) -> None:
        """Leave for good. The last one ends the runners."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        others = 1  # if nobody answers: runners end by themselves
        with contextlib.suppress(OSError):
            others = await self._registry.leave(self.front)
        leading, self._leading = self._leading, None
        if leading is not None and others:
            await leading.release()
        elif leading is not None:
            await leading.stop()
        elif not others and not self.refused:
            await asyncio.gather(*map(self._end, self._report.runners))
        if not others:
            with contextlib.suppress(OSError):
                await self._registry.remove()
        self._launcher.close()

    def tell(self, message: RunnerUnresponsive) -> None:
        self.report_silence(self.front, message.address, message.reason, message.seconds)

    async def runners(self) -> RunnerReport:
        return self.report

    async def restart(self, index: int, drain_timeout_s: float) -> bool:
        if index not in {state.index for state in self.report.runners}:
            return False
        self._ask(Order(observer=self.front, index=index, seconds=drain_timeout_s))
        return True

    def report_silence(self, observer: str, address: str, reason: str, seconds: float) -> None:
        """See `RunnerPool.report_silence`."""
        self._ask(Order(observer=observer, address=address, reason=reason, seconds=seconds))

    def forget_observer(self, observer: str) -> None:
        """See `RunnerPool.forget_observer`."""
        self._ask(Order(observer=observer))

    def _ask(self, order: Order) -> None:
        self._orders.append(order)
        self._news.set()

    async def _keep(self) -> None:
        while not self.refused:
            await self._beat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SYNC_S):
                    await self._news.wait()
            self._news.clear()

    async def _beat(self) -> None:
        orders, self._orders = self._orders, []
        report = None
        if self._leading is not None:
            report = msgspec.msgpack.encode(self._leading.report_now())
            report = report if report != self._published or self._behind else None
        elif self._behind:
            report = self._known.report
        beat = Beat(
            front=self.front,
            settings=self._settings,
            term=self._term if self._leading is not None else self._known.term,
            revision=self._known.revision,
            leads=self._leading is not None,
            report=report,
            orders=orders,
        )
        try:
            view = await self._registry.sync(beat)
        except OSError as error:
            self._orders = [*orders, *self._orders]
            await self._unheard(error)
            return
        self._heard_at, self._warned = time.monotonic(), False
        if view.differs:
            await self._refuse(f"its front machines have other settings: {', '.join(view.differs)}")
            return
        if report is not None and self._leading is not None:
            self._published = report
        await self._follow(view)

    async def _follow(self, view: View) -> None:
        """Take what the registry said: the report, who leads, and what it is asked for."""
        if view.report is not None and (view.term, view.revision) >= (self._known.term, self._known.revision):
            self._known = view
            if self._leading is None:
                self._report = msgspec.msgpack.decode(view.report, type=RunnerReport)
                self._on_report(self._report)
        self._behind = (view.term, view.revision) < (self._known.term, self._known.revision)
        leads = view.leader == self.front
        if self._leading is not None and (not leads or view.term != self._term):
            await self._step_down(f"{view.leader or 'nobody'} leads it now")
        if leads and self._leading is None:
            await self._lead(view.term)
        if self._leading is not None:
            for gone in self._fronts - set(view.fronts):
                self._leading.forget_observer(gone)
            for order in view.orders:
                await self._obey(self._leading, order)
        self._fronts = set(view.fronts)

    async def _lead(self, term: int) -> None:
        """Take over what runs, and start what is missing."""
        log.info("this front machine leads the pool from now on")
        there = {state.index: state.endpoint for state in self._report.runners if state.endpoint is not None}
        with contextlib.suppress(OSError):
            await self._launcher.sweep(there.values())
        running: dict[int, Running] = {
            index: (partial(self._launcher.find, endpoint), endpoint) for index, endpoint in there.items()
        }
        launcher = Fenced(self._launcher, lambda: self._registry.leads(self.front, term))
        self._term, self._published = term, b""
        self._leading = self._make_pool(self._led, launcher, running, self._report.wanted)
        self._leading.start()
        self._led()

    def _led(self) -> None:
        """A runner is in another phase."""
        if self._leading is not None:
            self._report = self._leading.report_now()
            self._on_report(self._report)
            self._news.set()

    async def _step_down(self, reason: str) -> None:
        leading, self._leading = self._leading, None
        if leading is not None:
            log.warning("this front machine no longer leads the pool: %s", reason)
            await leading.release()

    async def _unheard(self, error: OSError) -> None:
        silent = time.monotonic() - self._heard_at
        if not self._warned:
            log.warning("the registry of the pool does not answer: %s", error)
            self._warned = True
        if silent > FENCE_S:
            await self._step_down(f"its registry has not answered for {silent:.0f} s")
        if silent > JOIN_TIMEOUT_S and not self._known.term:
            await self._refuse(f"its registry cannot be reached: {error}")

    async def _refuse(self, reason: str) -> None:
        await self._step_down(reason)
        self.refused = reason
        self._on_report(self._report)

    async def _obey(self, pool: RunnerPool, order: Order) -> None:
        if order.index is not None:
            with contextlib.suppress(LookupError):  # it is gone since
                await pool.restart(order.index, order.seconds)
        elif order.address:
            pool.report_silence(order.observer, order.address, order.reason, order.seconds)
        else:
            pool.forget_observer(order.observer)

    async def _end(self, state: RunnerState) -> None:
        """End a runner that nobody keeps running any more."""
        if state.endpoint is None:
            return
        with contextlib.suppress(OSError):
            handle = await self._launcher.find(state.endpoint)
            handle.kill()
            await handle.cleared(EXIT_TIMEOUT_S)


class Fenced:
    """The leader's launcher: starts nothing once another front machine leads. Implements `Launcher`."""

    def __init__(self, launcher: SharedLauncher, leads: Callable[[], Awaitable[bool]]) -> None:
        self.encrypted = launcher.encrypted
        self._launcher = launcher
        self._leads = leads

    async def start(self, spec: LaunchSpec) -> RunnerHandle:
        if not await self._leads():
            raise OSError("another front machine leads the pool")
        return await self._launcher.start(spec)

    def close(self) -> None:
        """The membership closes it, which may lead again."""
