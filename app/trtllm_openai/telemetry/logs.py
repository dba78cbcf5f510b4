"""Logging set-up, the same for every process of the server.

Each record is one line, of text or JSON; only a traceback in text spans several. Fields that a record carries
as `extra=fields(...)` become keys of the JSON object, or `key=value` after the message.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import time
from typing import Any, Literal

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_FIELDS = "telemetry_fields"


def fields(values: dict[str, Any]) -> dict[str, Any]:
    """`extra` for a log call."""
    return {_FIELDS: values}


class QuietHandler(logging.Handler):
    """Non-blocking handler that writes to a file descriptor.

    Lines are dropped if the disk is full or the pipe is closed or full; the next line that can be written is
    preceded by the number of dropped ones.
    """

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._erase = "\r\x1b[2K" if os.isatty(descriptor) else ""  # a progress bar may be on the line
        self._lost = 0
        self._cut = False  # the last line was written only partly

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or drop it."""
        try:
            if self._lost and self._write(self._notice()):
                self._lost = 0
            self._lost += not self._write(self.format(record))
        except Exception:
            self.handleError(record)

    def _write(self, line: str) -> bool:
        start = "\n" if self._cut else self._erase
        rest = f"{start}{line}\n".encode(errors="backslashreplace")
        whole = len(rest)
        try:
            while rest and self._poll.poll(0):  # a writable pipe accepts this many bytes atomically
                rest = rest[os.write(self._descriptor, rest[: select.PIPE_BUF]) :]
        except OSError:
            pass
        if len(rest) < whole:
            self._cut = bool(rest)
        return not rest

    def _notice(self) -> str:
        text = f"dropped {self._lost} log lines: the output was blocked"
        return self.format(logging.LogRecord(__name__, logging.WARNING, "", 0, text, None, None))


class TextFormatter(logging.Formatter):
    """Time, level, process, logger, message. Control characters are escaped: a path can hold a line break."""

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {process} %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        values = getattr(record, _FIELDS, {})
        pairs = (f"{name}={_quoted(value)}" for name, value in values.items())
        line = " ".join([super().formatMessage(record), *pairs])
        return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], line)


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[\s"=]', text) else text


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time (UTC), level, process, logger, message, the fields, exception."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:  # in ASCII, so that lone surrogates stay valid JSON
            return json.dumps(line, default=str, allow_nan=False)
        except ValueError:  # infinity, or a circular reference
            return json.dumps({name: str(value) for name, value in line.items()})


def setup_logging(level: str, process: str, form: Literal["text", "json"] = "text") -> None:
    """Configure the root logger to write to standard error."""
    handler = QuietHandler()
    handler.setFormatter(JsonFormatter(process) if form == "json" else TextFormatter(process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "asyncio", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
