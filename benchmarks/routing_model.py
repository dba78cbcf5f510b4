"""The model of `benchmarks/routing.py`: clients, policies, and runners on a simulated clock."""

from __future__ import annotations

import heapq
import itertools
import random
import statistics
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

from trtllm_openai.engine_host.messages import Held
from trtllm_openai.engines.torch.block_pool import BlockPool
from trtllm_openai.generation import GenerationRequest, SamplingParams
from trtllm_openai.runners.routing import Router

BLOCK = 64
STEP_TOKENS = 2048
MAX_BATCH = 64
KV_BLOCKS = 6000
WINDOW_S = 10.0
STALE_S = 0.1
"""Seconds between two reports of a runner to the processes that send to it."""


@dataclass(frozen=True)
class Costs:
    """Seconds of a step; about those of a model of 8 billion parameters on an H100."""

    step: float = 8e-3
    prefill_token: float = 50e-6
    row: float = 50e-6
    held_token: float = 50e-9


COSTS = Costs()


@dataclass
class Client:
    """One conversation: `turns` of (tokens that are added, tokens of the answer, seconds before the next)."""

    transcript: list[int]
    turns: deque[tuple[int, int, float]]
    session: str
    blocks: list[bytes] = field(default_factory=list)
    """Names of the transcript's full blocks."""

    def name_blocks(self) -> list[bytes]:
        """Names of all full blocks of the transcript, which only grows."""
        for begin in range(len(self.blocks) * BLOCK, len(self.transcript) - BLOCK + 1, BLOCK):
            before = self.blocks[-1] if self.blocks else b""
            name = hash((before, *self.transcript[begin : begin + BLOCK]))
            self.blocks.append(name.to_bytes(8, "big", signed=True))
        return self.blocks


class Tokens:
    """Random tokens, which are nobody else's."""

    def __init__(self, source: random.Random) -> None:
        self._source = source

    def __call__(self, count: int) -> list[int]:
        return self._source.choices(range(128_000), k=count)


def clients_of(kind: str, source: random.Random) -> Iterator[Client]:
    """Endless clients of a kind."""
    tokens = Tokens(source)
    names = (f"{kind}-{number}" for number in itertools.count())
    if kind == "zipf":
        documents = [tokens(source.randrange(1000, 6000)) for _ in range(1000)]
        weights = [1 / (rank + 1) ** 0.8 for rank in range(len(documents))]
        for session in names:
            (document,) = source.choices(documents, weights)
            yield Client(list(document), deque([(source.randrange(50, 400), 120, 0.0)]), session)
    elif kind == "chats":
        systems = [tokens(source.randrange(50, 500)) for _ in range(20)]
        for session in names:
            turns = deque(
                (source.randrange(40, 800), source.randrange(80, 400), source.expovariate(1 / 8))
                for _ in range(source.randrange(2, 12))
            )
            yield Client(list(source.choice(systems)), turns, session)
    else:
        tools = [tokens(source.randrange(2000, 9000)) for _ in range(40)]
        for session in names:
            turns = deque(
                (source.randrange(200, 2500), source.randrange(30, 150), source.expovariate(1 / 1.5))
                for _ in range(source.randrange(5, 20))
            )
            yield Client(list(source.choice(tools)), turns, session)


TURNS_OF = {"zipf": 1.0, "chats": 6.5, "agents": 12.0}
"""Mean turns of a client."""
RATE_OF = {"zipf": 5.0, "chats": 6.0, "agents": 1.8}
"""Requests a second and runner: so many that runners are busy, and none is overloaded, without a cache."""


class Policy(Protocol):
    """Chooses runners; is told what happens."""

    def send(self, request: GenerationRequest, session: str) -> int:
        """Choose a runner, to which the request is then sent."""

    def begun(self, index: int, request_id: str, cached: int) -> None: ...

    def ended(self, index: int, request_id: str) -> None: ...

    def report(self) -> None:
        """`STALE_S` have passed."""


class RoundRobin:
    """One after the other."""

    def __init__(self, runners: int, source: random.Random) -> None:
        self._order = itertools.cycle(range(runners))

    def send(self, request: GenerationRequest, session: str) -> int:
        return next(self._order)

    def begun(self, index: int, request_id: str, cached: int) -> None: ...

    def ended(self, index: int, request_id: str) -> None: ...

    def report(self) -> None: ...


class LeastLoaded(RoundRobin):
    """The runner with the fewest sequences."""

    def __init__(self, runners: int, source: random.Random) -> None:
        super().__init__(runners, source)
        self.loads = [0] * runners
        self.source = source

    def candidates(self) -> Sequence[int]:
        """Runners to choose from."""
        return range(len(self.loads))

    def send(self, request: GenerationRequest, session: str) -> int:
        index = min(self.candidates(), key=self.loads.__getitem__)
        self.loads[index] += 1
        return index

    def ended(self, index: int, request_id: str) -> None:
        self.loads[index] -= 1


