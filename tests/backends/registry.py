"""OCI registries by Debian's docker-registry: open, with passwords, or with tokens; with or without TLS.

What is in one does not belong here: artifacts.py puts it there. Nor does what goes wrong between one and its clients:
webserver.py stands in front.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import shutil
import ssl
import string
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.backends.daemon import Daemon, Inside, Word, here, listens, loopback, run
from tests.backends.webserver import HttpServer, certified

PORT = 15000
"""Not the usual one, where Debian's own docker-registry may listen on every address."""

_TOKEN_PORT = 15001
_ISSUER = "tokens of a test"
_SERVICE = "registry of a test"
_LEEWAY = 60
"""Seconds for which the registry honours tokens that have expired."""

_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_LOGGED = re.compile(rf'\S+ - \S+ \[[^]]*\] "([A-Z]+) (\S+) HTTP/[\d.]+" (\d+) \d+ {_QUOTED} {_QUOTED}')
_BCRYPT = "print crypt($ARGV[0], $ARGV[1])"
_BCRYPT_ALPHABET = "./" + string.ascii_letters + string.digits


@dataclass(frozen=True)
class Logged:
    """A request that a registry has answered."""

    method: str
    path: str
    """With its query."""
    status: int
    agent: str


@dataclass(frozen=True)
class Asked:
    """A request for a token."""

    service: str
    scopes: tuple[str, ...]
    user: str
    """"" for nobody."""
    status: int


class TokenServer:
    """Gives tokens to who knows a password of `users`, or to everybody if there are no users.

    What is asked for is granted. Its attributes may be changed while it serves.
    """

    def __init__(self, directory: Path, address: str, users: Mapping[str, str], tls: Path | None) -> None:
        self.users = dict(users)
        self.asked: list[Asked] = []
        self.lifetime = 300
        """Seconds for which the registry honours a token."""
        self.told_lifetime: int | None = None
        """Seconds that the answer promises, if it is another number."""
        self.fields: tuple[str, ...] = ("token", "access_token")
        """Where in the answer the token is; a server may have either alone."""
        self.status = 0
        """Every answer's, unless 0."""
        self.certificate = directory / f"token-{address}-cert.pem"
        """By which the registry knows the tokens."""
        self._key = directory / f"token-{address}-key.pem"
        self._address, self._tls = address, tls
        self._server: _TokenListener | None = None

    @property
    def url(self) -> str:
        """What a registry names as its realm."""
        return f"{'https' if self._tls else 'http'}://{self._address}:{_TOKEN_PORT}/token"

    def start(self) -> None:
        if not self.certificate.exists():
            new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650"]
            made: list[Word] = ["-keyout", self._key, "-out", self.certificate]
            run(["openssl", "req", "-x509", *new, "-subj", "/CN=tokens of a test", *made])
        if self._server is None:
            self._server = _TokenListener(self, (self._address, _TOKEN_PORT), self._tls)
            self._server.begin()

    def close(self) -> None:
        if self._server is not None:
            self._server.end()
            self._server = None

    def answer(self, query: Mapping[str, list[str]], authorization: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON of an answer."""
        service = query.get("service", [""])[0]
        scopes = tuple(scope for each in query.get("scope", []) for scope in each.split())
        user, password = _basic(authorization)
        knows = self.users.get(user) == password if self.users else not user
        status = self.status or (HTTPStatus.OK if knows else HTTPStatus.UNAUTHORIZED)
        self.asked.append(Asked(service, scopes, user, status))
        if status != HTTPStatus.OK:
            return status, {"details": "incorrect username or password"}
        token = self.token(service, scopes, user)
        lifetime = self.lifetime if self.told_lifetime is None else self.told_lifetime
        return status, {**dict.fromkeys(self.fields, token), "expires_in": lifetime}

    def token(self, service: str, scopes: tuple[str, ...], user: str = "") -> str:
        """A token that opens these scopes, such as repository:NAME:pull,push (the registry's spec/auth/jwt.md)."""
        der = ssl.PEM_cert_to_DER_cert(self.certificate.read_text())
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        claims = {
            "iss": _ISSUER,
            "sub": user,
            "aud": service,
            "iat": int(time.time()),
            "nbf": int(time.time()) - _LEEWAY,
            "exp": int(time.time()) + self.lifetime - _LEEWAY,
            "jti": secrets.token_hex(8),
            "access": [_access(scope) for scope in scopes],
        }
        signed = f"{_coded(json.dumps(header).encode())}.{_coded(json.dumps(claims).encode())}"
        signature = run(["openssl", "dgst", "-sha256", "-sign", self._key], stdin=signed.encode())
        return f"{signed}.{_coded(_two_numbers(signature))}"


class Registry:
    """One registry with its storage below `directory`. `start()` it once made; `close()` it always.

    `daemon` can be frozen and killed. Nothing is cached: what a test does to `blob()` and `forget()` is seen at once.
    `users` are passwords by name; with `tokens` they are asked for them at another port of the same address, which is
    not `inside`, and without users everybody gets a token. `tls` is a directory of certificates for `address`; a
    directory without any gets some. One that is `inside` is filled by another, open one with the same directory.
    """

    def __init__(
        self,
        directory: Path,
        *,
        users: Mapping[str, str] | None = None,
        tokens: bool = False,
        tls: Path | None = None,
        inside: Inside = here,
        address: str = "",
    ) -> None:
        self.directory = directory
        self.address, self.port = address or loopback(), PORT
        self.tokens: TokenServer | None = None
        self._users = dict(users or {})
        self._tls = certified(tls, self.address) if tls else None
        self._storage = directory / "storage"
        self._passwords = directory / f"registry-{self.address}.htpasswd"
        self._log = directory / f"registry-{self.address}.log"
        if tokens:
            self.tokens = TokenServer(directory, self.address, self._users, self._tls)
        elif self._users:
            self._write_passwords()
        settings = directory / f"registry-{self.address}.yml"
        settings.write_text(yaml.safe_dump(self._settings()))
        # Version 3 would look for somebody who collects its traces.
        env = {"OTEL_TRACES_EXPORTER": "none"}
        self.daemon = Daemon(["docker-registry", "serve", settings], self._is_up, self._log, inside, env)

    @property
    def host(self) -> str:
        """With its port, as references to images begin."""
        return f"{self.address}:{self.port}"

    @property
    def url(self) -> str:
        """Without a path, and without a slash at its end."""
        return f"{'https' if self._tls else 'http'}://{self.host}"

    @property
    def ca(self) -> Path | None:
        """Who vouches for it, if it is https."""
        return self._tls / "ca-cert.pem" if self._tls else None

    @property
    def login(self) -> tuple[str, str] | None:
        """The name and password of the first of its users."""
        return next(iter(self._users.items()), None)

    # Life.

    def start(self) -> None:
        """Start it unless it runs, with all that it has, on the same address."""
        if self.tokens:
            self.tokens.start()
        self.daemon.start()

    def close(self) -> None:
        self.daemon.kill()
        if self.tokens:
            self.tokens.close()

    def __enter__(self) -> Registry:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What tests look at, and do to it.

    def requests(self) -> list[Logged]:
        """What it has answered, oldest first; who has an answer may still be ahead of this."""
        if not self._log.exists():
            return []
        lines = map(_LOGGED.match, self._log.read_text(errors="replace").splitlines())
        return [Logged(found[1], found[2], int(found[3]), found[5]) for found in lines if found]

    def let_in(self, user: str, password: str) -> None:
        """From now on this user has this password; only for one that had users or tokens from the beginning."""
        self._users[user] = password
        if self.tokens:
            self.tokens.users[user] = password
        else:
            assert self._passwords.exists(), "it lets in everybody"
            self._write_passwords()

    def blob(self, digest: str) -> Path:
        """The file that it serves under a digest: a test may take it away, or change it."""
        algorithm, _, value = digest.partition(":")
        return self._storage / "docker/registry/v2/blobs" / algorithm / value[:2] / value / "data"

    def forget(self, repository: str, tag: str) -> None:
        """The tag is no more; the manifest is, by its digest."""
        shutil.rmtree(self._storage / "docker/registry/v2/repositories" / repository / "_manifests/tags" / tag)

    # How.

    def _settings(self) -> dict[str, Any]:
        http: dict[str, Any] = {"addr": self.host, "secret": secrets.token_hex(8)}
        if self._tls:
            certificate, key = self._tls / "server-cert.pem", self._tls / "server-key.pem"
            http["tls"] = {"certificate": str(certificate), "key": str(key)}
        settings: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(self._storage)},
                "delete": {"enabled": True},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": http,
        }
        if self.tokens:
            bundle = str(self.tokens.certificate)
            token = {"realm": self.tokens.url, "service": _SERVICE, "issuer": _ISSUER, "rootcertbundle": bundle}
            settings["auth"] = {"token": token}
        elif self._users:
            settings["auth"] = {"htpasswd": {"realm": "a test", "path": str(self._passwords)}}
        return settings

    def _write_passwords(self) -> None:
        lines = [f"{user}:{_bcrypt(password)}\n" for user, password in self._users.items()]
        self._passwords.write_text("".join(lines))

    def _is_up(self, pid: int) -> bool:
        return listens(pid, self.address, self.port)


