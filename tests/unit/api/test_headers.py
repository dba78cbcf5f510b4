"""Headers read from an ASGI scope."""

from trtllm_openai.api.headers import header, headers


def test_the_first_of_several_counts() -> None:
    scope = {"headers": [(b"a", b"1"), (b"x-b", b"first"), (b"x-b", b"second")]}
    assert header(scope, b"x-b") == "first"
    assert header(scope, b"x-c") is None


def test_several_at_once() -> None:
    scope = {"headers": [(b"a", b"1"), (b"x-b", b"first"), (b"x-b", b"second")]}
    assert headers(scope, b"x-b", b"x-c", b"a") == ["first", None, "1"]


def test_any_bytes_are_read() -> None:
    assert header({"headers": [(b"a", b"\xe9\xff")]}, b"a") == "éÿ"
