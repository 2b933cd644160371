"""What the provider tells a fetcher, and hears of it: one job by standard input, lines of JSON by standard output.

Each line is one of: `{"progress": [done, of]}` in bytes, `of` null where nobody knows; `{"need": more}`, the bytes that
are about to be written from now on, as far as they are known now, of which the provider may think that they are too
many: it ends the fetcher then; `{"result": {…}}`, the last one of a job that is done; `{"failure": {…}}`, that of one
that is not. Plain data on both sides, so that the provider imports nothing that the fetcher needs. Doing a job does not
belong here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sri_libvirt.errors import SRIError
from sri_libvirt.images.content import Blob, Content, Part, content_of

Code = Literal[
    "not-found",
    "unauthorised",
    "unreachable",
    "certificate",
    "not-allowed",
    "digest-wrong",
    "too-large",
    "no-room",
    "not-an-image",
    "damaged",
    "refused",
]
"""Why a job is not done. "refused": the server answers and will not give it, now or ever."""


class Failure(SRIError):
    """A job that is not done: `code` is the reason, `after` the seconds that the server wants to be left alone, 0 for
    none. `final`: the same bytes can never be otherwise."""

    def __init__(self, code: Code, problem: str, *, after: float = 0.0, final: bool = False) -> None:
        super().__init__(problem)
        self.code: Code = code
        self.after = after
        self.final = final


@dataclass(frozen=True, slots=True)
class Access:
    """How servers may be asked. `insecure` hosts are asked by plain http, `anywhere` are those that the operator has
    named, wherever they are; `ca` is a file of authorities besides the system's, "" for none."""

    insecure: tuple[str, ...] = ()
    anywhere: tuple[str, ...] = ()
    ca: str = ""
    user: str = ""
    password: str = ""


@dataclass(frozen=True, slots=True)
class Resolve:
    """Ask a registry what a reference means, for machines of this architecture (`uname -m`)."""

    registry: str
    repository: str
    version: str
    machine: str
    access: Access


@dataclass(frozen=True, slots=True)
class Pull:
    """Fetch a part into `directory`, where at most `most` bytes may be written in all."""

    directory: str
    most: int
    access: Access
    part: Part


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference means now: the digest of its manifest, and what that holds."""

    digest: str
    content: Content


@dataclass(frozen=True, slots=True)
class Pulled:
    """A file that is whole, synced and not named yet: where, its digest and its bytes. `fetched` is the digest of what
    the server gave, which differs where that was packed, `validator` a web server's word for it, "" without one that is
    to be trusted. All are empty where what is here already is still right."""

    path: str
    digest: str
    size: int
    fetched: str
    validator: str = ""


UNCHANGED = Pulled("", "", 0, "")


def encode(job: Resolve | Pull) -> bytes:
    """One line for a fetcher's standard input. It holds a password."""
    return json.dumps({"job": type(job).__name__, **asdict(job)}).encode() + b"\n"


def decode(data: bytes) -> Resolve | Pull:
    """What `encode` made."""
    fields: dict[str, Any] = json.loads(data)
    kind, access = fields.pop("job"), fields.pop("access")
    insecure, anywhere = tuple(access.pop("insecure")), tuple(access.pop("anywhere"))
    fields["access"] = Access(insecure, anywhere, **access)
    if kind == "Resolve":
        return Resolve(**fields)
    part = fields.pop("part")
    part["blobs"] = tuple(Blob(**each) for each in part["blobs"])
    return Pull(**fields, part=Part(**part))


def result(done: Resolved | Pulled) -> dict[str, Any]:
    """The last line of a job that is done."""
    if isinstance(done, Resolved):
        return {"result": {"digest": done.digest, "content": done.content.to_json()}}
    return {"result": asdict(done)}


def resolved(fields: Mapping[str, Any]) -> Resolved:
    """A result of `Resolve`."""
    return Resolved(fields["digest"], content_of(fields["content"]))


def pulled(fields: Mapping[str, Any]) -> Pulled:
    """A result of `Pull`."""
    return Pulled(**fields)


def failure(error: Failure) -> dict[str, Any]:
    """The last line of a job that is not done."""
    return {"failure": {"code": error.code, "problem": str(error), "after": error.after, "final": error.final}}