class PowerOfTwo(LeastLoaded):
    """The one of two drawn at random that has fewer sequences."""

    def candidates(self) -> Sequence[int]:
        return self.source.choices(range(len(self.loads)), k=2)


class Affinity:
    """The server's router, in `processes` that each know what they sent, and of the rest what is reported."""

    hinted = False

    def __init__(
        self, runners: int, source: random.Random, processes: int = 1, affinity: bool = True
    ) -> None:
        self.routers = [
            Router(shared=processes > 1, affinity=affinity, source=random.Random(source.random()))
            for _ in range(processes)
        ]
        for router in self.routers:
            for index in range(runners):
                router.add_runner(index, KV_BLOCKS * BLOCK)
            router.set_ready(range(runners))
        self._loads = [[0] * runners for _ in range(processes)]
        self._sender: dict[str, int] = {}
        self._news: list[tuple[int, int, list[Held]]] = []
        self._source = source

    def send(self, request: GenerationRequest, session: str) -> int:
        sender = self._source.randrange(len(self.routers))
        router = self.routers[sender]
        route = router.choose(request, session if self.hinted else "")
        news = router.sent(route, [request])
        self._sender[request.request_id] = sender
        self._loads[sender][route.index] += 1
        if len(self.routers) > 1:
            self._news.append((sender, route.index, news))
        return route.index

    def begun(self, index: int, request_id: str, cached: int) -> None:
        self.routers[self._sender[request_id]].begun(request_id, cached)

    def ended(self, index: int, request_id: str) -> None:
        sender = self._sender.pop(request_id)
        self._loads[sender][index] -= 1
        self.routers[sender].ended(request_id)

    def report(self) -> None:
        if len(self.routers) == 1:
            return
        for sender, index, news in self._news:
            for number, router in enumerate(self.routers):
                if number != sender:
                    router.heard(index, news)
        self._news.clear()
        totals = [sum(column) for column in zip(*self._loads, strict=True)]
        for number, router in enumerate(self.routers):
            for index, total in enumerate(totals):
                router.elsewhere(index, total - self._loads[number][index])


class LeastWork(Affinity):
    """The router without affinity."""

    def __init__(self, runners: int, source: random.Random) -> None:
        super().__init__(runners, source, affinity=False)


class FourProcesses(Affinity):
    """The router in four HTTP processes."""

    def __init__(self, runners: int, source: random.Random) -> None:
        super().__init__(runners, source, processes=4)


class FourHinted(FourProcesses):
    """The same, with the sessions named by the clients."""

    hinted = True


POLICIES: dict[str, type[Policy]] = {
    "round robin": RoundRobin,
    "power of two": PowerOfTwo,
    "least loaded": LeastLoaded,
    "least work": LeastWork,
    "prefix affinity": Affinity,
    "the same, 4 processes": FourProcesses,
    "4 processes, sessions named": FourHinted,
}


@dataclass
class Job:
    """A request on a runner."""

    client: Client
    request: GenerationRequest
    answer: int
    arrived: float
    names: list[bytes]
    left: int = 0
    """Prompt tokens to compute."""
    blocks: list[int] = field(default_factory=list)


