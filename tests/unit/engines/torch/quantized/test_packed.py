"""The engine's own layout of 4-bit weights: what it stands for, and where a kernel finds it."""

import pytest
import torch

from trtllm_openai.engines.torch.quantized.packed import Fp8Weight, Int4Weight, dense, join, pack_int4
from trtllm_openai.errors import CheckpointError


def random(outputs: int, groups: int, group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    codes = torch.randint(16, (outputs, groups * group), dtype=torch.uint8)
    scales = torch.rand(groups, outputs).half() + 0.5
    return codes, scales, torch.randint(16, (groups, outputs), dtype=torch.uint8)


@pytest.mark.parametrize(("groups", "group", "span"), [(1, 32, 32), (3, 64, 64), (4, 128, 256), (2, 32, 64)])
def test_codes_and_their_places(groups: int, group: int, span: int) -> None:
    codes, scales, zeros = random(24, groups, group)
    packed = pack_int4(codes, scales, zeros)
    assert (packed.shape, packed.group, packed.span) == ((24, groups * group), group, span)
    assert torch.equal(packed.codes(), codes)
    for place in (0, 5, span // 2 - 1):
        first = int(packed.packed[3, place])
        assert (first & 15, first >> 4) == (int(codes[3, place]), int(codes[3, place + span // 2]))
    expected = torch.empty(24, groups * group)
    for output in range(24):
        for place in range(groups * group):
            at = place // group, output
            code = int(codes[output, place]) - int(zeros[at])
            expected[output, place] = code * float(scales[at])
    assert torch.equal(packed.dense(torch.float32), expected)
    assert torch.equal(dense(packed, torch.bfloat16), expected.bfloat16())


def test_outputs_are_joined() -> None:
    parts = [pack_int4(*random(outputs, 2, 32)) for outputs in (8, 16)]
    whole = join(parts, "q_proj, k_proj")
    assert isinstance(whole, Int4Weight)
    assert torch.equal(whole.dense(torch.float32), torch.cat([one.dense(torch.float32) for one in parts]))
    eights = [Fp8Weight(torch.randn(4, 8).to(torch.float8_e4m3fn), torch.rand(4)) for _ in range(2)]
    both = join(eights, "gate_proj, up_proj")
    assert torch.equal(dense(both, torch.float32), torch.cat([one.dense(torch.float32) for one in eights]))
    plain = torch.randn(8, 64)
    assert torch.equal(dense(join([plain, plain], ""), torch.float32), torch.cat([plain, plain]))
    with pytest.raises(
        CheckpointError, match="Some of the layers q_proj, k_proj are quantized and others not"
    ):
        join([parts[0], plain], "q_proj, k_proj")
