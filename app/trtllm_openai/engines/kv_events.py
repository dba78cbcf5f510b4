"""KV events: which blocks an engine has in its prefix cache, told to whoever routes by that.

The events are vLLM's (vllm/distributed/kv_events.py), which llm-d, Dynamo and AIBrix read:

* `BlockStored`: full blocks that follow each other, of `block_size` tokens each, can be found from now on.
  `parent_block_hash` is the block before them, None for the first block of a prompt; `token_ids` are their
  tokens. `extra_keys` has an item for each block: None, or what its hash covers beside its tokens.
* `BlockRemoved`: these blocks were evicted.
* `AllBlocksCleared`: none is left. Published when an engine starts and when it ends.

A batch, `[time, [event, …], runner]`, has what one engine step changed, in order; its time is Unix seconds.
An event is a map with its class as `type`, or, for readers of vLLM before 0.24, an array that begins with it.

A block's hash is the last 8 bytes, as an unsigned big-endian number, of its name in the engine's own index
(`engines.torch.block_pool`), so that equal hashes mean an equal prefix, on every runner of every server. A
prompt with a salt (of an API key, or `cache_salt`) has hashes of its own, and the extra key `salt:` with a
digest of the salt in its first block: the events tell no names of keys.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from trtllm_openai.config import KVEventSettings, Settings
from trtllm_openai.errors import ConfigError

MEDIUM = "GPU"
"""vLLM's name for the cache that an engine computes from, on a CPU too."""
PUBLISHING = ("torch",)
"""Engines that know their blocks."""


class BlockStored(msgspec.Struct, tag=True):
    """The order of the fields is that of vLLM's arrays."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str = MEDIUM
    lora_name: str | None = None
    extra_keys: list[list[str] | None] | None = None


class BlockRemoved(msgspec.Struct, tag=True):
    """Both forms of an event have this order."""

    block_hashes: list[int]
    medium: str = MEDIUM


class AllBlocksCleared(msgspec.Struct, tag=True):
    """It has no fields."""


Event = BlockStored | BlockRemoved | AllBlocksCleared


class Publisher(Protocol):
    """Takes batches of events. Called by the engine's thread, and must not block it."""

    def publish(self, payload: bytes) -> None:
        """Send a batch, as msgpack."""

    def close(self) -> None:
        """Send what is left, and end."""


def block_hash(name: bytes) -> int:
    """The hash that stands for a block's name."""
    return int.from_bytes(name[-8:])


class KVEvents:
    """Collects the events of an engine step. `runner` is sent as the data-parallel rank."""

    def __init__(self, publisher: Publisher, block_size: int, runner: int, encoding: str = "map") -> None:
        self._publisher = publisher
        self._block_size = block_size
        self._runner = runner
        self._arrays = encoding == "array"
        self._encode = msgspec.msgpack.Encoder().encode
        self._events: list[Event] = []
        self._cleared()

    def stored(
        self,
        names: Sequence[bytes],
        tokens: Sequence[int],
        first: int,
        published: Sequence[bool],
        salt: str | None,
    ) -> None:
        """Blocks `first`, `first + 1` … of a sequence are full.

        `names`: those of all of its blocks so far; `tokens`: all of its tokens. `published`: for each of the
        blocks, whether it can be found by its name from now on; another one may have the name already.
        """
        begin = first
        for index, new in enumerate([*published, False], first):
            if not new:
                if begin < index:
                    self._stored(names, tokens, begin, index, salt)
                begin = index + 1

    def removed(self, name: bytes) -> None:
        """The block with this name was evicted."""
        last = self._events[-1] if self._events else None
        if isinstance(last, BlockRemoved):
            last.block_hashes.append(block_hash(name))
        else:
            self._events.append(BlockRemoved([block_hash(name)]))

    def flush(self) -> None:
        """Publish the events since the last time, if there are any."""
        if not self._events:
            return
        events: list[Any] = [_as_array(event) for event in self._events] if self._arrays else self._events
        self._publisher.publish(self._encode([time.time(), events, self._runner]))
        self._events = []

    def close(self) -> None:
        """The cache is gone."""
        self._cleared()
        self._publisher.close()

    def _cleared(self) -> None:
        self._events.append(AllBlocksCleared())
        self.flush()

    def _stored(
        self, names: Sequence[bytes], tokens: Sequence[int], begin: int, end: int, salt: str | None
    ) -> None:
        size = self._block_size
        event = BlockStored(
            [block_hash(name) for name in names[begin:end]],
            block_hash(names[begin - 1]) if begin else None,
            list(tokens[begin * size : end * size]),
            size,
        )
        if salt is not None and not begin:
            event.extra_keys = [[f"salt:{salt}"], *[None] * (end - 1)]
        self._events.append(event)


def _as_array(event: Event) -> list[Any]:
    return [type(event).__name__, *(getattr(event, name) for name in event.__struct_fields__)]


def check_kv_events(settings: Settings) -> None:
    """Raise `ConfigError` where KV events are asked for and cannot be published."""
    chosen = settings.kv_events
    if chosen.endpoint is None:
        if chosen.replay_endpoint is not None:
            raise ConfigError("kv_events.replay_endpoint: it requires kv_events.endpoint")
        return
    if settings.engine not in PUBLISHING:
        raise ConfigError(
            f"kv_events.endpoint: the engine {settings.engine} publishes no KV events; torch does"
        )
    if not settings.torch.enable_prefix_caching:
        raise ConfigError("kv_events.endpoint: it requires torch.enable_prefix_caching")
    if importlib.util.find_spec("zmq") is None:
        raise ConfigError(
            "kv_events.endpoint: it requires pyzmq: pip install 'trtllm-openai-server[kv-events]'"
        )


def open_kv_events(settings: KVEventSettings, block_size: int, runner: int) -> KVEvents | None:
    """The events of one runner; None where none are asked for. Raises `ConfigError` for an address in use."""
    if settings.endpoint is None:
        return None
    from trtllm_openai.engines.zmq_publisher import ZmqPublisher

    publisher = ZmqPublisher(
        settings.endpoint, settings.replay_endpoint, runner, settings.topic, settings.replay_batches
    )
    return KVEvents(publisher, block_size, runner, settings.encoding)
