"""Log lines: one each whatever they hold, and a broken output hurts nobody."""

import json
import logging
import os
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtllm_openai.telemetry.logs import JsonFormatter, QuietHandler, TextFormatter, fields

ANY_TEXT = st.text(st.characters(exclude_categories=()))


def record(message: str, values: dict[str, Any], exc_info: Any = None) -> logging.LogRecord:
    made = logging.LogRecord("trtllm_openai.access", logging.INFO, "", 0, "%s", (message,), exc_info)
    made.__dict__.update(fields(values))
    return made


@given(message=ANY_TEXT, value=ANY_TEXT | st.floats() | st.binary())
def test_json_is_one_valid_line_whatever_it_holds(message: str, value: Any) -> None:
    line = JsonFormatter("http").format(record(message, {"value": value}))
    line.encode("ascii")
    assert "\n" not in line
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found["message"].encode("utf-16", "surrogatepass") == message.encode("utf-16", "surrogatepass")
    assert (found["level"], found["process"], found["logger"]) == ("info", "http", "trtllm_openai.access")


@given(message=ANY_TEXT, value=ANY_TEXT)
def test_text_is_one_line_that_can_be_written(message: str, value: str) -> None:
    line = TextFormatter("http").format(record(message, {"value": value}))
    assert len(line.splitlines()) == 1
    line.encode("utf-8")


def test_text_values_cannot_pass_for_fields() -> None:
    line = TextFormatter("http").format(record("request", {"path": "/x status=200", "status": 404}))
    assert line.endswith('request path="/x status=200" status=404')


def test_an_exception_is_told() -> None:
    try:
        raise ValueError("cause")
    except ValueError:
        made = record("it failed", {}, sys.exc_info())
    assert "ValueError: cause" in json.loads(JsonFormatter("http").format(made))["exception"]
    assert "ValueError: cause" in TextFormatter("http").format(made)


@pytest.mark.parametrize("broken", ["full disk", "closed pipe", "closed file"])
def test_a_broken_output_loses_the_line_and_nothing_else(
    broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if broken == "full disk":
        writing = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, writing = os.pipe()
        os.close(reading)
    logger = logging.Logger("test")
    logger.addHandler(QuietHandler(writing))
    if broken == "closed file":
        os.close(writing)
    for _ in range(3):
        logger.error("line")
    assert capsys.readouterr().err == ""
    if broken != "closed file":
        os.close(writing)


@pytest.mark.parametrize("size", [100, 10_000])
def test_a_reader_that_does_not_read_holds_nobody_up(size: int) -> None:
    reading, writing = os.pipe()
    logger = logging.Logger("test")
    logger.addHandler(QuietHandler(writing))
    for _ in range(1000):
        logger.error("x" * size)  # more than a pipe takes: it would wait here for ever
    os.set_blocking(reading, False)
    before = os.read(reading, 2**20).decode().splitlines()
    logger.error("last")
    after = os.read(reading, 2**20).decode().splitlines()
    os.close(reading)
    os.close(writing)
    whole = [line for line in before if line == "x" * size]
    assert len(whole) >= len(before) - 1  # at most one was cut
    notice, last = [line for line in after if line]
    assert notice == f"dropped {1000 - len(whole)} log lines: the output was blocked"
    assert last == "last"
