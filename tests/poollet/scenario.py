"""Time for a poollet: seconds that pass, conditions that are waited for, and the rest that must come.

`second` lets one second of the provider's time pass, real or compressed. What is asked of the provider does not belong
here.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.poollet.api import ApiMachine
from tests.poollet.controller import Poollet
from tests.poollet.watch import Broken


class Scenario:
    """A poollet with its beat. No status may be gated for longer than `frozen` seconds."""

    def __init__(self, poollet: Poollet, second: Callable[[], None], frozen: int = 30) -> None:
        self.poollet = poollet
        self._second = second
        self._frozen = frozen
        self._gated: dict[str, int] = {}

    def step(self) -> bool:
        """One second and one tick; whether the poollet had anything to do."""
        self._second()
        busy = self.poollet.tick()
        for uid, machine in list(self.poollet.machines.items()):
            self._gated[uid] = self._gated.get(uid, 0) + 1 if self.poollet.gated(machine) else 0
            if self._gated[uid] > self._frozen:
                raise Broken(f"the status of {machine.name} is frozen: its generation is never observed")
        return busy

    def until(self, what: str, condition: Callable[[], bool], seconds: int = 120) -> None:
        """Let time pass until something is so."""
        for _ in range(seconds):
            self.step()
            if condition():
                return
        raise AssertionError(f"no {what} within {seconds} s: {self.explain()}")

    def state(self, machine: ApiMachine, state: str, seconds: int = 120) -> None:
        """Until its user sees a state, as of the spec's latest generation."""
        self.until(
            f"state {state}",
            lambda: (machine.status.state, machine.status.observed_generation) == (state, machine.generation),
            seconds,
        )

    def attached(self, machine: ApiMachine, seconds: int = 120) -> None:
        """Until its user sees every device attached."""
        self.until("attached devices", lambda: all_attached(machine), seconds)

    def gone(self, machine: ApiMachine, seconds: int = 120) -> None:
        """Until the machine's finalizer is gone."""
        self.until("end of the machine", lambda: machine.uid not in self.poollet.machines, seconds)

    def rest(self, relists: int = 60, seconds: int = 120) -> None:
        """Come to rest, and then find no difference, ask nothing and see no error for so many relists."""
        quiet = 0
        for _ in range(seconds):
            quiet = 0 if self.step() else quiet + 1
            if quiet == 3:
                break
        else:
            raise Broken(f"the poollet never comes to rest: {self.explain()}")
        before = len(self.poollet.calls)
        for number in range(relists):
            if self.step():
                raise Broken(f"relist {number + 1} at rest found a difference: {self.explain()}")
        assert self.poollet.calls[before:] == ["ListMachines"] * relists

    def explain(self) -> str:
        statuses = {machine.name: machine.status for machine in self.poollet.machines.values()}
        return f"{statuses}, last calls {self.poollet.calls[-12:]}, last errors {self.poollet.errors[-3:]}"


def all_attached(machine: ApiMachine) -> bool:
    """Whether the user of a machine sees every device of its spec attached."""
    status = machine.status
    volumes = {name: state for name, (state, _) in status.volumes.items()}
    return (
        status.observed_generation == machine.generation
        and volumes == {each.name: "VOLUME_ATTACHED" for each in machine.volumes}
        and status.nics == {each.name: "NETWORK_INTERFACE_ATTACHED" for each in machine.nics}
    )
