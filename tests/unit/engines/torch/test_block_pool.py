"""Blocks: who holds them, which can be found again, which are evicted."""

import pytest

from trtllm_openai.engines.torch.block_pool import BlockPool, block_name, first_name


def test_refuses_what_it_does_not_have() -> None:
    pool = BlockPool(3)
    blocks = pool.take(3)
    assert sorted(blocks) == [1, 2, 3]
    with pytest.raises(ValueError, match="1 blocks requested, but only 0 are free"):
        pool.take(1)
    pool.give_back(blocks)
    assert pool.free == 3
    with pytest.raises(ValueError, match="has no reference"):
        pool.give_back(blocks[:1])


def test_the_longest_unused_goes_first_and_ends_before_beginnings() -> None:
    pool = BlockPool(5)
    old, new = pool.take(2), pool.take(2)
    for block in old + new:
        pool.name(block, b"%d" % block)
    pool.give_back(old)
    pool.give_back(new)
    assert pool.free == 5
    assert pool.find([b"%d" % block for block in old]) == old
    pool.share(old[:1])  # used again
    pool.give_back(old[:1])
    empty = pool.take(1)
    assert empty[0] not in old + new
    evicted = [pool.take(1)[0] for _ in range(4)]
    assert evicted == [old[1], new[1], new[0], old[0]]
    assert pool.find([b"%d" % old[0]]) == []


def test_a_shared_block_is_free_when_the_last_holder_gave_it_back() -> None:
    pool = BlockPool(1)
    block = pool.take(1)
    pool.name(block[0], b"x")
    pool.share(block)
    pool.give_back(block)
    assert (pool.free, pool.idle(block)) == (0, 0)
    pool.give_back(block)
    assert (pool.free, pool.idle(block)) == (1, 1)


def test_the_first_of_a_name_keeps_it() -> None:
    pool = BlockPool(2)
    first, second = pool.take(2)
    pool.name(first, b"x")
    pool.name(second, b"x")
    pool.name(first, b"y")
    assert pool.find([b"x"]) == [first]
    assert pool.find([b"y"]) == []


def test_names_depend_on_everything_before_and_on_the_salt() -> None:
    names = {
        block_name(block_name(first_name(salt), before), [7, 8])
        for salt in (None, "", "a")
        for before in ([1, 2], [2, 1], [1], [258])
    }
    assert len(names) == 12
