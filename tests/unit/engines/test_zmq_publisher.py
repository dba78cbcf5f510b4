"""Messages over real ZMQ sockets: numbers, the replay of what was missed, addresses of runners."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import zmq

from trtllm_openai.engines import zmq_publisher
from trtllm_openai.engines.zmq_publisher import END, ZmqPublisher, listens, of_runner
from trtllm_openai.errors import ConfigError

PATIENCE_MS = 20_000


@contextmanager
def socket(kind: int, *connect: str) -> Iterator[zmq.Socket[bytes]]:
    context = zmq.Context()
    made = context.socket(kind)
    made.rcvtimeo = PATIENCE_MS
    try:
        for address in connect:
            made.connect(address)
        yield made
    finally:
        context.destroy(linger=0)


@contextmanager
def subscriber(address: str, topic: bytes = b"") -> Iterator[zmq.Socket[bytes]]:
    with socket(zmq.SUB) as made:
        made.subscribe(topic)
        made.connect(address)
        yield made


def asked(replay: zmq.Socket[bytes], first: int) -> list[tuple[int, bytes]]:
    """What is sent again from this number on."""
    replay.send_multipart((b"", first.to_bytes(8)))
    found = []
    while (message := replay.recv_multipart())[1] != END:
        assert message[0] == b""
        found.append((int.from_bytes(message[1]), message[2]))
    assert message[2] == b""
    return found


def received(reader: zmq.Socket[bytes], publisher: ZmqPublisher) -> list[bytes]:
    """The first message that arrives: who subscribes late has missed some."""
    while not reader.poll(20):
        publisher.publish(b"again")
    return reader.recv_multipart()


def test_numbers_topic_and_replay(tmp_path: Path) -> None:
    address, again = f"ipc://{tmp_path}/events", f"ipc://{tmp_path}/replay"
    with (
        closing(ZmqPublisher(address, again, 0, "kv@pod@model", 1000)) as publisher,
        subscriber(address, b"kv@") as reader,
        socket(zmq.DEALER, again) as replay,
    ):
        publisher.publish(b"first")
        topic, number, payload = received(reader, publisher)
        assert topic == b"kv@pod@model"
        assert payload in (b"first", b"again")  # a subscription may arrive in time for the first
        publisher.publish(b"last")
        numbers = [int.from_bytes(number)]
        while payload != b"last":
            _, number, payload = reader.recv_multipart()
            numbers.append(int.from_bytes(number))
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        everything = asked(replay, 0)
        assert [number for number, _ in everything] == list(range(numbers[-1] + 1))
        assert (everything[0][1], everything[-1][1]) == (b"first", b"last")
        assert asked(replay, numbers[-1]) == [(numbers[-1], b"last")]
        replay.send_multipart((b"", b"short"))  # ignored
        assert asked(replay, numbers[-1] + 1) == []


def test_only_the_last_batches_are_kept(tmp_path: Path) -> None:
    address, again = f"ipc://{tmp_path}/events", f"ipc://{tmp_path}/replay"
    with closing(ZmqPublisher(address, again, 0, "", 3)) as publisher, socket(zmq.DEALER, again) as replay:
        for index in range(10):
            publisher.publish(b"%d" % index)
        while (found := asked(replay, 0))[-1:] != [(9, b"9")]:
            pass
        assert found == [(7, b"7"), (8, b"8"), (9, b"9")]


def test_a_publisher_may_connect_to_who_collects(tmp_path: Path) -> None:
    with socket(zmq.SUB) as reader:
        reader.subscribe(b"")
        port = reader.bind_to_random_port("tcp://127.0.0.1")
        with (
            closing(ZmqPublisher(f"tcp://127.0.0.1:{port}", None, 0, "a", 10)) as one,
            closing(ZmqPublisher(f"tcp://127.0.0.1:{port}", None, 1, "b", 10)) as other,
        ):
            topics: set[bytes] = set()
            while topics != {b"a", b"b"}:
                one.publish(b"x")
                other.publish(b"y")
                if reader.poll(20):
                    topics.add(reader.recv_multipart()[0])


def test_messages_that_wait_too_long_leave_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq_publisher, "QUEUE", 2)
    monkeypatch.setattr(ZmqPublisher, "_run", lambda self: None)  # a thread that never gets to it
    publisher = ZmqPublisher(f"ipc://{tmp_path}/events", None, 0, "", 10)
    for payload in (b"a", b"b", b"c"):
        publisher.publish(payload)
    assert list(publisher._queue) == [(1, b"b"), (2, b"c")]
    publisher._context.destroy(linger=0)


def test_an_address_in_use_names_the_setting(tmp_path: Path) -> None:
    with socket(zmq.PUB) as other:
        port = other.bind_to_random_port("tcp://*")
        with pytest.raises(
            ConfigError, match=rf"kv_events.endpoint: tcp://\*:{port} cannot be used: Address"
        ):
            ZmqPublisher(f"tcp://*:{port}", None, 0, "", 10)
        with pytest.raises(ConfigError, match=r"kv_events\.replay_endpoint"):
            ZmqPublisher(f"ipc://{tmp_path}/events", f"tcp://*:{port}", 0, "", 10)


def test_each_runner_listens_at_a_place_of_its_own() -> None:
    assert [of_runner("tcp://*:5557", index) for index in (0, 2)] == ["tcp://*:5557", "tcp://*:5559"]
    assert of_runner("tcp://[::]:5557", 1) == "tcp://[::]:5558"
    assert of_runner("ipc:///run/events", 1) == "ipc:///run/events-1"
    assert of_runner("tcp://picker:5557", 3) == "tcp://picker:5557", "all connect to the same subscriber"
    assert not listens("tcp://picker:5557")
