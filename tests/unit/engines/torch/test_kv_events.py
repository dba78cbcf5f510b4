"""KV events of the real engine, read by a ZMQ subscriber with a reader's own structs, as llm-d's are."""

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq

from tests.unit.engines.test_zmq_publisher import asked, socket
from tests.unit.engines.torch.conftest import request, run
from trtllm_openai.config import KVEventSettings, TorchSettings
from trtllm_openai.engines.kv_events import open_kv_events
from trtllm_openai.engines.torch.engine import TorchEngine
from trtllm_openai.engines.torch.loader import load

BLOCK = 16


class BlockStored(msgspec.Struct, tag=True):
    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple[str, ...] | None] | None = None


class BlockRemoved(msgspec.Struct, tag=True):
    block_hashes: list[int]
    medium: str | None


class AllBlocksCleared(msgspec.Struct, tag=True):
    pass


class Batch(msgspec.Struct, array_like=True):
    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None


def documented_hashes(tokens: list[int], salt: str | None = None) -> list[int]:
    """The hashes of full blocks as docs/operations.md tells how to compute them."""
    seed = b"" if salt is None else b"s" + salt.encode()
    name = hashlib.blake2b(seed, digest_size=16).digest()
    hashes = []
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        block = struct.pack(f"<{BLOCK}q", *tokens[start : start + BLOCK])
        name = hashlib.blake2b(name + block, digest_size=16).digest()
        hashes.append(int.from_bytes(name[8:], "big"))
    return hashes


class Cache:
    """What a reader knows to be cached: the blocks, from events in order."""

    def __init__(self) -> None:
        self.blocks: set[int] = set()
        self.seen = 0
        self.extra: list[tuple[str, ...] | None] = []

    def read(self, replay: zmq.Socket[bytes]) -> None:
        for number, payload in asked(replay, self.seen):
            assert number == self.seen
            self.seen += 1
            batch = msgspec.msgpack.decode(payload, type=Batch)
            assert batch.data_parallel_rank == 0
            for event in batch.events:
                self.apply(event)

    def apply(self, event: BlockStored | BlockRemoved | AllBlocksCleared) -> None:
        match event:
            case BlockStored():
                assert event.block_size * len(event.block_hashes) == len(event.token_ids)
                assert event.parent_block_hash is None or event.parent_block_hash in self.blocks
                assert self.blocks.isdisjoint(event.block_hashes)
                self.blocks |= set(event.block_hashes)
                self.extra += event.extra_keys or []
            case BlockRemoved():
                assert self.blocks >= set(event.block_hashes)
                self.blocks -= set(event.block_hashes)
            case AllBlocksCleared():
                self.blocks.clear()


def published(directory: Path, tmp_path: Path, **settings: Any) -> tuple[TorchEngine, str]:
    chosen = TorchSettings(dtype="float32", device="cpu", max_seq_len=256, **settings)
    addresses = KVEventSettings(
        endpoint=f"ipc://{tmp_path}/events", replay_endpoint=f"ipc://{tmp_path}/replay", topic="kv@pod@demo"
    )
    events = open_kv_events(addresses, chosen.block_size, 0)
    return load(directory, chosen, lambda *_: None, None, events), f"ipc://{tmp_path}/replay"


def test_a_reader_knows_what_the_engine_would_find(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Blocks of prompts are stored, shared ones once, and removed when room is needed."""
    engine, address = published(checkpoint("llama"), tmp_path, kv_cache_tokens=32 * BLOCK)
    shared = [(7 * i) % 400 + 3 for i in range(4 * BLOCK)]
    prompts = [shared + [(11 * i * j) % 400 + 3 for i in range(4 * BLOCK)] for j in range(1, 12)]
    cache = Cache()
    with socket(zmq.DEALER, address) as replay:
        for index, prompt in enumerate(prompts):
            run(engine, request(str(index), prompt, max_tokens=2, ignore_eos=True))
            cache.read(replay)
            own = documented_hashes(prompt)
            assert len(own) == 8
            assert cache.blocks >= set(own)
            assert set(map(int, cache.blocks)) == {
                int.from_bytes(name[-8:]) for name in engine._pool._blocks
            }, "what it knows is what is there"
        assert cache.blocks.isdisjoint(documented_hashes(prompts[0])[4:]), "evicted"
        assert not any(cache.extra)
        seen = cache.seen
        engine.shutdown(1.0)
    assert seen > len(prompts)


def test_a_salted_prompt_has_hashes_and_an_extra_key_of_its_own(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    engine, address = published(checkpoint("llama"), tmp_path)
    prompt = [(7 * i) % 400 + 3 for i in range(4 * BLOCK)]
    with socket(zmq.DEALER, address) as replay:
        plain = request("plain", prompt, max_tokens=1)
        run(engine, plain, msgspec.structs.replace(plain, request_id="salted", cache_salt="alice "))
        cache = Cache()
        cache.read(replay)
        salted = documented_hashes(prompt, "alice ")
        assert cache.blocks == {*documented_hashes(prompt), *salted}
        (keys,) = [keys for keys in cache.extra if keys is not None]
        assert keys[0].startswith("salt:")
        assert "alice" not in keys[0]
        engine.shutdown(1.0)
