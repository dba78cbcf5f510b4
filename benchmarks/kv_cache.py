"""Measures what a KV cache in fp8 costs in quality, on the demo model.

    python benchmarks/kv_cache.py [--model DIR] [--device cpu] [--dtype bfloat16] [--tokens N] [--answers N]

Engines with `torch.kv_cache_dtype: auto` and `fp8` compute the same: the log-probabilities of pages of this
documentation (perplexity, and how much a token's log-probability changes), and greedy answers of 64 tokens
that continue pieces of them (how many are equal throughout, and after how many tokens the others part).
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "app"), str(ROOT)]

from trtllm_openai import checkpoints  # noqa: E402 - needs the path above
from trtllm_openai.config import Settings, TorchSettings  # noqa: E402
from trtllm_openai.engines.torch.loader import load  # noqa: E402
from trtllm_openai.generation import GenerationRequest, SamplingParams, StepOutput  # noqa: E402
from trtllm_openai.text.tokenizer import Tokenizer  # noqa: E402

PAGES = ("docs/architecture.md", "docs/security.md", "LICENSE")
ANSWER, PIECE = 64, 96


@dataclass(frozen=True, slots=True)
class Found:
    """Of one engine: log-probabilities of each page's tokens after the first, and the answers."""

    scores: dict[str, list[float]]
    answers: list[list[int]]


def measure(model: Path, settings: TorchSettings, pages: dict[str, list[int]], answers: int) -> Found:
    """Compute everything with a new engine."""
    engine = load(model, settings, lambda *_: None)
    scored = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    greedy = SamplingParams(max_tokens=ANSWER, temperature=0, ignore_eos=True)
    text = [token for ids in pages.values() for token in ids]
    starts = range(0, len(text) - PIECE, max(1, (len(text) - PIECE) // answers))[:answers]
    outputs: dict[str, StepOutput] = {}
    for name, ids in pages.items():
        engine.submit(GenerationRequest(name, ids, scored))
    for number, start in enumerate(starts):
        engine.submit(GenerationRequest(f"answer {number}", text[start : start + PIECE], greedy))
    left = len(pages) + len(starts)
    while left:
        for output in engine.step(1.0):
            whole = outputs.setdefault(output.request_id, output)
            if whole is not output:
                whole.token_ids += output.token_ids
                whole.prompt_logprobs = output.prompt_logprobs or whole.prompt_logprobs
            left -= output.finish_reason is not None
    engine.shutdown(1)
    scores = {
        name: [score.logprob for score in outputs[name].prompt_logprobs or () if score is not None]
        for name in pages
    }
    return Found(scores, [outputs[f"answer {number}"].token_ids for number in range(len(starts))])


def equal_tokens(one: list[int], other: list[int]) -> int:
    """How many first tokens are equal."""
    return next((at for at, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]), len(one))


def perplexity(scores: list[float]) -> float:
    return math.exp(-sum(scores) / len(scores))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, help="a checkpoint's directory instead of the demo")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--tokens", type=int, default=2000, help="of each page")
    parser.add_argument("--answers", type=int, default=32)
    args = parser.parse_args()
    model = args.model or checkpoints.resolve("demo", Settings().cache_path, lambda *_: None)
    tokenizer = Tokenizer.load(model)
    pages = {}
    for name in PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        pages[name] = tokenizer.encode(text, add_special_tokens=False)[: args.tokens]
    common = {"device": args.device, "dtype": args.dtype, "enable_prefix_caching": False}
    wide, narrow = (
        measure(model, TorchSettings(**common, kv_cache_dtype=kind), pages, args.answers)
        for kind in ("auto", "fp8")
    )
    print("| page | tokens | perplexity | fp8 | mean change of a log-probability | largest |")
    print("|---|---|---|---|---|---|")
    for name, scores in wide.scores.items():
        changes = [abs(a - b) for a, b in zip(scores, narrow.scores[name], strict=True)]
        cells = [name, len(scores), f"{perplexity(scores):.2f}", f"{perplexity(narrow.scores[name]):.2f}"]
        cells += [f"{sum(changes) / len(changes):.3f}", f"{max(changes):.2f}"]
        print(f"| {' | '.join(map(str, cells))} |")
    equal = [equal_tokens(*pair) for pair in zip(wide.answers, narrow.answers, strict=True)]
    parted = sorted(count for count in equal if count < ANSWER)
    print(
        f"\n{len(equal) - len(parted)} of {len(equal)} greedy answers of {ANSWER} tokens are equal throughout"
    )
    if parted:
        print(
            f"the others part after {parted[len(parted) // 2]} tokens (median), the first after {parted[0]}"
        )


if __name__ == "__main__":
    main()
