"""What an image reference says: an artifact of a registry, or a file of a web server. Pure; nothing is asked.

The grammar of the former is that of the OCI distribution specification and Docker's `reference` package, but for what
these add by themselves: there is no default registry, so Docker's short names are none. Paths of this host do not
belong here (`local.py`), nor which of what can be named may be fetched (`sources.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

OCI = "oci://"
WEB = ("http://", "https://")

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]+\])(?::[0-9]{{1,5}})?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_REPOSITORY_MOST = 255
_URL_MOST = 2048
_IN_URL = re.compile(r"[!-~]+")
_CLIMBS = re.compile(r"(?:^|/)\.{1,2}(?:/|$)|\\")


@dataclass(frozen=True, slots=True)
class Reference:
    """An artifact: `registry` is a host with its port where one is named, `digest` is "" or `sha256:…` and goes before
    the tag."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def version(self) -> str:
        """What the registry is asked for: the digest, or the tag."""
        return self.digest or self.tag

    def at(self, digest: str) -> str:
        """The same by its content: `registry/repository@sha256:…`."""
        return f"{self.name}@{digest}"

    def __str__(self) -> str:
        return self.at(self.digest) if self.digest else f"{self.name}:{self.tag}"


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file of a web server; `digest` is what it must be, `sha256:…`, or ""."""

    url: str
    digest: str = ""

    @property
    def host(self) -> str:
        """Whose it is, with its port where one is named."""
        return urlsplit(self.url).netloc

    def at(self, digest: str) -> str:
        """The same by its content, in the form of a reference."""
        return f"{self.url}#{digest.replace(':', '=')}"

    def __str__(self) -> str:
        return self.at(self.digest) if self.digest else self.url


def parse(image: str) -> Reference | WebFile:
    """The parts of a reference. Raises ValueError with a sentence for what is none."""
    if image.lower().startswith(WEB):
        return _web(image)
    return _artifact(image)


def _artifact(image: str) -> Reference:
    text = image[len(OCI) :] if image.lower().startswith(OCI) else image
    named, _, digest = text.partition("@")
    if digest and not DIGEST.fullmatch(digest):
        raise ValueError("its digest is not sha256: and 64 hexadecimal digits")
    registry, slash, rest = named.partition("/")
    if not _names_registry(registry) or not slash:
        raise ValueError(_short_name(named))
    if not _HOST.fullmatch(registry):
        raise ValueError(f"{registry!r} is not the host of a registry")
    repository, colon, tag = rest.partition(":")
    if not _REPOSITORY.fullmatch(repository) or len(repository) > _REPOSITORY_MOST:
        raise ValueError("its repository is not small letters, digits and . _ - between slashes")
    if colon and not _TAG.fullmatch(tag):
        raise ValueError("its tag is not letters, digits and . _ -, at most 128 of them")
    return Reference(registry, repository, tag if colon else "" if digest else "latest", digest)


def _names_registry(word: str) -> bool:
    """Docker's rule for what comes before the first slash: a host has a dot or a port, or is localhost."""
    return "." in word or ":" in word or word == "localhost"


def _short_name(name: str) -> str:
    plain = name.partition(":")[0]
    if not _REPOSITORY.fullmatch(plain):
        return "it is no path, URL or registry/repository:tag"
    full = name if "/" in plain else f"library/{name}"
    return f"its registry is not named, and there is no default one: write docker.io/{full} if Docker Hub is meant"


def _web(image: str) -> WebFile:
    url, sharp, fragment = image.partition("#")
    digest = fragment.replace("sha256=", "sha256:", 1)
    if sharp and (not fragment.startswith("sha256=") or not DIGEST.fullmatch(digest)):
        raise ValueError("what follows its # is not sha256= and 64 hexadecimal digits")
    if len(url) > _URL_MOST or not _IN_URL.fullmatch(url):
        raise ValueError(f"it is not a URL of at most {_URL_MOST} visible ASCII characters")
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("it holds a user or a password: credentials belong into the file of --registry-auth")
    if not _HOST.fullmatch(parts.netloc) or not parts.path.strip("/"):
        raise ValueError("it names no file of a host")
    if _CLIMBS.search(unquote(parts.path)) or "%2f" in parts.path.lower():
        raise ValueError("its path holds '.', '..', a backslash or a slash as %2F, which servers read as they like")
    return WebFile(url, digest)
