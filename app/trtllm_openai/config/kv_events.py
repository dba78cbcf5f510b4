"""Settings of KV events: where an engine tells which KV blocks it has cached."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trtllm_openai.config.fields import Positive, Section

ZmqAddress = Annotated[
    str, Field(pattern=r"^(tcp://(\*|\[[0-9A-Fa-f:]+\]|[^\s:/*\[\]]+):\d{1,5}|ipc:///\S+)$")
]


class KVEventSettings(Section):
    """KV events over ZMQ in vLLM's message format, for endpoint pickers that route by cached prefixes."""

    endpoint: ZmqAddress | None = Field(
        None,
        description="ZMQ address of events: with tcp://*:5557 a runner listens (runner i on port 5557 + i), "
        "with tcp://host:5557 it connects to the subscriber; ipc:///path listens too; null publishes nothing",
    )
    replay_endpoint: ZmqAddress | None = Field(
        None,
        description="ZMQ address where a subscriber asks for batches that it missed, tcp://*:5558 or "
        "ipc:///path (runner i on the port + i)",
    )
    topic: str = Field("", description="ZMQ topic; llm-d expects kv@<pod address>@<model id>")
    encoding: Literal["map", "array"] = Field(
        "map",
        description="form of an event: map has names of fields, as vLLM since 0.24, array is that of older "
        "versions",
    )
    replay_batches: Positive = Field(10_000, description="number of past batches that can be asked for again")
