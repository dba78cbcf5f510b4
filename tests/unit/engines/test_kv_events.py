"""KV events as a reader of vLLM's decodes them, and where they are refused."""

import importlib.util
from typing import Any

import msgspec
import pytest

from trtllm_openai.config import Settings, TorchSettings
from trtllm_openai.engines.kv_events import KVEvents, block_hash, check_kv_events, open_kv_events
from trtllm_openai.errors import ConfigError

NAMES = [bytes([index]) * 16 for index in range(6)]
HASHES = [int.from_bytes(bytes([index]) * 8) for index in range(6)]
TOKENS = list(range(100, 112))
"""Of 6 blocks of 2 tokens."""


class Batches:
    """A publisher that keeps what it is given."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.closed = False

    def publish(self, payload: bytes) -> None:
        self.payloads.append(payload)

    def close(self) -> None:
        self.closed = True

    def take(self) -> list[Any]:
        """The events of all batches so far."""
        batches = [msgspec.msgpack.decode(payload) for payload in self.payloads]
        self.payloads.clear()
        assert all(len(batch) == 3 and batch[2] == 1 for batch in batches)
        return [event for batch in batches for event in batch[1]]


def begun(encoding: str = "map") -> tuple[KVEvents, Batches]:
    published = Batches()
    events = KVEvents(published, 2, 1, encoding)
    return events, published


def stored(first: int, last: int, parent: int | None, extra: Any = None) -> dict[str, Any]:
    return {
        "type": "BlockStored",
        "block_hashes": HASHES[first:last],
        "parent_block_hash": parent,
        "token_ids": TOKENS[2 * first : 2 * last],
        "block_size": 2,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": extra,
    }


def test_an_engine_begins_and_ends_with_an_empty_cache() -> None:
    events, published = begun()
    assert published.take() == [{"type": "AllBlocksCleared"}]
    events.flush()
    assert published.payloads == [], "nothing changed"
    events.close()
    assert (published.take(), published.closed) == ([{"type": "AllBlocksCleared"}], True)


def test_blocks_of_one_step_are_one_batch_in_order() -> None:
    events, published = begun()
    published.take()
    events.removed(NAMES[4])
    events.removed(NAMES[5])
    events.stored(NAMES[:3], TOKENS[:7], 0, [True, True, True], None)
    events.removed(NAMES[1])
    assert published.payloads == []
    events.flush()
    assert len(published.payloads) == 1
    assert published.take() == [
        {"type": "BlockRemoved", "block_hashes": HASHES[4:6], "medium": "GPU"},
        stored(0, 3, None),
        {"type": "BlockRemoved", "block_hashes": HASHES[1:2], "medium": "GPU"},
    ]


def test_blocks_that_another_sequence_has_stored_are_left_out() -> None:
    """The rest follows the block that was stored before, which a reader knows."""
    events, published = begun()
    published.take()
    events.stored(NAMES, TOKENS, 1, [True, False, False, True, True], None)
    events.flush()
    assert published.take() == [stored(1, 2, HASHES[0]), stored(4, 6, HASHES[3])]
    events.stored(NAMES, TOKENS, 0, [False, False], None)
    events.flush()
    assert published.payloads == []


def test_a_salt_is_an_extra_key_of_the_first_block() -> None:
    events, published = begun()
    published.take()
    events.stored(NAMES[:2], TOKENS[:4], 0, [True, True], "ab12")
    events.stored(NAMES[:3], TOKENS[:6], 2, [True], "ab12")
    events.flush()
    assert published.take() == [stored(0, 2, None, [["salt:ab12"], None]), stored(2, 3, HASHES[1])]


def test_arrays_have_the_order_of_vllms_fields() -> None:
    events, published = begun("array")
    events.stored(NAMES[:2], TOKENS[:4], 0, [True, True], None)
    events.removed(NAMES[3])
    events.flush()
    assert published.take() == [
        ["AllBlocksCleared"],
        ["BlockStored", HASHES[:2], None, TOKENS[:4], 2, None, "GPU", None, None],
        ["BlockRemoved", HASHES[3:4], "GPU"],
    ]


def test_a_hash_fits_64_bits_without_a_sign() -> None:
    assert block_hash(b"\x00" * 8 + b"\xff" * 8) == 2**64 - 1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"engine": "synthetic", "kv_events": {"endpoint": "tcp://*:5557"}}, "engine synthetic publishes no"),
        ({"engine": "tensorrt_llm", "kv_events": {"endpoint": "tcp://*:5557"}}, "engine tensorrt_llm"),
        ({"kv_events": {"replay_endpoint": "tcp://*:5558"}}, "requires kv_events.endpoint"),
        (
            {"kv_events": {"endpoint": "tcp://*:5557"}, "torch": TorchSettings(enable_prefix_caching=False)},
            "enable_prefix_caching",
        ),
    ],
)
def test_what_cannot_be_published_is_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        check_kv_events(Settings(**settings))


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Settings(kv_events={"endpoint": "tcp://*:5557"})
    check_kv_events(wanted)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"\[kv-events\]"):
        check_kv_events(wanted)
    check_kv_events(Settings())


def test_off_means_nothing() -> None:
    assert open_kv_events(Settings().kv_events, 16, 0) is None
