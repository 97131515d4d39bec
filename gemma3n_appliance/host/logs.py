"""One log: ours and that of every library, through structlog, one line an event, to stderr."""

import logging
import sys
from typing import Any

import structlog
from gunicorn.glogging import Logger
from structlog.typing import EventDict, Processor

# What a terminal obeys, or takes for the end of a line; that itself is escaped by what renders.
_CONTROLS = {
    number: f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
    for number in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
    if chr(number) != "\n"
}

# Chatty at info, and about nothing that a person who runs this server could act on.
_QUIET = ("httpx", "httpx2", "httpcore", "httpcore2", "urllib3", "filelock", "PIL", "asyncio")

_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure(level: str) -> None:
    """Sends everything at ``level`` and above to stderr: in colour on a terminal, else as key=value."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(for_people=sys.stderr.isatty()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def _formatter(*, for_people: bool) -> structlog.stdlib.ProcessorFormatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *(_for_people() if for_people else _for_machines()),
        ],
    )


def _for_people() -> list[Processor]:
    # Its default traceback prints local variables: tokens, and what people asked.
    return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]


def _for_machines() -> list[Processor]:
    """Key=value; a traceback becomes one value, its line ends escaped."""
    return [
        structlog.processors.format_exc_info,
        _without_controls,
        structlog.processors.LogfmtRenderer(
            key_order=["timestamp", "level", "event", "request_id"], drop_missing=True, bool_as_flag=False
        ),
    ]


def _without_controls(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Escapes what people sent, a path above all, lest it forge lines or colours."""
    return {
        name: value.translate(_CONTROLS) if isinstance(value, str) else value for name, value in event.items()
    }


class GunicornLogger(Logger):  # type: ignore[misc]
    """Leaves gunicorn's own lines, and uvicorn's through its worker, to the root logger's handlers."""

    def setup(self, cfg: Any) -> None:
        """Replaces gunicorn's handlers; it calls this in every process it starts."""
        super().setup(cfg)
        root = logging.getLogger()
        self.error_log.handlers = list(root.handlers)
        self.error_log.setLevel(root.level)
        self.access_log.handlers = []  # the app logs requests itself, with their ids
