"""How the service tells what it does: one line an event on standard error, for people or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class _Words(logging.Formatter):
    """``12:00:01 info request status=200 ...``"""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        facts = "".join(f" {name}={value}" for name, value in _facts(record).items() if value != "")
        line = f"{clock} {record.levelname.lower():<7} {record.getMessage()}{facts}".replace("\n", "\\n")
        return line + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else "")


class _Json(logging.Formatter):
    """One object a line: time (seconds since 1970), level, name, message, and the facts beside them."""

    def format(self, record: logging.LogRecord) -> str:
        content = {"time": round(record.created, 3), "level": record.levelname.lower(), "name": record.name, "message": record.getMessage()}
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content | _facts(record), default=str, ensure_ascii=False)


def _facts(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}


def begin(how: Literal["words", "json"]) -> None:
    """Send what Luthier and uvicorn tell to standard error; libraries speak up from warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if how == "json" else _Words())
    root = logging.getLogger()
    root.handlers, root.level = [handler], logging.WARNING
    logging.getLogger("luthier").setLevel(logging.INFO)
    logging.getLogger("uvicorn.access").disabled = True  # our own line has the request's id
