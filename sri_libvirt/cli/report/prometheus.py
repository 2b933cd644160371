"""The report as metrics, in Prometheus' text format: for a node exporter's textfile collector, or a cron job. Pure.

Units are Prometheus' base units and stand in the names; what is unknown has no sample. The daemon's own metrics are
not here (metrics.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sri_libvirt import printable

_PREFIX = "sri_libvirt_"


@dataclass
class _Gauge:
    """One metric: its name without the prefix, and a line of help."""

    name: str
    help: str
    samples: list[str] = field(default_factory=list)

    def add(self, value: float | bool | None, **labels: object) -> None:
        """A sample, unless its value is unknown."""
        if value is None:
            return
        text = ",".join(f'{name.rstrip("_")}="{label(each)}"' for name, each in labels.items())
        self.samples.append(f"{_PREFIX}{self.name}{f'{{{text}}}' if text else ''} {number(value)}")

    def lines(self) -> Iterator[str]:
        if self.samples:
            yield f"# HELP {_PREFIX}{self.name} {self.help}"
            yield f"# TYPE {_PREFIX}{self.name} gauge"
            yield from self.samples


def label(value: object) -> str:
    """A label's value, escaped; unknown is "", which Prometheus takes for no label at all."""
    return "" if value is None else printable.label(str(value))


def number(value: float | bool) -> str:
    """A sample's value; whole numbers without a point, so that no byte is lost."""
    return str(int(value)) if value == int(value) else repr(float(value))


def text(document: Mapping[str, Any]) -> str:
    """The metrics of a report's document."""
    gauges = [*_host(document["host"]), *_resources(document["resources"]), *_classes(document)]
    return "".join(f"{line}\n" for gauge in gauges for line in gauge.lines())


def _host(host: Mapping[str, Any]) -> Iterator[_Gauge]:
    cpu = host["cpu"]
    info = _Gauge("host_info", "What this host is.")
    info.add(1, architecture=cpu["architecture"], model=cpu["model"], kernel=host["kernel"])
    software = _Gauge("host_hypervisor_info", "What runs the guests of this host, when libvirt was asked last.")
    virtualisation = host["virtualisation"]
    if virtualisation["libvirt"]:
        software.add(1, **{name: virtualisation[name] for name in ("libvirt", "qemu", "machine_type")})
    kvm = _Gauge("host_kvm", "1 if guests run by KVM, 0 if they are emulated.")
    kvm.add(virtualisation["kvm"])
    yield from (info, software, kvm)
    for what in ("packages", "cores", "threads"):
        gauge = _Gauge(f"host_cpu_{what}", f"Online CPU {what}.")
        gauge.add(cpu[what])
        yield gauge
    memory = _Gauge("host_memory_bytes", "All memory of the host.")
    memory.add(host["memory_bytes"])
    yield memory
    yield from _nodes(host["numa"])
    yield from _nics(host["nics"])
    yield from _devices(host)


def _nodes(nodes: list[dict[str, Any]]) -> Iterator[_Gauge]:
    cpus = _Gauge("numa_node_cpus", "Online CPUs of a NUMA node.")
    memory = _Gauge("numa_node_memory_bytes", "Memory of a NUMA node.")
    free = _Gauge("numa_node_memory_free_bytes", "Memory of a NUMA node that nothing uses.")
    pages = _Gauge("numa_node_hugepages", "Huge pages of a NUMA node, by their size.")
    unused = _Gauge("numa_node_hugepages_free", "Huge pages of a NUMA node that nothing uses.")
    distances = _Gauge("numa_node_distance", "Distance of NUMA nodes; 10 is a node to itself.")
    for node in nodes:
        cpus.add(len(node["cpus"]), node=node["id"])
        memory.add(node["memory_bytes"], node=node["id"])
        free.add(node["memory_free_bytes"], node=node["id"])
        for size, each in node["hugepages"].items():
            pages.add(each["total"], node=node["id"], size_bytes=int(size) * 1024)
            unused.add(each["free"], node=node["id"], size_bytes=int(size) * 1024)
        for other, distance in node["distances"].items():
            distances.add(distance, node=node["id"], to=other)
    yield from (cpus, memory, free, pages, unused, distances)


