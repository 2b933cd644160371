"""Who one is to a registry: read from a file of the form that `docker login`, `skopeo login` and Kubernetes write.

It is read for each question that a registry is asked, so that an edit counts at once. Programs that it names
(`credHelpers`, `credsStore`) are never run. What is done with a password does not belong here.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from pathlib import Path

from sri_libvirt.errors import NotReady
from sri_libvirt.images.reference import Reference, WebFile

_MOST = 1 << 20
_HUB = ("docker.io", "https://index.docker.io/v1/")
"""Docker Hub, and the name under which its credentials are kept."""


def find(file: Path | None, wanted: Reference | WebFile) -> tuple[str, str]:
    """User and password for what is wanted, ("", "") where the file has none. Raises NotReady, without a secret in it.

    Of several entries the longest goes first: one of a repository before one of its registry.
    """
    if file is None:
        return "", ""
    entries = _entries(file)
    for key in _keys(wanted):
        if key in entries:
            return _of_entry(file, key, entries[key])
    return "", ""


def _entries(file: Path) -> dict[str, object]:
    try:
        with file.open("rb") as reading:
            data = json.loads(reading.read(_MOST))
    except OSError as error:
        raise _unfit(file, error.strerror or str(error)) from error
    except ValueError:
        raise _unfit(file, "it is not JSON") from None  # what is wrong in it might be shown with a password
    found = data.get("auths", {}) if isinstance(data, dict) else None
    if not isinstance(found, dict):
        raise _unfit(file, 'it is not {"auths": {"HOST": {"auth": …}}}')
    return {_key(str(name)): entry for name, entry in found.items()}


def _key(name: str) -> str:
    if name == _HUB[1]:
        return _HUB[0]
    return name.removeprefix("https://").removeprefix("http://").rstrip("/")


def _keys(wanted: Reference | WebFile) -> Iterator[str]:
    if isinstance(wanted, WebFile):
        yield wanted.host
        return
    name = wanted.name
    while "/" in name:
        yield name
        name = name.rpartition("/")[0]
    yield name


def _of_entry(file: Path, key: str, entry: object) -> tuple[str, str]:
    fields = entry if isinstance(entry, dict) else {}
    if "auth" in fields:
        try:
            text = base64.b64decode(str(fields["auth"]), validate=True).decode()
        except (binascii.Error, ValueError):
            raise _unfit(file, f"auth of {key} is not base64 text") from None
        user, colon, password = text.partition(":")
        if not colon:
            raise _unfit(file, f"auth of {key} is not USER:PASSWORD in base64")
        return user, password.rstrip("\0")
    pair = (fields.get("username"), fields.get("password"))
    if all(isinstance(each, str) for each in pair):
        return str(pair[0]), str(pair[1])
    raise _unfit(file, f"{key} has neither auth nor username and password; programs that give them are not run")


def _unfit(file: Path, problem: str) -> NotReady:
    return NotReady(f"the file of --registry-auth {file} cannot be used: {problem}", "Make it with `skopeo login`.")
