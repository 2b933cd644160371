"""What of a domain is not as it was asked for, in words.

libvirt drops what it does not understand without a word (an alias with a dot, for one), and an operator's template may
have lost something, so what is rendered and what was defined are read and compared. Reading XML does not belong here
(that is `observed.py`), nor what follows from a difference.
"""

from __future__ import annotations

from sri_libvirt.domain import access, observed
from sri_libvirt.domain.observed import Link, ObservedDevice, ObservedDomain, place_of
from sri_libvirt.domain.spec import Disk, DomainSpec, Nic

_BOOT = ("loader", "nvram_template", "kernel", "initramfs", "command_line")
_OF_DEVICE = ("port", "target", "serial", "mac")
_OF_INTERFACE = (*_OF_DEVICE, "source", "link")


def expected(spec: DomainSpec) -> ObservedDomain:
    """What the XML of a spec must say."""
    layout, firmware, kernel = spec.layout, spec.firmware, spec.kernel
    fixed = {"virtio-serial": layout.virtio_serial, "balloon": layout.balloon, "rng": layout.rng}
    ports = {f"root port {port.index}": port.address for port in layout.root_ports}
    devices = [*map(_expected, spec.disks), *map(_expected, spec.nics)]
    return ObservedDomain(
        instance=spec.marks.instance,
        machine_id=spec.marks.id,
        run=spec.marks.run,
        domain_type=spec.domain_type,
        machine_type=spec.machine_type,
        loader=firmware.loader if firmware else "",
        nvram=firmware.nvram if firmware else "",
        nvram_template=firmware.nvram_template if firmware else "",
        kernel=kernel.path if kernel else "",
        initramfs=kernel.initramfs if kernel else "",
        command_line=kernel.command_line if kernel else "",
        addresses={name: place_of(address) for name, address in {**ports, **fixed}.items()},
        devices={device.alias: device for device in devices},
        memory_kib=spec.memory_kib,
        vcpus=spec.cpu.vcpus,
    )


def differences(asked: ObservedDomain, got: ObservedDomain) -> list[str]:
    """What of one is not so in the other, in words; empty when all is there and nothing of ours is there besides."""
    found = []
    for word in ("instance", "machine_id", "run", "domain_type", "machine_type", *_BOOT, "nvram"):
        found += _difference(word.replace("_", " "), getattr(asked, word), getattr(got, word))
    for name, place in asked.addresses.items():
        found += _difference(f"address of {name}", place, got.addresses.get(name, ""))
    for alias, device in asked.devices.items():
        other = got.devices.get(alias)
        if other is None:
            found.append(f"{device.kind} {alias} is missing")
            continue
        found += _of_device(device, other)
    found += [f"{got.devices[alias].kind} {alias} was not asked for" for alias in got.devices.keys() - asked.devices]
    return found


def facts(domain: ObservedDomain) -> dict[str, str]:
    """All that is looked at of a domain but its run, by what it is called; the same of equal ones."""
    words = ("instance", "machine_id", "domain_type", "machine_type", *_BOOT, "nvram", "memory_kib", "vcpus")
    found = {word.replace("_", " "): str(getattr(domain, word)) for word in words}
    found |= {f"address of {name}": place for name, place in sorted(domain.addresses.items())}
    for alias, device in sorted(domain.devices.items()):
        for word in ("kind", *_OF_INTERFACE):
            found[f"{word} of {alias}"] = str(getattr(device, word))
        found |= {f"{word} of {alias}": value for word, value in device.access.items()}
    found |= {f"another device, {words}": "" for words in sorted(domain.others)}
    return {name: value for name, value in found.items() if value or name.startswith("another")}


def undone(before: ObservedDomain, asked: ObservedDomain) -> list[str]:
    """What a define undoes that nobody but others can have changed: we never change it of a machine, or never made it.

    Which devices there are is not told, nor the run, nor a disk's source: those change by our own doing.
    """
    found = []
    for word in ("domain_type", "machine_type", *_BOOT, "memory_kib", "vcpus"):
        found += _difference(word.replace("_", " "), str(getattr(asked, word)), str(getattr(before, word)))
    for name, place in asked.addresses.items():
        found += _difference(f"address of {name}", place, before.addresses.get(name, ""))
    for alias in asked.devices.keys() & before.devices.keys():
        device, other = asked.devices[alias], before.devices[alias]
        words = _OF_INTERFACE if device.kind == "interface" and other.source else _OF_DEVICE
        for word in words:
            found += _difference(f"{word} of {alias}", str(getattr(device, word)), str(getattr(other, word)))
    return found + [f"there was {words}" for words in sorted(before.others - asked.others)]


def verify(spec: DomainSpec, text: str) -> list[str]:
    """What of a spec is not in an XML, in words: in a template's, or in what libvirt gives back after a define."""
    return differences(expected(spec), observed.read(text))


def verify_device(device: Disk | Nic, text: str) -> list[str]:
    """The same of one device that is to be plugged."""
    asked, got = _expected(device), observed.read_device(text)
    return [*_difference("alias", asked.alias, got.alias), *_of_device(asked, got)]


def _expected(device: Disk | Nic) -> ObservedDevice:
    if isinstance(device, Nic):
        link = str(_link(device))
        return ObservedDevice(device.alias, "interface", device.port, device.source, mac=device.mac, link=link)
    return ObservedDevice(
        alias=device.alias,
        kind="disk",
        port=device.port,
        source=device.source,
        target=device.target,
        serial=device.serial,
        access=access.of_disk(device),
    )


def _link(nic: Nic) -> Link:
    return Link(
        unmanaged=nic.kind in ("isolated", "tap"),
        mode=nic.mode,
        interface_id=nic.interface_id,
        trunk=bool(nic.trunk),
        vlans=nic.trunk or ((nic.vlan,) if nic.vlan else ()),
        isolated_port=nic.isolated_port,
        filter=nic.filter,
        values=tuple(value for _, value in nic.parameters),
    )


def _of_device(asked: ObservedDevice, got: ObservedDevice) -> list[str]:
    found = []
    for word in ("kind", "port", "source", "target", "serial", "mac", "link"):
        found += _difference(f"{word} of {asked.alias}", str(getattr(asked, word)), str(getattr(got, word)))
    for word in dict.fromkeys((*asked.access, *got.access)):
        found += _difference(f"{word} of {asked.alias}", asked.access.get(word, ""), got.access.get(word, ""))
    return found


def _difference(what: str, asked: str, got: str) -> list[str]:
    return [] if asked == got else [f"{what} is {got!r}, not {asked!r}"]