class SimulatedRunner:
    """A runner on the simulated clock."""

    def __init__(self) -> None:
        self.pool = BlockPool(KV_BLOCKS)
        self.waiting: deque[Job] = deque()
        self.prefill: deque[Job] = deque()
        self.decode: list[tuple[int, int, Job]] = []  # heap by the step that ends it
        self.held = 0
        self.step_number = 0
        self.busy = False
        self.numbers = itertools.count()

    def admit(self) -> list[tuple[Job, int]]:
        """Begin with jobs that wait, as far as there is room. Returns each with its cached tokens."""
        begun = []
        while self.waiting and len(self.prefill) + len(self.decode) < MAX_BATCH:
            job = self.waiting[0]
            tokens = len(job.request.prompt_token_ids)
            found = self.pool.find(job.names[: (tokens - 1) // BLOCK])
            needed = -(-(tokens + job.answer) // BLOCK) - len(found)
            if needed > self.pool.free - self.pool.idle(found):
                break
            self.waiting.popleft()
            self.pool.share(found)
            job.blocks = found + self.pool.take(needed)
            job.left = tokens - len(found) * BLOCK
            self.held += tokens
            self.prefill.append(job)
            begun.append((job, len(found) * BLOCK))
        return begun

    def plan(self) -> tuple[float, list[Job]]:
        """One step: its seconds, and the jobs whose prompt it completes."""
        budget, computed, done = STEP_TOKENS - len(self.decode), 0, []
        while self.prefill and budget > 0:
            job = self.prefill[0]
            part = min(job.left, budget)
            job.left -= part
            budget -= part
            computed += part
            if job.left:
                break
            done.append(self.prefill.popleft())
        rows = len(self.decode)
        seconds = COSTS.step + computed * COSTS.prefill_token + rows * COSTS.row
        return seconds + self.held * COSTS.held_token, done

    def end_of_step(self, done: list[Job]) -> list[Job]:
        """After a step. Returns the jobs that have ended."""
        self.step_number += 1
        for job in done:
            for block, name in zip(job.blocks, job.names, strict=False):
                self.pool.name(block, name)
            entry = (self.step_number + job.answer - 1, next(self.numbers), job)
            heapq.heappush(self.decode, entry)
        ended = []
        while self.decode and self.decode[0][0] <= self.step_number:
            _, _, job = heapq.heappop(self.decode)
            self.held -= len(job.request.prompt_token_ids)
            ended.append(job)
        return ended

    def release(self, job: Job) -> None:
        """A job has ended, and its answer is in the cache, too."""
        for block, name in zip(job.blocks, job.client.name_blocks(), strict=False):
            self.pool.name(block, name)
        self.pool.give_back(job.blocks)


@dataclass(frozen=True)
class Result:
    """What a policy did for a kind of clients."""

    kind: str
    runners: int
    policy: str
    requests: int
    hit_rate: float
    ttft_p50: float
    ttft_p99: float
    imbalance: float


def simulate(kind: str, runners: int, policy_name: str, seconds: float, seed: int = 7) -> Result:
    """Serve clients of a kind for so many simulated seconds, the first third of which does not count."""
    source, ours = random.Random(f"{seed} arrivals"), random.Random(f"{seed} tokens")
    policy = POLICIES[policy_name](runners, random.Random(seed))  # type: ignore[call-arg]
    clients = clients_of(kind, random.Random(f"{seed} clients"))
    tokens = Tokens(ours)
    machines = [SimulatedRunner() for _ in range(runners)]
    busy = [[0.0] * runners for _ in range(int(seconds / WINDOW_S) + 2)]
    ttft: list[float] = []
    cached_tokens = prompt_tokens = requests = 0
    order, ids = itertools.count(), itertools.count()
    events: list[tuple[float, int, str, object]] = []
    warm = seconds / 3

    def at(when: float, what: str, subject: object) -> None:
        heapq.heappush(events, (when, next(order), what, subject))

    def step(index: int, now: float) -> None:
        nonlocal cached_tokens, prompt_tokens
        machine = machines[index]
        for job, cached in machine.admit():
            cached_of[job.request.request_id] = cached
            if job.arrived >= warm:
                cached_tokens += cached
                prompt_tokens += len(job.request.prompt_token_ids)
        machine.busy = bool(machine.prefill or machine.decode)
        if machine.busy:
            duration, done = machine.plan()
            busy[int(now / WINDOW_S)][index] += duration - COSTS.step
            at(now + duration, "step", (index, done))

    cached_of: dict[str, int] = {}
    rate = RATE_OF[kind] * runners / TURNS_OF[kind]
    at(source.expovariate(rate), "client", None)
    at(STALE_S, "report", None)
    while events and events[0][0] < seconds:
        now, _, what, subject = heapq.heappop(events)
        if what == "client":
            at(now, "turn", next(clients))
            at(now + source.expovariate(rate), "client", None)
        elif what == "report":
            policy.report()
            at(now + STALE_S, "report", None)
        elif what == "turn":
            assert isinstance(subject, Client)
            added, answer, _ = subject.turns[0]
            subject.transcript += tokens(added)
            prompt = subject.transcript[:]
            request = GenerationRequest(str(next(ids)), prompt, SamplingParams(answer))
            index = policy.send(request, subject.session)
            requests += 1
            machines[index].waiting.append(Job(subject, request, answer, now, subject.name_blocks()[:]))
            if not machines[index].busy:
                step(index, now)
        else:
            index, done = cast("tuple[int, list[Job]]", subject)
            for job in done:
                policy.begun(index, job.request.request_id, cached_of.pop(job.request.request_id))
                if job.arrived >= warm:
                    ttft.append(now - job.arrived)
            for job in machines[index].end_of_step(done):
                policy.ended(index, job.request.request_id)
                _, answer, pause = job.client.turns.popleft()
                job.client.transcript += tokens(answer)
                machines[index].release(job)
                if job.client.turns:
                    at(now + pause, "turn", job.client)
            step(index, now)
    ratios = [
        max(window) / statistics.fmean(window)
        for window in busy[int(warm / WINDOW_S) + 1 : int(seconds / WINDOW_S)]
    ]
    ttft.sort()
    return Result(
        kind,
        runners,
        policy_name,
        requests,
        cached_tokens / prompt_tokens,
        ttft[len(ttft) // 2],
        ttft[int(len(ttft) * 0.99)],
        statistics.fmean(ratios),
    )
