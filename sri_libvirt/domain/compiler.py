"""The way from a machine to checked domain XML, and from what libvirt gives back to what it lost.

What the XML says does not belong here (see `build.py` and the templates), nor when it is wanted.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sri_libvirt.devices import DiskSource
from sri_libvirt.domain import chain, compare, disks, nics, observed
from sri_libvirt.domain.build import build
from sri_libvirt.domain.render import Renderer
from sri_libvirt.domain.schema import DomainSchema
from sri_libvirt.errors import ConfigError, HypervisorError
from sri_libvirt.paths import MachinePaths
from sri_libvirt.records import Attachment, Machine, MachineClass


class DomainCompiler:
    """Compiles machines of one provider. Thread-safe. Raises ConfigError for templates that cannot be used.

    `instance` is the store's uuid; `template_dir` overrides single templates, those of a machine's class come before
    it; `schema_dir` holds libvirt's schemas.
    """

    def __init__(self, instance: str, template_dir: Path | None, schema_dir: Path) -> None:
        self._instance = instance
        self._general = (template_dir,) if template_dir else ()
        self._schema = DomainSchema(schema_dir)
        self._lock = threading.Lock()
        self._renderers = {"": Renderer(*self._general)}

    def domain_xml(self, machine: Machine, rows: Sequence[Attachment], paths: MachinePaths, run: str) -> str:
        """The XML of a domain with exactly these devices. Raises HypervisorError when it would not be valid.

        The machine has a profile; the rows are prepared and have ports.
        """
        if machine.profile is None:
            raise ValueError(f"machine {machine.id} has no profile yet")
        spec = build(machine, machine.profile, rows, paths=paths, instance=self._instance, run=run)
        text = self._renderer(machine.machine_class).render(spec)
        # An operator's template may have lost what the loop and the guest rely on.
        if lost := compare.verify(spec, text):
            raise HypervisorError(f"the templates do not keep what the machine must have: {'; '.join(lost[:5])}")
        self._schema.validate(text)
        return text

    def device_xml(self, machine: Machine, row: Attachment, *, by_qemu: bool = False) -> str:
        """The XML of a prepared device with a port, for hot-plug: as in `domain_xml`, but for the boot order.

        `by_qemu`: of a network interface that the host's kernel does not help to carry.

        Raises HypervisorError when the template has lost something of it: a disk whose encryption is lost would give
        its guest the cipher's bytes to write over.
        """
        device = disks.one(row) if isinstance(row.backing, DiskSource) else replace(nics.one(row), by_qemu=by_qemu)
        text = self._renderer(machine.machine_class).render_device(device)
        if lost := compare.verify_device(device, text):
            raise HypervisorError(f"the template does not keep what the device must have: {'; '.join(lost[:5])}")
        return text

    def check(self, machine_class: MachineClass) -> None:
        """Raise ConfigError, naming the class, when the templates of its own cannot be used."""
        try:
            self._renderer(machine_class)
        except HypervisorError as error:
            raise ConfigError(f"machine class {machine_class.name}: {error}") from error

    def _renderer(self, machine_class: MachineClass) -> Renderer:
        """Made once for each directory: an edited template is used from the next start of the daemon on."""
        wanted = machine_class.policy.template_dir
        with self._lock:
            found = self._renderers.get(wanted)
        if found is None:
            # Not under the lock: a directory that hangs must not hold up machines of other classes.
            try:
                found = Renderer(Path(wanted), *self._general)
            except ConfigError as error:  # gone since the start: the machine waits for it
                raise HypervisorError(str(error)) from error
            with self._lock:
                found = self._renderers.setdefault(wanted, found)
        return found

    def differences(self, asked: str, got: str) -> list[str]:
        """What of the XML asked for is not in the XML that libvirt gives back, in words."""
        return compare.differences(observed.read(asked), observed.read(got))

    def undone(self, before: str, asked: str) -> list[str]:
        """What the XML of before has that others must have put there, and that the XML asked for undoes, in words."""
        return compare.undone(observed.read(before), observed.read(asked))

    def edited(self, machine: Machine, rows: Sequence[Attachment], paths: MachinePaths, persistent: str) -> list[str]:
        """What of a persistent XML the define of these devices would undo, in words. Raises HypervisorError."""
        if machine.profile is None:
            raise ValueError(f"machine {machine.id} has no profile yet")
        spec = build(machine, machine.profile, rows, paths=paths, instance=self._instance, run=machine.run.uuid)
        asked = compare.expected(spec)
        if self._general or machine.machine_class.policy.template_dir:
            # An operator's templates may have more devices.
            asked = observed.read(self._renderer(machine.machine_class).render(spec))
        return compare.undone(observed.read(persistent), asked)

    def follow(self, live: str, persistent: str, alias: str) -> str:
        """The persistent XML with the disk of this alias as the live XML has it. Raises HypervisorError."""
        return chain.follow(live, persistent, alias)
