"""A step's inputs on the device are those of its plan, on rank 0 and on a rank that adopts them."""

import pytest
import torch

from tests.gpu.test_kernels import DEVICE
from trtllm_openai.engines.torch.cuda.inputs import Inputs
from trtllm_openai.engines.torch.cuda.mixed_inputs import Mixed, Tiles
from trtllm_openai.engines.torch.cuda.prefill import Chunks
from trtllm_openai.engines.torch.plan import Chunk, Plan
from trtllm_openai.engines.torch.sampler import uniform
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.generation import GenerationRequest, SamplingParams

BLOCK_SIZE, MOST, MAX_TOKENS, MAX_LENGTH, VOCAB = 16, 8, 256, 128, 500
TILE_TOKENS = 4


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
    rest = [0] * (len(mixed.rows.tokens) - len(tokens))
    assert mixed.rows.tokens.tolist() == tokens + rest
    assert mixed.rows.positions.tolist() == positions + rest
    assert mixed.rows.slots.tolist() == slots + rest
    if isinstance(mixed.attention, Chunks):
        chunks = mixed.attention
        assert not rest
        assert chunks.row_ends.tolist()[-1] == sum(chunk.length for chunk in plan.prefill)
        assert chunks.length_ends.tolist()[-1] == sum(chunk.start + chunk.length for chunk in plan.prefill)
        pointers = [chunks.row_ends, chunks.length_ends]
    else:
        check_tiles(mixed.attention, parts, positions)
        pointers = [mixed.attention.list, mixed.attention.count]
    ends, at = list(range(len(plan.decode))), len(plan.decode)
    for chunk in plan.prefill:
        at += chunk.length
        ends += [at - 1] if chunk.last else []
    assert mixed.sample_rows.tolist() == ends
    rows = mixed.rows
    for pointer in (rows.tokens, rows.positions, rows.slots, rows.sequences, mixed.sample_rows, *pointers):
        assert pointer.data_ptr() % 16 == 0


def check_tiles(tiles: Tiles, parts: list[tuple[Sequence, int, int]], positions: list[int]) -> None:
    """Each row is in one tile; a tile's rows are of one sequence, whose table has the row's number."""
    owners = [index for index, (_, _, length) in enumerate(parts) for _ in range(length)]
    covered: list[int] = []
    for first, rows, table, position in tiles.list[: int(tiles.count)].tolist():
        assert 0 < rows <= TILE_TOKENS
        covered += range(first, first + rows)
        assert owners[first : first + rows] == [table] * rows
        assert positions[first : first + rows] == list(range(position, position + rows))
    assert sorted(covered) == list(range(len(owners)))


