"""What is wrong in a request by itself, told with the path of the field. Pure; nothing is ever normalised.

What was accepted is returned exactly as it came (contract A.4), so a check refuses or does nothing. Whatever depends on
the host, a backend or the store's content does not belong here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from google.protobuf.message import Message

from sri_libvirt import names, printable, userdata
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import InvalidSpec
from sri_libvirt.records import LABEL_NAME, LABEL_NAMESPACE, LABEL_UID, MOST_DEVICES, class_name

MACHINE_BYTES = 128 * 1024
"""What labels, annotations and spec without ignition data may take (contract G.3)."""

IGNITION_BYTES = 1024 * 1024
"""The largest ignition data: what a Kubernetes Secret can hold."""

_UNFIT = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Plugins(Protocol):
    """What the registered drivers say of a field; each raises InvalidSpec with a path relative to its argument."""

    def check_volume(self, volume: pb.Volume) -> None: ...

    def check_nic(self, nic: pb.NetworkInterface) -> None: ...

    def check_image(self, image: str) -> None: ...

    def mac_asked(self, nic: pb.NetworkInterface) -> str:
        """The MAC that its tenant gives a network interface, if they may; "" else."""


def machine_id(value: str) -> None:
    """An id must be there; whether there is such a machine is the store's to say."""
    if not value:
        raise InvalidSpec("machine_id", "must not be empty")


def text(path: str, value: str) -> None:
    """XML 1.0 and C must be able to hold it."""
    if found := _UNFIT.search(value):
        raise InvalidSpec(path, f"must not hold the control character U+{ord(found.group()):04X}")


def name(path: str, value: str) -> None:
    """A name that something is found by."""
    if not value:
        raise InvalidSpec(path, "must not be empty")
    text(path, value)


def power(path: str, value: int) -> None:
    """On or off; a number that this version does not know is refused."""
    if value not in pb.Power.values():
        raise InvalidSpec(path, f"{value} is no known power state; known: POWER_ON (0), POWER_OFF (1)")


def string_map(path: str, values: Mapping[str, str]) -> None:
    """Keys and values of a map."""
    keys(path, values)
    for key in values:
        text(_entry(path, key), values[key])


def keys(path: str, values: Iterable[str]) -> None:
    """Keys of a map whose values may be any bytes."""
    for key in values:
        text(_entry(path, key), key)


def size(path: str, labels: Mapping[str, str], annotation: Mapping[str, str], spec: pb.MachineSpec) -> None:
    """A machine's share of every list reply is bounded (contract G.3)."""
    listed = pb.Machine(spec=spec)
    listed.spec.ClearField("ignition_data")
    listed.metadata.labels.update(labels)
    listed.metadata.annotations.update(annotation)
    if (total := listed.ByteSize()) > MACHINE_BYTES:
        raise InvalidSpec(
            path, f"the machine would take {total} bytes without ignition data; at most {MACHINE_BYTES} are allowed"
        )


def devices(path: str, spec: pb.MachineSpec, *, seeded: bool) -> None:
    """No machine can ever have more devices; those beyond a machine's own ports wait for one (contract G.8)."""
    disks = spec.HasField("image") + seeded
    if (total := disks + len(spec.volumes) + len(spec.network_interfaces)) > MOST_DEVICES:
        raise InvalidSpec(
            path, f"the machine would have {total} devices with its image and its seed; at most {MOST_DEVICES} can be"
        )


def machine(path: str, value: pb.Machine, plugins: Plugins) -> None:
    """A machine to be created. Its id, generation, times and status are the provider's and ignored (contract A.1)."""
    string_map(f"{path}.metadata.labels", value.metadata.labels)
    for label in (LABEL_UID, LABEL_NAMESPACE, LABEL_NAME):
        if any(end in value.metadata.labels.get(label, "") for end in "\r\n"):  # part of the domain's title
            raise InvalidSpec(_entry(f"{path}.metadata.labels", label), "must be one line")
    string_map(f"{path}.metadata.annotations", value.metadata.annotations)
    machine_spec(f"{path}.spec", value.spec, plugins)
    size(path, value.metadata.labels, value.metadata.annotations, value.spec)


