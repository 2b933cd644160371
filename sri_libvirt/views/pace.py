"""How far a machine's image is that is being fetched: the daemon knows it, for it is no part of any reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sri_libvirt.errors import UNDER_WAY, SRIError
from sri_libvirt.records import Machine


def of_image(daemon: Callable[[str, Mapping[str, Any]], Any], machine: Machine) -> dict[str, Any] | None:
    """Bytes, of how many, and for how many seconds; None where nothing is fetched for it, or nobody can say."""
    row = next((row for row in machine.attachments if row.kind == "image"), None)
    if row is None or row.problem_code != UNDER_WAY:
        return None
    try:
        pulls = daemon("images", {})["pulls"]
    except SRIError:
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
