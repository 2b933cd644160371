"""Structured logs: one JSON object per line in production, coloured lines on a terminal.

Other modules call `structlog.get_logger()`; what libraries say through `logging` comes out in the same form. Only plain
values get through: of a protobuf message, bytes or any other object its type alone, because a spec holds secrets and
redaction is an allow-list. No value of a tenant's or guest's draws on a terminal or ends its line (`printable.py`).
Which events are worth a line does not belong here.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

if "structlog" not in sys.modules and "rich" not in sys.modules:
    # structlog imports rich where there is one, for tracebacks that are not drawn here: a tenth of every start.
    sys.modules["rich"] = None  # type: ignore[assignment]
    import structlog

    del sys.modules["rich"]
else:
    import structlog

from sri_libvirt import printable

LONGEST = 2000
"""Characters of one text value in a log line; tracebacks are not cut."""

_PRIORITIES = {"critical": "<2>", "error": "<3>", "exception": "<3>", "warning": "<4>", "info": "<6>", "debug": "<7>"}

_PLAIN = (str, int, float, bool, type(None))
_OWN_KEYS = frozenset({"exc_info", "exception", "stack_info", "_record", "_from_structlog"})


def set_up(
    level: str, form: Literal["auto", "json", "console"], stream: TextIO | None = None, *, journal: bool = False
) -> None:
    """Send all logs of `level` and above to `stream` (standard error). Call once, before the first log line.

    To systemd's `journal` each line says its priority (sd-daemon(3)), so that `journalctl -p warning` finds it.
    """
    stream = stream or sys.stderr
    console = form == "console" or (form == "auto" and stream.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        only_plain,
    ]
    # no local variables in tracebacks: they hold specs and secrets
    rendering: list[structlog.types.Processor]
    if console:
        drawn = structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=_traceback)
        rendering = [_for_terminal, drawn]
    else:
        as_json = structlog.processors.JSONRenderer(serializer=printable.json_text)
        rendering = [structlog.processors.format_exc_info, as_json]
    if journal:
        rendering = [_with_priority(rendering)]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)


def _with_priority(rendering: list[structlog.types.Processor]) -> structlog.types.Processor:
    """What is rendered so, each line of it with its priority before it."""

    def render(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        prefix = _PRIORITIES.get(str(event.get("level", method)), "<6>")
        rendered: Any = event
        for each in rendering:
            rendered = each(logger, method, rendered)
        return "\n".join(f"{prefix}{line}" for line in str(rendered).split("\n"))

    return render


def refused(what: str, why: str) -> None:
    """Log that the program ends because of that."""
    structlog.get_logger(__name__).critical(what, error=why)


def only_plain(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Let plain values through, and of everything else the name of its type. A structlog processor."""
    for key, value in event.items():
        if key not in _OWN_KEYS:
            event[key] = _plain(value, 3)
    return event


def _for_terminal(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Of values in values the renderer shows Python's form, which is fit. A structlog processor."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = printable.line(value)
    return event


def _traceback(stream: TextIO, exc_info: structlog.types.ExcInfo) -> None:
    drawn = io.StringIO()
    structlog.dev.plain_traceback(drawn, exc_info)
    stream.write(printable.lines(drawn.getvalue()))


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= LONGEST else value[:LONGEST] + "…"
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, BaseException):
        return _plain(f"{type(value).__name__}: {value}", depth)
    if depth and type(value) in (list, tuple, set, frozenset):
        return [_plain(item, depth - 1) for item in value]
    if depth and isinstance(value, Mapping) and type(value).__module__ == "builtins":
        return {str(_plain(key, 0)): _plain(item, depth - 1) for key, item in value.items()}
    return f"<{type(value).__name__}>"
