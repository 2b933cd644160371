"""What the service manager is told: sd_notify(3), in datagrams of `KEY=VALUE` lines; nothing where there is none.

systemd starts what waits for us once we say READY, and kills and restarts us when no WATCHDOG comes for its
`WatchdogSec`. So a sign of life is sent only after every part of the daemon has just shown that it works: a timer alone
would go on beside a stuck loop. Which parts there are does not belong here (`app.py`), nor reading the environment
(`config.py`).
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from sri_libvirt import printable

log = structlog.get_logger(__name__)

Check = Callable[[], str]
"""Shows that a part works: "" when it does, else what is wrong. May block; one that hangs is a part that hangs."""

SIGNS_PER_PERIOD = 3
"""Two signs of life may be late before the service manager takes us for dead."""


TELL_SECONDS = 1.0
"""How long a service manager that is busy is waited for."""


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """Whom to tell: the path of a datagram socket ("@" begins an abstract one), "" for nobody.

    `watchdog` is how long it waits for a sign of life, in seconds; 0 means for ever.
    """

    address: str = ""
    watchdog: float = 0.0

    def tell(self, **state: str) -> None:
        """Send these variables. A service manager that cannot be told within a second is logged and does no harm."""
        if not self.address:
            return
        lines = "\n".join(f"{key}={printable.line(' '.join(value.split()))}" for key, value in state.items())
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
                door.settimeout(TELL_SECONDS)
                door.sendto(lines.encode(), address)
        except OSError as error:
            log.warning("the service manager cannot be told", told=lines, error=str(error))

    def ready(self, text: str) -> None:
        """We serve: what waits for us may start."""
        self.tell(READY="1", STATUS=text)

    def status(self, text: str) -> None:
        """A line for `systemctl status`."""
        self.tell(STATUS=text)

    def stopping(self) -> None:
        """We were asked to end, and do."""
        self.tell(STOPPING="1", STATUS="stopping; guests run on")


NOBODY = ServiceManager()


class Heart(threading.Thread):
    """Sends signs of life from `start` to `stop`, while every check passes. Does nothing without a watchdog."""

    def __init__(self, manager: ServiceManager, checks: Mapping[str, Check]) -> None:
        super().__init__(name="heart", daemon=True)
        self._manager = manager
        self._checks = checks
        self._ending = threading.Event()

    def start(self) -> None:
        """Beat at once, then several times in each period of the watchdog."""
        if self._manager.watchdog:
            super().start()

    def run(self) -> None:
        while not self._ending.is_set():
            self.beat()
            self._ending.wait(self._manager.watchdog / SIGNS_PER_PERIOD)

    def stop(self) -> None:
        """Beat no more. Does not wait for a check that hangs."""
        self._ending.set()

    def beat(self) -> None:
        """One sign of life, if all checks pass; what does not is logged."""
        for part, check in self._checks.items():
            begun = time.monotonic()
            try:
                problem = check()
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            if self._ending.is_set():
                return  # parts that are being stopped show no sign of life
            if problem:
                log.error("no sign of life is sent to the service manager", part=part, problem=problem,
                          seconds=round(time.monotonic() - begun, 1))  # fmt: skip
                return
        self._manager.tell(WATCHDOG="1")
