"""How far a machine's image is that is being fetched: asked of the daemon, for it is no part of any reason."""

from __future__ import annotations

from typing import Any

from sri_libvirt.errors import SRIError
from sri_libvirt.jobs import UNDER_WAY
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import Machine
from sri_libvirt.resources import byte_words

ASK_SECONDS = 3.0


def of_image(paths: StatePaths, machine: Machine) -> dict[str, Any] | None:
    """Bytes, of how many, and for how many seconds; None where nothing is fetched for it, or nobody can say."""
    row = next((row for row in machine.attachments if row.kind == "image"), None)
    if row is None or row.problem_code != UNDER_WAY or not paths.admin_socket.exists():
        return None
    from sri_libvirt.server import admin  # slow to load, and seldom wanted

    try:
        pulls = admin.ask(paths.admin_socket, "images", {}, seconds=ASK_SECONDS)["pulls"]
    except (SRIError, PermissionError):
        return None
    wanted = machine.image.reference if machine.image else row.reference
    of_it = [each for each in pulls if each["source"] == wanted]
    if not of_it:
        return None
    sizes = [each["of"] for each in of_it]
    return {
        "bytes": sum(each["bytes"] for each in of_it),
        "of": None if None in sizes else sum(sizes),
        "seconds": max(each["seconds"] for each in of_it),
    }


def words(pace: dict[str, Any]) -> str:
    """The same in a sentence."""
    of = f" of {byte_words(pace['of'])}" if pace["of"] else ""
    return f"Of its image {byte_words(pace['bytes'])}{of} are here after {pace['seconds']} s."
