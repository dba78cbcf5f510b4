"""Speculative decoding without a draft model, on texts that repeat and on plain chat.

One torch engine in this process, without a server, with drafts and without in turns, so that noise affects
both. For each text and number of streams: the share of draft tokens that were accepted, tokens per step of a
sequence, tokens per second and milliseconds per output token with drafts and without. Each stream asks for
one answer after the other, of different lengths, and tokens per second count while all streams are busy: with
drafts some end much earlier than others. Greedy; on a CPU the answers are compared token for token. Earlier
answers are not drafted from, as every round asks the same.

`--steps` measures instead what a step costs by its number of sequences and draft tokens, which are random and
all rejected, and which share of them would have to be accepted for drafts to pay.

    python benchmarks/speculation.py [--device cpu] [--streams 1 4 16] [--mode auto] [--rounds 3]
    python benchmarks/speculation.py --device cuda --model DIR --load-format dummy --steps
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from trtllm_openai import checkpoints
from trtllm_openai.config import Settings, TorchSettings
from trtllm_openai.engines.torch.engine import TorchEngine
from trtllm_openai.engines.torch.loader import load
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.engines.torch.speculation.drafter import Drafter, make_drafter
from trtllm_openai.engines.torch.speculation.policy import StepCost
from trtllm_openai.generation import GenerationRequest, Guide, SamplingParams
from trtllm_openai.text.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
CODE = [
    "engines/torch/rope.py",
    "engines/torch/memory.py",
    "api/flow.py",
    "api/ids.py",
    "text/events.py",
    "runners/generation.py",
    "engines/torch/kv_cache.py",
    "telemetry/values.py",
]
PASSAGES = [
    "The lighthouse at Cape Verran was built in 1871 by Anna Holm. It is 38 metres high and its light can be "
    "seen from 27 kilometres. In 1934 a storm destroyed the keeper's house, which was never rebuilt.",
    "The Orrin railway opened in 1902 and ran from Tannick to the copper mines of Hale. It was 64 kilometres "
    "long, had nine stations and carried 210,000 passengers in its best year, 1926. It closed in 1959.",
    "Marta Oliveira, born in Porto in 1948, painted harbours and fishing boats. Her picture 'Five Sails' "
    "has hung in the city museum since 1990. She taught at the academy from 1975 to 2003.",
]
PERSON = """{"type": "object", "properties": {"name": {"type": "string"}, "city": {"type": "string"},
"email": {"type": "string"}, "role": {"type": "string"}},
"required": ["name", "city", "email", "role"], "additionalProperties": false}"""
PEOPLE = [
    ("Johanna Lindqvist", "Gothenburg", "johanna.lindqvist@example.org", "structural engineer"),
    ("Tomasz Wieczorek", "Wroclaw", "t.wieczorek@example.com", "head of procurement"),
    ("Priyanka Raghunathan", "Coimbatore", "priyanka.r@example.net", "research librarian"),
]
TRANSCRIPT = """$ ls src
main.py  parser.py  report.py  settings.py
$ python -m pytest -q
FAILED tests/test_parser.py::test_empty_line - IndexError: list index out of range
1 failed, 14 passed in 0.41s
$ sed -n 1,12p src/parser.py
def parse_line(line):
    parts = line.split(",")
    name = parts[0].strip()
    value = parts[1].strip()
    return name, value
