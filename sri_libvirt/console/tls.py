"""The certificate of the consoles' listener, read again once its files are others: certificates are renewed under a
daemon that runs.

Who asks for it does not belong here (`server.py`).
"""

from __future__ import annotations

import ssl
from pathlib import Path

import structlog

from sri_libvirt.errors import ConfigError

log = structlog.get_logger(__name__)

_Seen = tuple[tuple[int, int, int], ...]


class Certificate:
    """Two PEM files: the certificate with what leads to its authority, and its key."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._seen: _Seen = ()
        self._context: ssl.SSLContext | None = None
        self._doubted = ""

    def context(self) -> ssl.SSLContext:
        """For the next client. While what is there now cannot be used it is what was there before; raises ConfigError
        where that is nothing."""
        try:
            seen = tuple(
                (each.st_ino, each.st_mtime_ns, each.st_size) for each in (file.stat() for file in self._files)
            )
            if self._context is None or seen != self._seen:
                self._context, self._seen, self._doubted = self._loaded(), seen, ""
        except OSError as error:  # an SSLError is one
            words = self._words(error)
            if self._context is None:
                raise ConfigError(words) from error
            if words != self._doubted:
                self._doubted = words
                log.warning("consoles are served with the certificate that was there before", problem=words)
        return self._context

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._files, password="")  # a key that is locked is an error, and asks nobody
        return context

    def _words(self, error: OSError) -> str:
        certificate, key = self._files
        words = error.strerror or str(error)
        if isinstance(error, ssl.SSLError):
            words = (error.reason or "no PEM").replace("_", " ").lower()
        return f"--streaming-cert {certificate} and --streaming-key {key} cannot be used: {words}"


def certificate(cert: Path | None, key: Path | None) -> Certificate | None:
    """What an operator has named, known to be of use; None where nothing is. Raises ConfigError."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ConfigError("--streaming-cert and --streaming-key are given together, or neither is")
    found = Certificate(cert, key)
    found.context()
    return found
