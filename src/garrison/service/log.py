"""The log of a service: one JSON object a line, on standard error.

A line says what was decided and for whom. It never holds a header, a query string, a token
or a key: callers pass each field by name, and nothing is logged wholesale.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOGGER = logging.getLogger("garrison.service")
# A log is read by machines and by people: no single field may flood it.
_MAX_FIELD = 2000
_ENCODER = json.JSONEncoder(ensure_ascii=True)


def record(event: str, fields: Mapping[str, object], *, level: int = logging.INFO) -> None:
    """Log one line.

    Args:
        event: what happened, one word for machines to select by.
        fields: what there is to know of it; those that are None are left out.
        level: the level, of the `logging` module.
    """
    if not _LOGGER.isEnabledFor(level):
        return
    handlers = _LOGGER.handlers
    if len(handlers) == 1 and type(handlers[0]) is _Lines:
        # There are two lines to an answer, and the way through `logging` costs more than they do.
        handlers[0].tell(event, fields, level)
        return
    # Not by its `log`, which looks for the line of code that calls it: nobody asks for that.
    line = _LOGGER.makeRecord(_LOGGER.name, level, "", 0, event, (), None)
    line.fields = dict(fields)
    _LOGGER.handle(line)


def configure(service: str) -> None:
    """Send this log, and the server's own messages, to standard error as JSON lines.

    Args:
        service: the name that each line carries.
    """
    handler = _Lines(service)
    for name in ("garrison.service", "uvicorn", "opentelemetry"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    _LOGGER.setLevel(logging.INFO)
    # The server's notes of its own start and end are noise; its warnings are not.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


class _Lines(logging.StreamHandler[TextIO]):
    """Writes to standard error: records of `logging`, and what `record` tells it without one."""

    def __init__(self, service: str) -> None:
        super().__init__(sys.stderr)
        self._form = JsonLines(service)
        self.setFormatter(self._form)

    def tell(self, event: str, fields: Mapping[str, object], level: int) -> None:
        line = self._form.line(time.time(), level, event, fields)
        self.acquire()
        try:
            self.stream.write(_ENCODER.encode(line) + self.terminator)
            self.stream.flush()
        except (OSError, ValueError):
            # As `logging` does, of a closed file too: what cannot be logged ends no request.
            self.handleError(logging.makeLogRecord({"msg": event, "levelno": level}))
        finally:
            self.release()


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON: time, service, event, then the fields."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Write `record`."""
        fields: dict[str, object] = getattr(record, "fields", {})
        line = self.line(record.created, record.levelno, record.getMessage(), fields)
        if record.exc_info:
            # Only a defect of ours comes here; whoever runs the service must be able to report it.
            line["trace"] = self.formatException(record.exc_info)
        return _ENCODER.encode(line)

    def line(
        self, moment: float, level: int, event: str, fields: Mapping[str, object]
    ) -> dict[str, object]:
        """What stands in a line, in this order."""
        seconds = int(moment)
        line: dict[str, object] = {
            "time": f"{_second(seconds)}.{int((moment - seconds) * 1000):03}+00:00",
            "service": self._service,
            "level": _level(level),
            "event": event[:_MAX_FIELD],
        }
        for key, value in fields.items():
            if type(value) is str:
                line[key] = value[:_MAX_FIELD]
            elif value is not None:
                line[key] = _bounded(value)
        return line


@lru_cache(maxsize=16)
def _level(level: int) -> str:
    return logging.getLevelName(level).lower()


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    """The time without its fraction; of many lines it is the same."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _bounded(value: object) -> object:
    if isinstance(value, str):
        return value[:_MAX_FIELD]
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        return value.hex()[:_MAX_FIELD]
    if isinstance(value, list | tuple):
        return [_bounded(item) for item in value[:100]]
    return str(value)[:_MAX_FIELD]