@pytest.mark.parametrize(
    ("chunks", "padded"), [([], 7), ([], 8), ([(0, 17), (16, 6)], 0), ([(0, 17), (16, 6)], 64)]
)
def test_rows_of_drafts_follow_their_sequences(chunks: list[tuple[int, int]], padded: int) -> None:
    """Each draft token at its own position, with the block table, cuts and random number of its sequence."""
    plan = mixed_plan(3, chunks)
    one, two, three = plan.decode
    for name, sequence_ in zip("xyz", plan.decode, strict=True):
        sampling = SamplingParams(max_tokens=40, temperature=0.5, seed=ord(name), top_k=ord(name))
        sequence_.request = GenerationRequest(name, [1], sampling)
        sequence_.seed = ord(name)
        sequence_.blocks.append(90 + ord(name))
    plan.drafts = {one: [70, 71, 72], three: [80]}
    sampled = plan.decode + [chunk.sequence for chunk in plan.prefill if chunk.last]
    sizes = (MOST + 8, MAX_TOKENS, MAX_LENGTH, BLOCK_SIZE, VOCAB, DEVICE)
    inputs = Inputs(*sizes, most_padded=64, tile_tokens=TILE_TOKENS)
    mixed = inputs.write(plan, sampled, padded)
    front, rows = inputs.front, 7
    owners, ahead = [one, one, one, one, two, three, three], [0, 1, 2, 3, 0, 0, 1]
    tokens = [one.tokens[-1], 70, 71, 72, two.tokens[-1], three.tokens[-1], 80]
    positions = [owner.computed + more for owner, more in zip(owners, ahead, strict=True)]
    places = [
        owner.blocks[at // BLOCK_SIZE] * BLOCK_SIZE + at % BLOCK_SIZE
        for owner, at in zip(owners, positions, strict=True)
    ]
    views = [front.rows] if mixed is None else [front.rows, mixed.rows]
    for view in views:
        assert view.tokens[:rows].tolist() == tokens
        assert view.positions[:rows].tolist() == positions
        assert view.slots[:rows].tolist() == places
    assert front.lengths[:rows].tolist() == [at + 1 for at in positions]
    assert front.top_k[:rows].tolist() == [owner.request.sampling.top_k for owner in owners]
    numbers = [uniform(owner.seed, owner.generated + more) for owner, more in zip(owners, ahead, strict=True)]
    assert front.uniform[:rows].tolist() == numbers
    stride = int(front.table_stride)
    tables = front.tables[: rows * stride].view(rows, stride).tolist()
    for owner, table in zip(owners, tables, strict=True):
        assert table[: len(owner.blocks)] == owner.blocks
    if mixed is not None:
        assert mixed.sample_rows[:rows].tolist() == list(range(rows))
        assert mixed.sample_rows[rows:].tolist() == [rows + 17 - 1]
        assert mixed.rows.tokens[rows : rows + 17].tolist() == plan.prefill[0].sequence.tokens[:17]
        if isinstance(mixed.attention, Tiles):
            tiles = mixed.attention.list[: int(mixed.attention.count)].tolist()
            expected = [[row, 1, row, position] for row, position in enumerate(positions)]
            assert [tile for tile in tiles if tile[0] < rows] == expected


@pytest.mark.parametrize("padded", [0, 64])
@pytest.mark.parametrize("decoding", [0, 1, 3])
@pytest.mark.parametrize("chunks", [[(0, 1)], [(0, 17), (0, 6)], [(16, 5), (0, 30), (32, 7)]])
def test_a_mixed_step(decoding: int, chunks: list[tuple[int, int]], padded: int) -> None:
    sizes = (MOST, MAX_TOKENS, MAX_LENGTH, BLOCK_SIZE, VOCAB, DEVICE)
    writing = Inputs(*sizes, shared=True, most_padded=64, tile_tokens=TILE_TOKENS)
    adopting = Inputs(*sizes, most_padded=64, tile_tokens=TILE_TOKENS)
    plan = mixed_plan(decoding, chunks)
    sampled = plan.decode + [chunk.sequence for chunk in plan.prefill if chunk.last]
    mixed = writing.write(plan, sampled, padded)
    assert mixed is not None
    check(mixed, plan)
    adopted = adopting.adopt(writing.written)
    assert (adopted.count, adopted.padded, adopted.samples) == (decoding, padded, len(sampled))
    assert adopted.rows == [chunk.length for chunk in plan.prefill]
    assert adopted.mixed is not None
    check(adopted.mixed, plan)
    assert torch.equal(adopting.front.rows.tokens[:decoding], writing.front.rows.tokens[:decoding])
    if padded:  # a CUDA graph holds the addresses, and finds the tables on the device
        static = writing.padded(padded)
        assert static.rows.tokens.data_ptr() == mixed.rows.tokens.data_ptr()
        assert isinstance(static.attention, Tiles)
        assert isinstance(mixed.attention, Tiles)
        assert static.attention.list.data_ptr() == mixed.attention.list.data_ptr()
        for inputs in (writing, adopting):
            stride = int(inputs.front.table_stride)
            for row, one in enumerate([*plan.decode, *(chunk.sequence for chunk in plan.prefill)]):
                table = inputs.front.tables[row * stride :][: len(one.blocks)]
                assert table.tolist() == one.blocks
