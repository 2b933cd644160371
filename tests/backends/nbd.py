"""NBD servers by qemu-nbd: by address or unix socket, with or without TLS.

A frozen one is a server that accepts and hangs, which is what QEMU waits for without end.
"""

from __future__ import annotations

from pathlib import Path

from tests.backends.daemon import Daemon, Inside, Word, here, listens, loopback, run

_PORT = 20809


class NbdServer:
    """One export of a raw file. `start()` it once made; `close()` it always. `daemon` can be frozen and killed.

    `tls` is a directory of `certificates`; `socket` takes the place of an address.
    """

    def __init__(
        self, file: Path, export: str, inside: Inside = here, *, tls: Path | None = None, socket: Path | None = None
    ) -> None:
        self.host, self.port = loopback(), _PORT
        self.socket = socket
        where = ["-k", str(socket)] if socket else ["-b", self.host, "-p", str(self.port)]
        creds = ["--object", f"tls-creds-x509,id=t,dir={tls},endpoint=server,verify-peer=no", "--tls-creds", "t"]
        self._argv = ["qemu-nbd", "-t", "-e", "16", "-f", "raw", *where, *(creds if tls else []), str(file), "-x"]
        self._log = file.with_name(f"{file.name}.nbd.log")
        self._inside = inside
        self.daemon = self._daemon(export)

    def start(self) -> None:
        """Start it unless it runs, on the same address."""
        self.daemon.start()

    def serve(self, export: str) -> None:
        """From now on the file is served under this name alone."""
        self.close()
        self.daemon = self._daemon(export)
        self.start()

    def close(self) -> None:
        self.daemon.kill()

    def __enter__(self) -> NbdServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _daemon(self, export: str) -> Daemon:
        return Daemon([*self._argv, export], self._is_up, self._log, self._inside)

    def _is_up(self, pid: int) -> bool:
        return self.socket.is_socket() if self.socket else listens(pid, self.host, self.port)


def certificates(directory: Path, host: str = "localhost") -> Path:
    """An authority and a server's certificate and key below `directory`, under the names that QEMU looks for."""
    directory.mkdir(exist_ok=True)
    ca, key = directory / "ca-cert.pem", directory / "ca-key.pem"
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650"]
    signs = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]  # else Python 3.13 takes it for none
    run(["openssl", "req", "-x509", *new, *signs, "-subj", "/CN=authority of a test", "-keyout", key, "-out", ca])
    alternative = f"subjectAltName={'IP' if host[0].isdecimal() else 'DNS'}:{host}"
    names = ["-subj", f"/CN={host}", "-addext", alternative, "-addext", "basicConstraints=critical,CA:FALSE"]
    made: list[Word] = ["-keyout", directory / "server-key.pem", "-out", directory / "server-cert.pem"]
    run(["openssl", "req", "-x509", *new, *names, "-CA", ca, "-CAkey", key, *made])
    return directory
