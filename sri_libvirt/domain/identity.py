"""Identity: the marks in `<metadata>` and the title that an operator reads.

The domain's name and UUID are the machine's id. Names of files do not belong here (see `paths.py`).
"""

from __future__ import annotations

from sri_libvirt import names, printable
from sri_libvirt.domain.spec import Marks
from sri_libvirt.records import Machine


def marks(machine: Machine, instance: str, run: str) -> Marks:
    """Whose domain this is, of which machine, class and run."""
    return Marks(instance=instance, id=machine.id, class_name=machine.machine_class.name, run=run)


def title(machine: Machine) -> str:
    """`namespace/name` on one line, fit for the terminal that `virsh list --title` shows it on; "" without a name."""
    return printable.line(" ".join(names.title(machine.namespace, machine.name).split()))
