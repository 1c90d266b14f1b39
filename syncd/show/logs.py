"""Our own log lines: for people on a terminal, JSON for machines; both with the same event names and keys."""

import json
import logging
import sys
import time
from typing import Literal


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "fields", {})
    return {key: value for key, value in fields.items() if value is not None}


class TextFormat(logging.Formatter):
    """`12:00:01 syncd checkpoint_committed checkpoint=checkpoint-200 step=200`"""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno < logging.WARNING else f" {record.levelname.lower()}"
        words = "".join(f" {key}={_plain(value)}" for key, value in _fields(record).items())
        tail = "\n" + self.formatException(record.exc_info) if record.exc_info else ""
        return f"{clock} syncd{level} {record.getMessage()}{words}{tail}"


class JsonFormat(logging.Formatter):
    """One JSON object a line: time, level, event, then the event's own keys."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {"time": round(record.created, 3), "level": record.levelname.lower()}
        line |= {"event": record.getMessage(), **_fields(record)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _plain(value: object) -> str:
    text = str(value)
    if not text.isprintable():
        return json.dumps(text)  # also what would move a terminal's cursor
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=') else text


def set_up(form: Literal["auto", "text", "json"], level: str) -> None:
    """Log to stderr; `auto` is text on a terminal and JSON otherwise."""
    handler = logging.StreamHandler(sys.stderr)
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler.setFormatter(TextFormat() if text else JsonFormat())
    logger = logging.getLogger("syncd")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
