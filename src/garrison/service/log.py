"""The log of a service: one JSON object a line, on standard error.

A line says what was decided and for whom. It never holds a header, a query string, a token
or a key: callers pass each field by name, and nothing is logged wholesale.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

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
    # Not by its `log`, which looks for the line of code that calls it: nobody asks for that.
    line = _LOGGER.makeRecord(_LOGGER.name, level, "", 0, event, (), None)
    line.fields = dict(fields)
    _LOGGER.handle(line)


def configure(service: str) -> None:
    """Send this log, and the server's own messages, to standard error as JSON lines.

    Args:
        service: the name that each line carries.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(service))
    for name in ("garrison.service", "uvicorn", "opentelemetry"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    _LOGGER.setLevel(logging.INFO)
    # The server's notes of its own start and end are noise; its warnings are not.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON: time, service, event, then the fields."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Write `record`."""
        line: dict[str, object] = {
            "time": f"{_second(int(record.created))}.{int(record.msecs):03}+00:00",
            "service": self._service,
            "level": record.levelname.lower(),
            "event": record.getMessage()[:_MAX_FIELD],
        }
        fields: dict[str, object] = getattr(record, "fields", {})
        line |= {key: _bounded(value) for key, value in fields.items() if value is not None}
        if record.exc_info:
            # Only a defect of ours comes here; whoever runs the service must be able to report it.
            line["trace"] = self.formatException(record.exc_info)
        return _ENCODER.encode(line)


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
