"""Asking a web server for bytes: TLS, proxies, redirects, and what went wrong in one of our words.

Redirects are followed here and not by the library: an Authorization goes to the host that it was made for and to no
other, plain http is spoken to hosts only that the operator has named, and every address is looked at: when it is
connected to (`guard.py`), or before a proxy is asked to.
What a registry is asked, and how an answer is kept, does not belong here.
"""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError, NewConnectionError, ProxyError
from urllib3.exceptions import TimeoutError as Late
from urllib3.response import BaseHTTPResponse

from sri_libvirt import printable
from sri_libvirt.images.fetch.guard import Forbidden, connecting
from sri_libvirt.images.fetch.job import Access, Failure
from sri_libvirt.images.sources import forbidden_name

CONNECT_SECONDS = 10.0
SILENT_SECONDS = 30.0
"""How long a server may say nothing."""

AFTER_MOST = 3600.0

_HOST = re.compile(r"[A-Za-z0-9.\-_:\[\]]{1,260}")
_REDIRECTS = 6
_SHOWN = 200


class Web:
    """All questions of one job."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._pools: dict[str, urllib3.PoolManager] = {}

    def scheme(self, host: str) -> str:
        """How a registry is asked."""
        return "http" if self._is_named(host, self._access.insecure) else "https"

    def basic(self) -> str:
        """The Authorization by a password (RFC 7617); "" where there is none."""
        if not self._access.user:
            return ""
        pair = f"{self._access.user}:{self._access.password}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"

    def get(self, url: str, *, authorization: str = "", headers: dict[str, str] | None = None) -> BaseHTTPResponse:
        """The answer, whatever its status but a redirect, its body unread. Raises Failure."""
        origin = _split(url)
        for _ in range(_REDIRECTS):
            parts = _split(url)
            self._check(parts.scheme, parts.netloc, url)
            sent = {"Accept-Encoding": "identity", **(headers or {})}
            if authorization and (parts.scheme, parts.netloc) == (origin.scheme, origin.netloc):
                sent["Authorization"] = authorization
            response = self._once(url, parts.hostname or "", parts.netloc, sent)
            target = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or not target:
                return response
            response.close()
            url = _joined(url, target)
        raise Failure("refused", f"{origin.netloc} redirects without end")

    def _check(self, scheme: str, host: str, url: str) -> None:
        if scheme == "https" and host:
            return
        if scheme == "http" and self._is_named(host, self._access.insecure):
            return
        if scheme == "http":
            raise Failure(
                "not-allowed", f"{host} is to be asked by plain http, and --insecure-registry does not name it"
            )
        raise _nowhere(url)

    def _once(self, url: str, name: str, host: str, headers: dict[str, str]) -> BaseHTTPResponse:
        proxies = getproxies_environment()
        proxy = proxies.get(urlsplit(url).scheme) or proxies.get("all") or ""
        if proxy and proxy_bypass_environment(name, proxies):
            proxy = ""
        anywhere = self._is_named(host, (*self._access.anywhere, *self._access.insecure))
        try:
            # Of a proxy only what it is told can be judged: names that it resolves are its affair.
            if proxy and not anywhere and (words := forbidden_name(name)):
                raise Forbidden(f"{name}, {words}")
            with connecting(anywhere=anywhere or bool(proxy)):
                return self._pool(proxy).request(
                    "GET", url, headers=headers, preload_content=False, decode_content=False, redirect=False
                )
        except (HTTPError, OSError, ValueError) as error:
            raise failure_of(error, host) from error

    def _pool(self, proxy: str) -> urllib3.PoolManager:
        if proxy not in self._pools:
            settings: dict[str, Any] = {
                "ssl_context": self._context(),
                "timeout": urllib3.Timeout(connect=CONNECT_SECONDS, read=SILENT_SECONDS),
                "retries": False,
            }
            self._pools[proxy] = urllib3.ProxyManager(proxy, **settings) if proxy else urllib3.PoolManager(**settings)
        return self._pools[proxy]

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        # Python 3.13 asks more of an authority's certificate than every other client of registries does.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self._access.ca:
            try:
                context.load_verify_locations(self._access.ca)
            except OSError as error:  # ssl.SSLError is one
                raise Failure("certificate", f"--registry-ca {self._access.ca}: {error.strerror or error}") from error
        return context

    def _is_named(self, host: str, hosts: tuple[str, ...]) -> bool:
        name, colon, port = host.rpartition(":")
        plain = name if colon and port.isdecimal() else host
        return any(each.lower() in (host.lower(), plain.lower()) for each in hosts)


def _split(url: str) -> SplitResult:
    """Its parts; what follows from a redirect is a stranger's word, and goes into messages."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _nowhere(url) from None
    if not _HOST.fullmatch(parts.netloc):
        raise _nowhere(url)
    return parts


def _joined(url: str, target: str) -> str:
    try:
        return urljoin(url, target)
    except ValueError:
        raise _nowhere(target) from None


def _nowhere(url: str) -> Failure:
    return Failure("not-allowed", f"the server sends one to {printable.quote(url[:_SHOWN])}")


def failure_of(error: Exception, host: str) -> Failure:
    """What an exception of the library comes to."""
    for each in _chain(error):
        if isinstance(each, Forbidden):
            return Failure("not-allowed", f"{host} leads to {each}, and no --image-source names that host")
        if isinstance(each, ssl.SSLCertVerificationError):
            return Failure("certificate", f"{host} has no certificate that is trusted here: {each.verify_message}")
    if isinstance(error, ProxyError):
        return Failure("unreachable", "the proxy of this host's environment does not let one through")
    if isinstance(error, Late) and not isinstance(error, NewConnectionError):  # which was refused, or has no address
        return Failure("unreachable", f"{host} is silent")
    if isinstance(error, LocationParseError):
        return Failure("refused", f"{host} is not the name of a host")
    return Failure("unreachable", f"{host} cannot be reached: {_words(error)}")


def status_failure(response: BaseHTTPResponse, host: str, what: str) -> Failure:
    """What an answer other than the one that was asked for comes to. `what` is what was asked for."""
    status = response.status
    if status == 404:
        return Failure("not-found", f"{host} does not have {what}")
    if status in (401, 403):
        return Failure("unauthorised", f"{host} does not give {what} to who asks (status {status})")
    if status == 429 or status >= 500:
        return Failure("unreachable", f"{host} answers {status}", after=_retry_after(response))
    return Failure("refused", f"{host} answers {status} when asked for {what}")


def _retry_after(response: BaseHTTPResponse) -> float:
    """Seconds of a Retry-After, 0 without one that can be read; it may be a date (RFC 9110, 10.2.3)."""
    text = response.headers.get("Retry-After") or ""
    if text.isdecimal():
        return min(float(text), AFTER_MOST)
    try:
        here = parsedate_to_datetime(response.headers.get("Date") or "")
        return max(0.0, min((parsedate_to_datetime(text) - here).total_seconds(), AFTER_MOST))
    except (TypeError, ValueError):
        return 0.0


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, what it came of, and what the library has put in it as an argument."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        each = todo.pop()
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        todo += [each.__cause__, each.__context__, *each.args]


def _words(error: Exception) -> str:
    """The innermost system's word on it, else what the library says, without addresses of objects."""
    for each in _chain(error):
        if isinstance(each, OSError) and each.strerror:
            return each.strerror
    return printable.line(str(error).rpartition(": ")[2])[:_SHOWN] or type(error).__name__