def machine_spec(path: str, spec: pb.MachineSpec, plugins: Plugins) -> None:
    """A whole spec: each field, then what its volumes and NICs must not share."""
    power(f"{path}.power", spec.power)
    name(f"{path}.class", class_name(spec))
    if spec.HasField("image"):
        name(f"{path}.image.image", spec.image.image)
        _ask(f"{path}.image.image", lambda: plugins.check_image(spec.image.image))
    if len(spec.ignition_data) > IGNITION_BYTES:
        raise InvalidSpec(f"{path}.ignition_data", f"has {len(spec.ignition_data)} bytes; at most {IGNITION_BYTES}")
    devices(path, spec, seeded=userdata.kind(spec.ignition_data) == "cloud-init")
    _distinct(f"{path}.volumes", (each.name for each in spec.volumes))
    targets: dict[str, int] = {}
    for index, each in enumerate(spec.volumes):
        volume(f"{path}.volumes[{index}]", each, plugins)
        if each.device and (other := targets.setdefault(names.target_of(each.device), index)) != index:
            raise same_target(f"{path}.volumes[{index}].device", each.device, f"{path}.volumes[{other}]")
    _distinct(f"{path}.network_interfaces", (each.name for each in spec.network_interfaces))
    for index, interface in enumerate(spec.network_interfaces):
        nic(f"{path}.network_interfaces[{index}]", interface, plugins)


def volume(path: str, value: pb.Volume, plugins: Plugins) -> None:
    """One volume: exactly one source, and a driver that takes it."""
    name(f"{path}.name", value.name)
    if value.device and not names.DEVICE_NAME.fullmatch(value.device):
        text(f"{path}.device", value.device)
        raise InvalidSpec(f"{path}.device", f"{printable.quote(value.device)} is no device name such as oda or odab")
    sources = [field for field in ("empty_disk", "connection") if value.HasField(field)]
    if len(sources) != 1:
        problem = "has both empty_disk and connection" if sources else "has neither empty_disk nor connection"
        raise InvalidSpec(path, f"{problem}; exactly one is needed")
    if value.empty_disk.size_bytes < 0:
        raise InvalidSpec(f"{path}.empty_disk.size_bytes", "must not be negative")
    if value.HasField("connection"):
        connection(f"{path}.connection", value.connection)
    _ask(path, lambda: plugins.check_volume(value))


def connection(path: str, value: pb.VolumeConnection) -> None:
    """What any connection must have; the driver says the rest. Secret values are bytes and never shown."""
    name(f"{path}.driver", value.driver)
    text(f"{path}.handle", value.handle)
    string_map(f"{path}.attributes", value.attributes)
    keys(f"{path}.secret_data", value.secret_data)
    keys(f"{path}.encryption_data", value.encryption_data)


def nic(path: str, value: pb.NetworkInterface, plugins: Plugins) -> None:
    """One network interface. It may be without a network yet (contract G.13)."""
    name(f"{path}.name", value.name)
    text(f"{path}.network_id", value.network_id)
    for index, address in enumerate(value.ips):
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise InvalidSpec(f"{path}.ips[{index}]", f"{printable.quote(address)} is no IP address") from None
    string_map(f"{path}.attributes", value.attributes)
    if value.network_id:
        _ask(path, lambda: plugins.check_nic(value))


def present(path: str, request: Message, field: str) -> None:
    """A message that a request is about must be set."""
    if not request.HasField(field):
        raise InvalidSpec(path, "must be set")


def same_target(path: str, device: str, other: str) -> InvalidSpec:
    """The refusal of a second volume on one target (contract G.12)."""
    return InvalidSpec(path, f"{device} would be {names.target_of(device)} in the guest, as {other} is")


def _entry(path: str, key: str) -> str:
    shown = _UNFIT.sub("\N{REPLACEMENT CHARACTER}", key)
    return f"{path}[{printable.quote(shown)}]"


def _distinct(path: str, values: Iterable[str]) -> None:
    seen: dict[str, int] = {}
    for index, value in enumerate(values):
        if (other := seen.setdefault(value, index)) != index:
            raise InvalidSpec(
                f"{path}[{index}].name", f"{printable.quote(value)} is the name of {path}[{other}] already"
            )


def _ask(path: str, check: Callable[[], None]) -> None:
    """Ask a driver, and put the whole path before the field that it names."""
    try:
        check()
    except InvalidSpec as error:
        joint = "." if error.field and not error.field.startswith("[") else ""
        raise InvalidSpec(f"{path}{joint}{error.field}", error.problem) from error
