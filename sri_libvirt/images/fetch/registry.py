"""The half of the OCI distribution protocol that pulls: manifests, blobs, and who one is.

A registry says by a challenge (RFC 9110, 11.6.1) what it wants to see: a password (Basic), or a token that another
server gives for one (Bearer; distribution's docs/content/spec/auth/token.md). How servers are asked does not belong
here, nor what a manifest means.
"""

from __future__ import annotations

import hashlib
import json
from urllib.parse import urlencode, urlsplit
from urllib.request import parse_http_list, parse_keqv_list

from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from sri_libvirt.images.fetch import manifest
from sri_libvirt.images.fetch.job import Access, Failure, Resolved
from sri_libvirt.images.fetch.manifest import NotAnImage
from sri_libvirt.images.fetch.web import Web, failure_of, status_failure

_ACCEPT = ", ".join(sorted(manifest.MANIFEST_TYPES | manifest.INDEX_TYPES))
_TOKEN_BYTES = 1 << 20
_PIECE = 1 << 16
_HUB = {"docker.io": "registry-1.docker.io"}
"""Docker Hub's references name another host than the one that is asked."""


class Registry:
    """One repository of a registry."""

    def __init__(self, web: Web, access: Access, host: str, repository: str) -> None:
        self._web = web
        self._access = access
        self._host = _HUB.get(host, host)
        self._repository = repository
        self._root = f"{web.scheme(host)}://{self._host}/v2/{repository}"
        self._authorization = ""

    def resolve(self, version: str, machine: str) -> Resolved:
        """What a tag or digest means for machines of this architecture. Raises Failure."""
        try:
            digest, kind, found = self._manifest(version)
            if kind in manifest.INDEX_TYPES:
                chosen = manifest.choose(found, machine)
                digest, kind, found = self._manifest(chosen.digest)
                if kind in manifest.INDEX_TYPES:
                    raise NotAnImage("its index leads to another index")
            config = manifest.config_of(found)
            data = self._small("blobs", config.digest, "the image's config", config.size) if config else b"{}"
            return Resolved(digest, manifest.read(found, manifest.document(data)))
        except NotAnImage as error:
            raise Failure("not-an-image", f"{self._host}/{self._repository} is not an image: {error}") from error

    def blob(self, digest: str, offset: int) -> BaseHTTPResponse:
        """The answer to a question for a blob from a byte on, its body unread: 200, 206 or 416. Raises Failure."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response = self._get(f"blobs/{digest}", headers)
        if response.status not in (200, 206, 416):
            raise self._refused(response, f"the blob {digest}")
        return response

    def _manifest(self, version: str) -> tuple[str, str, dict[str, object]]:
        """Digest, media type and text of a manifest or index. Raises Failure, NotAnImage."""
        response = self._get(f"manifests/{version}", {"Accept": _ACCEPT})
        if response.status != 200:
            raise self._refused(response, f"an image {self._repository} called {version}")
        data = self._body(response, manifest.MANIFEST_BYTES, "its manifest")
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        told = response.headers.get("Docker-Content-Digest") or digest
        if version.startswith("sha256:") and digest != version:
            raise Failure("digest-wrong", f"{self._host} gives something else for {version}: it has {digest}")
        if told.startswith("sha256:") and told != digest:
            raise Failure("digest-wrong", f"{self._host} calls the manifest of {version} {told}, and it has {digest}")
        found = manifest.document(data)
        return digest, manifest.media_type(found, response.headers.get("Content-Type") or ""), found

    def _small(self, kind: str, digest: str, what: str, size: int) -> bytes:
        """A blob that is kept in memory. Raises Failure."""
        response = self._get(f"{kind}/{digest}", {})
        if response.status != 200:
            raise self._refused(response, what)
        data = self._body(response, size, what)
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise Failure("digest-wrong", f"{self._host} gives something else for {what}, {digest}")
        return data

    def _body(self, response: BaseHTTPResponse, most: int, what: str) -> bytes:
        """A body of at most so many bytes. Raises Failure."""
        pieces, size = [], 0
        try:
            for piece in response.stream(_PIECE, decode_content=False):
                size += len(piece)
                if size > most:
                    raise Failure("not-an-image", f"{what} has more than {most} bytes")
                pieces.append(piece)
        except (HTTPError, OSError) as error:
            raise failure_of(error, self._host) from error
        finally:
            response.close()
        return b"".join(pieces)

    def _get(self, path: str, headers: dict[str, str]) -> BaseHTTPResponse:
        """The answer, after a challenge was met once. Raises Failure."""
        url = f"{self._root}/{path}"
        response = self._web.get(url, authorization=self._authorization, headers=headers)
        if response.status != 401:
            return response
        challenge = response.headers.get("WWW-Authenticate") or ""
        response.close()
        self._authorization = self._met(challenge)
        return self._web.get(url, authorization=self._authorization, headers=headers)

    def _met(self, challenge: str) -> str:
        """What is sent from now on. Raises Failure."""
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic":
            if not self._access.user:
                raise Failure("unauthorised", f"{self._host} wants a password, and none is known for it")
            return self._web.basic()
        if scheme.lower() != "bearer":
            raise Failure("unauthorised", f"{self._host} wants a proof of a kind that is not known here")
        try:
            fields = parse_keqv_list(parse_http_list(rest))
        except (ValueError, IndexError):  # the latter of a value that is empty
            raise Failure("refused", f"{self._host} asks for a token in a way that cannot be read") from None
        return f"Bearer {self._token(fields)}"

    def _token(self, fields: dict[str, str]) -> str:
        query = {"scope": fields.get("scope") or f"repository:{self._repository}:pull"}
        if "service" in fields:
            query["service"] = fields["service"]
        realm = fields.get("realm", "")
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
        response = self._web.get(url, authorization=self._web.basic())
        if response.status != 200:
            raise status_failure(response, urlsplit(realm).netloc, f"a token for {self._repository}")
        data = self._body(response, _TOKEN_BYTES, "the token")
        try:
            answer = json.loads(data)
            token = answer.get("token") or answer["access_token"]
        except (ValueError, KeyError, AttributeError, RecursionError):
            raise Failure("refused", f"{urlsplit(realm).netloc} gives no token that can be read") from None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise Failure("refused", f"{urlsplit(realm).netloc} gives no token that can be read")
        return token

    def _refused(self, response: BaseHTTPResponse, what: str) -> Failure:
        response.close()
        return status_failure(response, self._host, what)
