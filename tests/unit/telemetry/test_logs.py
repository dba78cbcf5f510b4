"""Log lines: one each whatever they hold, and a broken output hurts nobody."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.telemetry.logs import JsonFormatter, QuietHandler, TextFormatter, fields

ANY_TEXT = st.text(st.characters(exclude_categories=()))


def record(message: str, values: dict[str, Any], exc_info: Any = None) -> logging.LogRecord:
    made = logging.LogRecord("app.access", logging.INFO, "", 0, "%s", (message,), exc_info)
    made.__dict__.update(fields(values))
    return made


@given(message=ANY_TEXT, value=ANY_TEXT | st.floats() | st.binary())
def test_json_is_one_valid_line_whatever_it_holds(message: str, value: Any) -> None:
    line = JsonFormatter("http").format(record(message, {"value": value}))
    line.encode("ascii")
    assert "\n" not in line
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found["message"].encode("utf-16", "surrogatepass") == message.encode("utf-16", "surrogatepass")
    assert (found["level"], found["process"], found["logger"]) == ("info", "http", "app.access")


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
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if broken == "full disk":
        stream = open("/dev/full", "w")  # noqa: SIM115
    elif broken == "closed pipe":
        reading, writing = os.pipe()
        os.close(reading)
        stream = os.fdopen(writing, "w")
    else:
        stream = open(tmp_path / "log", "w")  # noqa: SIM115
        stream.close()
    logger = logging.Logger("test")
    logger.addHandler(QuietHandler(stream))
    for _ in range(3):
        logger.error("line")
    assert capsys.readouterr().err == ""
    if not stream.closed:
        with pytest.raises(OSError):  # what was buffered cannot be written now either
            stream.close()
