"""One page of a machine for people, of the same plain data that scripts get. What is in it does not belong here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sri_libvirt.cli import output as out
from sri_libvirt.cli.report.shares import COLUMNS, amount
from sri_libvirt.resources import CPU, byte_words, words
from sri_libvirt.views import show as shown


def show(found: Mapping[str, Any]) -> None:
    """Print a page; `found` is what `-o json` gives."""
    if found["gone"]:
        _print_gone(found)
    else:
        _print_here(found)
    if found["events"]:
        out.say()
        rows = [
            (each["time"], each["reason"], _took(each), each["message"] + _times(each["count"]))
            for each in found["events"]
        ]
        out.table(("TIME", "REASON", "TOOK", "MESSAGE"), rows, shorten="MESSAGE")
    for heading, key in (("CONSOLE", "console_log"), ("QEMU", "qemu_log")):
        if lines := found.get(key):
            out.say()
            out.say(f"{heading}, its last lines")
            for line in lines:
                out.say(f"  {line}")


def _print_gone(found: Mapping[str, Any]) -> None:
    run = found["run"] or {}
    facts = {
        "id": found["id"],
        "name": shown.full_name(found["namespace"], found["name"]),
        "class": found["class"],
        "created": found["created"],
        "gone": found["gone"],
        "last guest": _last_guest(run),
    }
    _print_facts(facts)


def _print_here(found: Mapping[str, Any]) -> None:
    domain = found["domain"]
    facts = {
        "id": found["id"],
        "name": shown.full_name(found["namespace"], found["name"]),
        "uid": found["uid"],
        "class": f"{found['class']} ({words(CPU, found['cpu_millis'])}, {byte_words(found['memory_bytes'])})",
        "image": found["image_ref"] or found["image"],
        "created": found["created"],
        "deleted": found["deleted"],
        "state": f"{found['state']}{_since(found['state_since'])}, power {found['power']}",
        "generation": f"{found['generation']}, looked at: {found['observed_generation']}",
        "hardware": " ".join(f"{key}={value}" for key, value in (found["hardware"] or {}).items()),
        "domain": _domain(domain),
        "QEMU": _process(domain),
        "started": found["run"]["started"],
        "last guest": _last_guest(found["run"]),
        "labels": " ".join(f"{key}={value}" for key, value in found["labels"].items()),
        "annotations": " ".join(f"{key}={value}" for key, value in found["annotations"].items()),
    }
    _print_facts(facts)
    for reason in found["reasons"]:
        out.say()
        out.say(f"{reason['message'][:1].upper()}{reason['message'][1:]} ({reason['code']}, since {reason['since']}).")
        if reason["advice"]:
            out.say(f"  {reason['advice']}")
    for note in found["notes"]:
        out.say(f"Note: {note}.")
    out.say()
    _print_devices(found["devices"])
    out.say()
    rows = [(each["for"], *(amount(name, each["claims"]) for name in COLUMNS)) for each in found["claims"]]
    out.table(("CLAIMED FOR", "CPU", "MEMORY", "DISK"), rows)


def _print_facts(facts: Mapping[str, object]) -> None:
    out.table(("", ""), [(key, str(value)) for key, value in facts.items() if value], titled=False)


def _print_devices(devices: Sequence[Mapping[str, Any]]) -> None:
    """As the guest sees them, then as this host has them."""
    names = [f"{each['kind']} {each['name']}".strip() for each in devices]
    seen = [
        (name, each.get("state") or ("" if each["wanted"] else "LEAVING"), each.get("mac") or each.get("serial") or "",
         each["pci_address"] or "")
        for name, each in zip(names, devices, strict=True)
    ]  # fmt: skip
    out.table(("DEVICE", "STATE", "SERIAL OR MAC", "PCI ADDRESS"), seen)
    out.say()
    ours = [
        (name, str(each["port"] or ""), each["alias"], each.get("driver") or "", _place(each),
         _bytes(each.get("size_bytes")), _bytes(each["real_bytes"]), each["handle"] or "")
        for name, each in zip(names, devices, strict=True)
    ]  # fmt: skip
    out.table(("DEVICE", "PORT", "ALIAS", "DRIVER", "FILE OR NETWORK", "SIZE", "USED", "HANDLE"), ours)
    for name, each in zip(names, devices, strict=True):
        if each["problem"]:
            out.say(f"{name}: {each['problem']}")


def _place(device: Mapping[str, Any]) -> str:
    return device["file"] or device.get("backend") or device.get("joined_to") or ""


def _since(time: str | None) -> str:
    return f" since {time}" if time else ""


def _domain(domain: Mapping[str, Any]) -> str:
    if domain["problem"]:
        return f"unknown: {domain['problem']}"
    saved = ", with a managed save" if domain["managed_save"] else ""
    reason = f" ({domain['reason']})" if domain["reason"] else ""
    return f"{domain['state']}{reason}{saved}"


def _process(domain: Mapping[str, Any]) -> str:
    process = domain["process"]
    if domain["process_problem"]:
        return f"unknown: {domain['process_problem']}"
    if process is None:
        return "no process"
    return (
        f"process {process['pid']} for {shown.took(int(process['uptime_seconds'] * 1e9))}, "
        f"{process['cpu_seconds']:g} s of CPU, {byte_words(process['resident_bytes'])} resident, in {process['cgroup']}"
    )


def _last_guest(run: Mapping[str, Any]) -> str:
    if not run.get("stopped"):
        return ""
    return f"stopped at {run['stopped']}: {run['stopped_by']}"


def _took(event: Mapping[str, Any]) -> str:
    return shown.took(int((event["took_seconds"] or 0) * 1e9), event["took_of"] or "")


def _times(count: int) -> str:
    return f" ({count} times)" if count > 1 else ""


def _bytes(size: int | None) -> str:
    return byte_words(size) if size else ""
