"""What is not done to a machine of a restored backup until somebody says that its wishes are of the present. Pure.

Since the backup a volume may have gone to another machine, and the machine itself from the API: so it is neither
started nor are its devices touched. Its guest runs on, what it is is shown, and what is asked of it from now on counts.
A deletion goes on, for nobody can take one back. Who confirms does not belong here (that is `server/confirming.py`).

A store that is merely old is no such case: a host that was down for days has acknowledged nothing that it does not
have, and its machines start by themselves when it boots, with or without a poollet.
"""

from __future__ import annotations

from sri_libvirt.reconcile import reasons as why
from sri_libvirt.reconcile.step import Step
from sri_libvirt.records import Machine


def hold(machine: Machine) -> Step | None:
    """Nothing to be done, and why; None for a machine that is confirmed or never was of a backup."""
    return Step(reasons=(why.restored(),)) if machine.unconfirmed_since else None
