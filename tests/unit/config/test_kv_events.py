"""Addresses of KV events."""

import pytest
from pydantic import ValidationError

from trtllm_openai.config import KVEventSettings


@pytest.mark.parametrize(
    "address",
    ["tcp://*:5557", "tcp://picker.llm.svc:5557", "tcp://[::]:5557", "tcp://10.0.0.1:1", "ipc:///tmp/a"],
)
def test_addresses(address: str) -> None:
    assert KVEventSettings(endpoint=address, replay_endpoint=address).endpoint == address


@pytest.mark.parametrize(
    "address", ["", "*:5557", "tcp://*", "tcp://:5557", "tcp://a b:1", "http://a:1", "ipc://a"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValidationError, match="endpoint"):
        KVEventSettings(endpoint=address)