def _nics(nics: list[dict[str, Any]]) -> Iterator[_Gauge]:
    info = _Gauge("nic_info", "A network interface.")
    carrier = _Gauge("nic_carrier", "1 if there is a link.")
    speed = _Gauge("nic_speed_bytes_per_second", "Speed of the link.")
    functions = _Gauge("nic_virtual_functions", "SR-IOV functions of a card: all it could have, configured, and free.")
    for nic in nics:
        info.add(1, **{key: nic[key] for key in ("name", "kind", "mac", "driver", "pci", "numa", "master")})
        carrier.add(nic["carrier"], name=nic["name"])
        speed.add(None if nic["speed_mbps"] is None else nic["speed_mbps"] * 125_000, name=nic["name"])
        for state in ("total", "configured", "free") if nic["sriov"] else ():
            functions.add(nic["sriov"][state], name=nic["name"], state=state)
    yield from (info, carrier, speed, functions)


def _devices(host: Mapping[str, Any]) -> Iterator[_Gauge]:
    pci = _Gauge("pci_device_info", "A PCI device that a machine could get.")
    keys = ("address", "vendor", "device", "class", "driver", "iommu_group", "numa")
    for device in host["pci"]:
        pci.add(1, **{key: device[key] for key in keys})
    size = _Gauge("state_filesystem_size_bytes", "Size of the file system behind the state directory.")
    free = _Gauge("state_filesystem_free_bytes", "What could still be written to it.")
    found = host["filesystem"]
    if found:
        size.add(found["total_bytes"], mount_point=found["mount_point"])
        free.add(found["free_bytes"], mount_point=found["mount_point"])
    yield from (pci, size, free)


def _resources(resources: list[dict[str, Any]]) -> Iterator[_Gauge]:
    """CPUs are counted in whole ones, as Prometheus wants base units; node "" is the whole host."""
    for unit, words in (("millis", "cpus"), ("bytes", "bytes"), ("pieces", "pieces")):
        for amount, told in (("budget", "What machines can have"), ("claimed", "What machines have")):
            gauge = _Gauge(f"capacity_{amount}_{words}", f"{told} of a resource, in {words}; node is empty for all.")
            for each in resources:
                value = each[amount]
                if each["unit"] == unit and value is not None:
                    scaled = value / 1000 if unit == "millis" else value
                    gauge.add(scaled, resource=each["resource"], node=each["node"])
            yield gauge


def _classes(document: Mapping[str, Any]) -> Iterator[_Gauge]:
    info = _Gauge("class_info", "A machine class, and what more machines of it lack.")
    cpus = _Gauge("class_cpus", "CPUs of a machine of the class.")
    memory = _Gauge("class_memory_bytes", "Memory of a machine of the class.")
    quantity = _Gauge("class_quantity", "Machines of the class that exist and that would still fit.")
    used = _Gauge("class_used", "Machines of the class that exist.")
    free = _Gauge("class_free", "Machines of the class that would still fit.")
    closed = _Gauge("closed", "1 if this host takes no new machines.")
    closed.add(None if document["classes"] is None else document["closed"] is not None)
    for each in document["classes"] or ():
        name = each["name"]
        info.add(1, class_=name, limited_by=each["limited_by"])
        cpus.add(each["cpu_millis"] / 1000, class_=name)
        memory.add(each["memory_bytes"], class_=name)
        quantity.add(each["quantity"], class_=name)
        used.add(each["used"], class_=name)
        free.add(each["free"], class_=name)
    yield from (info, cpus, memory, quantity, used, free, closed)