class _TokenListener(HttpServer):
    def __init__(self, tokens: TokenServer, address: tuple[str, int], tls: Path | None) -> None:
        self.tokens = tokens
        super().__init__(address, _TokenHandler, tls)


class _TokenHandler(BaseHTTPRequestHandler):
    server: _TokenListener

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        status, told = self.server.tokens.answer(query, self.headers.get("Authorization", ""))
        body = json.dumps(told).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
        """Nothing: `asked` has it all."""


def _access(scope: str) -> dict[str, object]:
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    return {"type": kind, "name": name, "actions": actions.split(",")}


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    user, _, password = base64.b64decode(value).decode().partition(":")
    return user, password


def _two_numbers(signature: bytes) -> bytes:
    """An ECDSA signature as JWTs have it: without the DER, in which openssl writes it."""
    end = 4 + signature[3]
    numbers = (signature[4:end], signature[end + 2 :])
    return b"".join(int.from_bytes(number, "big").to_bytes(32, "big") for number in numbers)


def _coded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bcrypt(password: str) -> str:
    """By perl, which every Debian has, and whose crypt is libcrypt's; Python's own is gone since 3.13."""
    salt = "".join(secrets.choice(_BCRYPT_ALPHABET) for _ in range(21))
    hashed = run(["perl", "-e", _BCRYPT, password, f"$2y$04${salt}."]).decode()
    assert hashed.startswith("$2y$"), hashed
    return hashed