$ python -m pytest -q tests/test_parser.py
FAILED tests/test_parser.py::test_empty_line - IndexError: list index out of range
1 failed, 3 passed in 0.12s
"""
QUESTIONS = [
    "What are three ways to save water at home?",
    "Explain in a few sentences why the sky is blue.",
    "Write a short story about a fox who learns to swim.",
    "How do I make a simple tomato soup?",
]


@dataclass(frozen=True, slots=True)
class Text:
    """A chat: what is asked, how the answer begins, and the guide that it follows."""

    question: str
    beginning: str = ""
    guide: Guide | None = None


def rewriting() -> list[Text]:
    found = []
    for name in CODE:
        lines = (ROOT / "app" / "trtllm_openai" / name).read_text().splitlines()[:60]
        source = "\n".join(lines)
        question = f"Rename `self` to `this` and give the whole file again.\n```python\n{source}\n```"
        found.append(Text(question, "```python\n" + "\n".join(lines[:4]) + "\n"))
    return found


def quoting() -> list[Text]:
    text = "\n\n".join(PASSAGES)
    topics = ("the lighthouse", "the railway", "the painter", "the storm", "the museum", "the copper mines")
    return [
        Text(f"{text}\n\nQuote every sentence of the text above about {topic}.", 'The text says: "')
        for topic in topics
    ]


def extracting() -> list[Text]:
    lines = " ".join(
        f"{name} joined our office in {city} as {role} and can be reached at {email}."
        for name, city, email, role in PEOPLE
    )
    schema = f'{{"type": "array", "items": {PERSON}, "minItems": 3, "maxItems": 3}}'
    asked = "Give the people in this text as JSON with name, city, email and role"
    return [
        Text(f"{lines}\n\n{asked}, {order} first.", "", Guide("json_schema", schema))
        for order in ("the engineer", "the librarian", "the youngest", "in order, the first")
    ]


def transcript() -> list[Text]:
    tasks = ("Fix the failing test.", "Find the cause.", "Run the tests again.", "Show the parser again.")
    return [Text(f"This is my terminal:\n{TRANSCRIPT}\n{task}", "$ ") for task in tasks]


def chat() -> list[Text]:
    return [Text(question) for question in QUESTIONS]


TEXTS: dict[str, Callable[[], list[Text]]] = {
    "rewriting a file": rewriting,
    "quoting a text": quoting,
    "JSON extraction": extracting,
    "agent transcript": transcript,
    "plain chat": chat,
}


ANSWERS = 3
"""Answers that a stream asks for, on average."""


@dataclass(frozen=True, slots=True)
class Result:
    """Of one run: its answers, how many steps a sequence took for them in all, tokens per second while all
    streams were busy, and milliseconds per output token after the first, mean over the answers."""

    answers: dict[str, list[int]]
    steps: int
    tokens_per_s: float
    tpot_ms: float

    @property
    def tokens(self) -> int:
        return sum(map(len, self.answers.values()))


def make_requests(
    tokenizer: Tokenizer, texts: list[Text], count: int, tokens: int
) -> list[GenerationRequest]:
    requests = []
    for index in range(count):
        text = texts[index % len(texts)]
        prompt = f"<|im_start|>user\n{text.question}<|im_end|>\n<|im_start|>assistant\n{text.beginning}"
        ids = tokenizer.encode(prompt, add_special_tokens=False)
        length = tokens // 2 + index * 37 % tokens  # so that streams do not end together
        sampling = SamplingParams(max_tokens=length, temperature=0, ignore_eos=text.guide is None, seed=index)
        requests.append(GenerationRequest(str(index), ids, sampling, guide=text.guide))
    return requests


def use(engine: TorchEngine, drafter: Drafter | None) -> None:
    """Draft with `drafter` from now on. Engines have no public switch, since a server needs none."""
    engine._drafter = engine._scheduler._drafter = drafter


def measure(engine: TorchEngine, requests: list[GenerationRequest], streams: int) -> Result:
    answers: dict[str, list[int]] = {one.request_id: [] for one in requests}
    first: dict[str, float] = {}
    per_token: list[float] = []
    steps = tokens = busy_tokens = 0
    began, busy_s = time.perf_counter(), 0.0
    waiting = iter(requests)
    for one in islice(waiting, streams):
        engine.submit(one)
    left = len(requests)
    while left:
        outputs = engine.step(0.01)
        now = time.perf_counter()
        tokens += sum(len(output.token_ids) for output in outputs)
        for output in outputs:
            name = output.request_id
            answers[name] += output.token_ids
            steps += bool(output.token_ids)
            if output.token_ids:
                first.setdefault(name, now)
            if output.finish_reason is None:
                continue
            left -= 1
            if len(answers[name]) > 1:
                per_token.append((now - first[name]) * 1000 / (len(answers[name]) - 1))
            if (following := next(waiting, None)) is not None:
                engine.submit(following)
            elif not busy_s:
                busy_s, busy_tokens = now - began, tokens
    return Result(answers, steps, busy_tokens / busy_s, statistics.mean(per_token))


def compare(
    engine: TorchEngine,
    make: Callable[[], Drafter],
    requests: list[GenerationRequest],
    streams: int,
    rounds: int,
    *,
    exact: bool,
) -> str:
    """A row of the table: the median of the rounds."""
    off: list[Result] = []
    on: list[Result] = []
    drafter = make()
    use(engine, None)
    measure(engine, requests, streams)  # warm-up: kernels, prefix cache
    for number in range(rounds):
        drafter = make()
        for drafting in (False, True) if number % 2 else (True, False):
            use(engine, drafter if drafting else None)
            (on if drafting else off).append(measure(engine, requests, streams))
        if exact:
            assert on[-1].answers == off[-1].answers, "drafts changed an answer"
    same = sum(on[-1].answers[name] == answer for name, answer in off[-1].answers.items())
    speeds = [statistics.median(one.tokens_per_s for one in runs) for runs in (off, on)]
    times = [statistics.median(one.tpot_ms for one in runs) for runs in (off, on)]
    accepted = drafter.accepted.total()
    share = f"{accepted / drafter.drafted:.0%} of {drafter.drafted}" if drafter.drafted else "none"
    ratio = statistics.median(a.tpot_ms / b.tpot_ms for a, b in zip(off, on, strict=True))
    return (
        f"{share} | {on[-1].tokens / on[-1].steps:.2f} | {speeds[0]:.0f} | {speeds[1]:.0f} | "
        f"{times[0]:.1f} | {times[1]:.1f} | {ratio:.2f} | {same}/{len(requests)}"
    )


class Rejected(Drafter):
    """Drafts `length` random tokens for every sequence."""

    def __init__(self, length: int, vocab_size: int) -> None:
        super().__init__("suffix", max(1, length), StepCost((1, 1.0), (2, 1.0)))
        self._length, self._vocab, self._chance = length, vocab_size, random.Random(1)

    def propose(self, sequences: list[Sequence], most: int) -> dict[Sequence, list[int]]:
        if not self._length:
            return {}
        return {one: [self._chance.randrange(self._vocab) for _ in range(self._length)] for one in sequences}


def step_times(
    engine: TorchEngine, batches: list[int], lengths: list[int], prompt: int, steps: int
) -> Iterator[str]:
    """Rows of the table: milliseconds of a step, and the share of draft tokens that pays for it."""
    chance = random.Random(2)
    for batch in batches:
        base = 0.0
        for length in lengths:
            rows = batch * (1 + length)
            if rows > engine._scheduler._limits.sampled_rows:
                continue
            use(engine, Rejected(length, engine.info.vocab_size) if length else None)
            names = [f"{batch}-{length}-{index}" for index in range(batch)]
            for name in names:
                ids = [chance.randrange(3, engine.info.vocab_size) for _ in range(prompt)]
                sampling = SamplingParams(max_tokens=4 * steps + 200, temperature=0, ignore_eos=True)
                engine.submit(GenerationRequest(name, ids, sampling))
            begun: set[str] = set()
            while len(begun) < batch:
                begun |= {output.request_id for output in engine.step(0.01) if output.token_ids}
            times = []
            for _ in range(steps):
                began = time.perf_counter()
                engine.step(0.01)
                times.append(time.perf_counter() - began)
            for name in names:
                engine.abort(name)
            while engine.stats().running:
                engine.step(0.01)
            spent = statistics.median(times) * 1000
            base = base or spent
            even = f"{(spent / base - 1) / length:.0%}" if length else ""
            yield f"| {batch} | {length} | {rows} | {spent:.2f} | {spent / base:.2f} | {even} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--load-format", default="auto", choices=["auto", "dummy"])
    parser.add_argument("--mode", default="auto", choices=["auto", "suffix", "ngram"])
    parser.add_argument("--most", type=int, default=12, help="draft tokens, at most")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, default=160, help="output tokens of a request, on average")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", nargs="+", default=list(TEXTS), choices=list(TEXTS))
    parser.add_argument("--steps", action="store_true", help="measure the cost of steps instead")
    parser.add_argument("--lengths", type=int, nargs="+", default=[0, 1, 2, 3, 4, 6, 8, 12])
    parser.add_argument("--prompt", type=int, default=256, help="prompt tokens, with --steps")
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    directory = checkpoints.resolve(
        arguments.model,
        Settings().cache_path,
        lambda *_: None,
        weights=arguments.load_format != "dummy",
    )
    tokenizer = Tokenizer.load(directory)
    settings = TorchSettings(
        device=arguments.device,
        dtype=arguments.dtype,
        load_format=arguments.load_format,
        threads=arguments.threads,
        speculation=arguments.mode,
        speculation_max_draft=arguments.most,
        speculation_history_tokens=0,
        max_batch_size=max(arguments.streams),
        kv_cache_tokens=max(arguments.streams) * 2048,
    )
    engine = load(directory, settings, lambda *_: None, tokenizer.vocabulary)
    try:
        print(f"{directory.name}, {arguments.dtype}, {engine.info.device}, {arguments.mode}")
        if arguments.steps:
            print("\n| sequences | draft tokens | rows | ms | ratio | accepted share that pays |")
            print("|---" * 6 + "|")
            for row in step_times(engine, arguments.streams, arguments.lengths, arguments.prompt, 24):
                print(row, flush=True)
            return
        print(
            "\n| text | streams | accepted | tokens per step | tok/s off | on | TPOT ms off | on | "
            "speed-up | equal answers |"
        )
        print("|---" * 10 + "|")
        for name in arguments.texts:
            for streams in arguments.streams:
                count = ANSWERS * streams
                requests = make_requests(tokenizer, TEXTS[name](), count, arguments.tokens)
                row = compare(
                    engine,
                    lambda: make_drafter(settings, overlaps=arguments.device == "cuda"),
                    requests,
                    streams,
                    arguments.rounds,
                    exact=arguments.device == "cpu",
                )
                print(f"| {name} | {streams} | {row} |", flush=True)
    finally:
        engine.shutdown(1)


if __name__ == "__main__":
    main()
