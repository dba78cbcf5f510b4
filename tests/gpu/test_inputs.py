"""A step's inputs on the device are those of its plan, on rank 0 and on a rank that adopts them."""

import pytest
import torch

from tests.gpu.test_kernels import DEVICE
from trtllm_openai.engines.torch.cuda.inputs import Inputs, Mixed
from trtllm_openai.engines.torch.scheduler import Chunk, Plan
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.generation import GenerationRequest, SamplingParams

BLOCK_SIZE, MOST, MAX_TOKENS, MAX_LENGTH, VOCAB = 16, 8, 256, 128, 500


def sequence(name: str, length: int, first_block: int) -> Sequence:
    one = Sequence(GenerationRequest(name, list(range(3, 3 + length)), SamplingParams(max_tokens=4)))
    one.blocks = list(range(first_block, first_block + -(-(length + 1) // BLOCK_SIZE)))
    return one


def mixed_plan(decoding: int, chunks: list[tuple[int, int]]) -> Plan:
    """`chunks`: start and length of each; every second one is the last of its prompt."""
    plan = Plan()
    for index in range(decoding):
        one = sequence(f"decode {index}", 9 + index, 20 * index)
        one.computed = len(one.tokens) - 1
        plan.decode.append(one)
    for index, (start, length) in enumerate(chunks):
        one = sequence(f"prefill {index}", start + length + index % 2, 200 + 20 * index)
        plan.prefill.append(Chunk(one, start, length))
    return plan


def check(mixed: Mixed, plan: Plan) -> None:
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    parts = [(one, one.computed, 1) for one in plan.decode]
    parts += [(chunk.sequence, chunk.start, chunk.length) for chunk in plan.prefill]
    for one, start, length in parts:
        tokens += one.tokens[start : start + length]
        positions += range(start, start + length)
        slots += [
            one.blocks[i // BLOCK_SIZE] * BLOCK_SIZE + i % BLOCK_SIZE for i in range(start, start + length)
        ]
    assert mixed.rows.tokens.tolist() == tokens
    assert mixed.rows.positions.tolist() == positions
    assert mixed.rows.slots.tolist() == slots
    assert mixed.chunks.row_ends.tolist()[-1] == sum(chunk.length for chunk in plan.prefill)
    assert mixed.chunks.length_ends.tolist()[-1] == sum(chunk.start + chunk.length for chunk in plan.prefill)
    ends, at = list(range(len(plan.decode))), len(plan.decode)
    for chunk in plan.prefill:
        at += chunk.length
        ends += [at - 1] if chunk.last else []
    assert mixed.sample_rows.tolist() == ends
    rows = mixed.rows
    for pointer in (rows.tokens, rows.positions, rows.slots, rows.sequences, mixed.sample_rows):
        assert pointer.data_ptr() % 16 == 0


@pytest.mark.parametrize("decoding", [0, 1, 3])
@pytest.mark.parametrize("chunks", [[(0, 1)], [(0, 17), (0, 6)], [(16, 5), (0, 30), (32, 7)]])
def test_a_mixed_step(decoding: int, chunks: list[tuple[int, int]]) -> None:
    sizes = (MOST, MAX_TOKENS, MAX_LENGTH, BLOCK_SIZE, VOCAB, DEVICE)
    writing, adopting = Inputs(*sizes, shared=True), Inputs(*sizes)
    plan = mixed_plan(decoding, chunks)
    sampled = plan.decode + [chunk.sequence for chunk in plan.prefill if chunk.last]
    mixed = writing.write(plan, sampled, decoding)
    assert mixed is not None
    check(mixed, plan)
    adopted = adopting.adopt(writing.written)
    assert (adopted.count, adopted.samples) == (decoding, len(sampled))
    assert adopted.mixed is not None
    check(adopted.mixed, plan)
    assert torch.equal(adopting.front.rows.tokens[:decoding], writing.front.rows.tokens[:decoding])
