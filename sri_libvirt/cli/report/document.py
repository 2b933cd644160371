"""The report as plain data: the interface of `-o json` and `-o yaml`, and what the metrics are made of. Pure.

Keys are added, never renamed or taken away; a change that breaks a reader raises `schema`. Unknown is null. Bytes,
thousandths of a CPU and megabits a second stand in the names. README.md describes it. How it is printed does not belong
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sri_libvirt.capacity.budget import UNLIMITED, Budget
from sri_libvirt.capacity.placement import Offer
from sri_libvirt.cli.report.facts import Report
from sri_libvirt.host.inventory import BlockDevice, Filesystem, HugePages, Inventory, Nic, Node, PciDevice, Sriov
from sri_libvirt.hypervisor import offers
from sri_libvirt.resources import ANYWHERE, CPU, DISK, MEMORY, Usage

SCHEMA = 1


def document(report: Report) -> dict[str, Any]:
    """The whole report."""
    return {
        "schema": SCHEMA,
        "host": _host(report),
        "resources": _resources(report.budget, report.usage),
        "classes": None if report.unknown else [_class(offer) for offer in report.offers],
        "closed": report.closed or None,
        "warnings": list(report.warnings),
    }


def _host(report: Report) -> dict[str, Any]:
    found = report.inventory
    signs, own = found.virtualisation, found.limits
    return {
        "foreign": report.foreign,
        "kernel": signs.kernel,
        "cpu": _cpu(found),
        "memory_bytes": found.memory.total_bytes,
        "memory_available_bytes": found.memory.available_bytes,
        "hugepages": _hugepages(found.memory.hugepages),
        "numa": [_node(node) for node in found.nodes],
        "nics": [_nic(nic) for nic in found.nics],
        "pci": [_pci(device) for device in found.pci],
        "filesystem": _filesystem(found.storage.filesystem),
        "disks": [_disk(device) for device in found.storage.devices],
        "virtualisation": {
            "kvm": report.verdict.kvm,
            "detail": report.verdict.detail or None,
            "extension": signs.extension,
            "guest": signs.guest,
            "nested": signs.nested,
            "iommu": signs.iommu,
            **_hypervisor(report),
        },
        "limits": {
            "cpus": None if own.cpus is None else list(own.cpus),
            "nodes": None if own.nodes is None else list(own.nodes),
            "cpu_millis": own.cpu_millis,
            "memory_bytes": own.memory_bytes,
            "cgroup": own.cgroup,
        },
    }


def _hypervisor(report: Report) -> dict[str, Any]:
    """What libvirt and QEMU offer; all of it unknown before a daemon has asked them."""
    found = report.offer
    if found is None:
        return dict.fromkeys(("libvirt", "qemu", "emulator", "machine_type", "machine_types", "firmware"))
    return {
        "libvirt": offers.version(found.libvirt_version),
        "qemu": offers.version(found.qemu_version),
        "emulator": found.emulator or None,
        "machine_type": found.machine_type or None,
        "machine_types": sorted(found.machine_types),
        "firmware": [
            {"loader": each.loader, "nvram_template": each.nvram_template, "secure_boot": each.secure_boot}
            for each in found.firmware
        ],
    }


def _cpu(found: Inventory) -> dict[str, Any]:
    cpu = found.cpu
    return {
        "architecture": cpu.architecture,
        "vendor": cpu.vendor,
        "model": cpu.model,
        "packages": len(cpu.packages),
        "cores": len(cpu.cores),
        "threads": len(cpu.online),
        "online": list(cpu.online),
        "offline": list(cpu.offline),
        "isolated": list(cpu.isolated),
        "kinds": {kind.name: list(kind.cpus) for kind in cpu.kinds},
    }


def _hugepages(found: Mapping[int, HugePages]) -> dict[str, Any]:
    return {str(size): {"total": pages.total, "free": pages.free} for size, pages in found.items()}


def _node(node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "cpus": list(node.cpus),
        "memory_bytes": node.memory_bytes,
        "memory_free_bytes": node.free_bytes,
        "hugepages": _hugepages(node.hugepages),
        "distances": {str(other): distance for other, distance in node.distances.items()},
    }


def _nic(nic: Nic) -> dict[str, Any]:
    return {
        "name": nic.name,
        "kind": nic.kind,
        "mac": nic.mac,
        "speed_mbps": nic.speed_mbps,
        "mtu": nic.mtu,
        "driver": nic.driver,
        "pci": nic.pci,
        "numa": nic.numa,
        "carrier": nic.carrier,
        "master": nic.master,
        "ports": list(nic.ports),
        "lower": list(nic.lower),
        "vlan": nic.vlan,
        "default_route": nic.default_route,
        "physical_function": nic.physical_function,
        "sriov": None if nic.sriov is None else _sriov(nic.sriov),
    }


def _sriov(found: Sriov) -> dict[str, Any]:
    return {
        "total": found.total,
        "configured": found.configured,
        "free": found.free,
        "functions": [
            {
                "index": function.index,
                "pci": function.pci,
                "driver": function.driver,
                "nic": function.nic,
                "iommu_group": function.iommu_group,
                "free": function.free,
            }
            for function in found.functions
        ],
    }


def _pci(device: PciDevice) -> dict[str, Any]:
    return {
        "address": device.address,
        "vendor": device.vendor,
        "device": device.device,
        "class": device.device_class,
        "gpu": device.gpu,
        "driver": device.driver,
        "iommu_group": device.iommu_group,
        "numa": device.numa,
        "physical_function": device.physical_function,
    }


def _filesystem(found: Filesystem | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "path": found.path,
        "mount_point": found.mount_point,
        "type": found.kind,
        "source": found.source,
        "total_bytes": found.total_bytes,
        "free_bytes": found.free_bytes,
    }


def _disk(device: BlockDevice) -> dict[str, Any]:
    return {
        "name": device.name,
        "size_bytes": device.size_bytes,
        "rotational": device.rotational,
        "removable": device.removable,
        "read_only": device.read_only,
        "model": device.model,
        "numa": device.numa,
        "built": device.built,
    }


def _resources(budget: Budget, usage: Usage | None) -> list[dict[str, Any]]:
    """Of each resource and place what machines can have and have; the whole host first, then its nodes."""
    lines = {line.resource: line for line in budget.lines}
    found = []
    for resource, node in sorted(budget.amounts, key=lambda place: (place[1], _order(place[0]))):
        amount, claimed = budget.of(resource, node), usage.of(resource, node) if usage else None
        line = lines.get(resource) if node == ANYWHERE else None
        limited = amount != UNLIMITED
        total = line.total if line else amount
        found.append(
            {
                "resource": resource,
                "unit": _unit(resource),
                "node": None if node == ANYWHERE else node,
                "total": total if total != UNLIMITED else None,
                "reserved": line.reserved if line else 0,
                "overcommit": float(line.ratio) if line else None,
                "budget": amount if limited else None,
                "claimed": claimed,
                "free": max(0, amount - claimed) if limited and claimed is not None else None,
            }
        )
    return found


def _order(resource: str) -> tuple[int, str]:
    first = (CPU, MEMORY, DISK)
    return (first.index(resource) if resource in first else len(first), resource)


def _unit(resource: str) -> str:
    if resource == CPU:
        return "millis"
    return "bytes" if resource in (MEMORY, DISK) or resource.startswith("hugepages-") else "pieces"


def _class(offer: Offer) -> dict[str, Any]:
    each = offer.machine_class
    return {
        "name": each.name,
        "cpu_millis": each.cpu_millis,
        "memory_bytes": each.memory_bytes,
        "root_disk_bytes": each.policy.root_disk_bytes,
        "quantity": offer.quantity,
        "used": offer.used,
        "free": offer.free,
        "limited_by": offer.limited_by,
    }
