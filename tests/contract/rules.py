"""The SRI's rules by name: what a provider must do, one sentence each, as a table.

`R-A4-3` is the third rule of section A.4 of the SRI contract. Every rule is proved by at least one test that carries
`@pytest.mark.rule("R-A4-3")`, and `test_rules.py` fails when one is not. A rule that a later feature fulfils names
that feature in `until`; its test proves what is answered today. How a rule is kept does not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold; `until` is the feature without which it is answered by a clear refusal or a known limit."""

    id: str
    says: str
    until: str = ""


_TABLE: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "A1",  # metadata
        (
            "An id is the provider's own and holds no `://`; the id of a request is ignored.",
            "Labels come back as they were at create; no RPC changes them.",
            "UpdateMachineAnnotations replaces the whole map; no key is added, dropped or normalised.",
            "generation begins at 1 and grows with the spec (power, attach, detach) alone, never with annotations.",
            "observed_generation is the highest generation that was processed.",
            "created_at and deleted_at are Unix nanoseconds; deleted_at 0 is a live machine.",
            "A request's metadata may be absent.",
            "Every machine of every reply has metadata, spec and status.",
        ),
    ),
    (
        "A2",  # the poollet's keys
        ("Labels and annotations of any key and value, JSON too, come back as they were set.",),
    ),
    (
        "A3",  # ListMachines
        (
            "Without a filter every machine is listed, also one that is being deleted.",
            "An unknown id is an empty list and OK.",
            "A label selector is an AND of exact values; an empty one matches all, an empty value needs its key.",
            "Id and selector together are an AND.",
            "Live machines come before those being deleted, the newest first.",
            "A machine is listed before CreateMachine answers.",
            "A damaged machine stays listed and does not fail the list.",
            "A machine at rest is listed the same each time: content, and order of repeated fields.",
        ),
    ),
    (
        "A4",  # byte for byte
        (
            "The spec comes back as it was sent.",
            "A sub-message that is set and empty comes back set and empty.",
            "No default is filled into the spec: a size of 0 comes back as 0.",
            "Keys with empty values, secret data and encryption data come back.",
            "IP addresses come back in their order and spelling.",
            "spec.power comes back.",
            "The guest's hardware follows devices and names, never the order of lists.",
            "A network_id may be empty.",
        ),
    ),
    (
        "A5",  # the order of calls
        (
            "CreateMachine's reply has the annotations of the request and a status.",
            "A detach leaves the spec at once, and an attach of the same name right after it is accepted.",
            "observed_generation goes on although an attachment still fails, so that PENDING can be seen.",
            "DeleteMachine is OK each time it is called on a machine that shuts down.",
            "A deleted machine leaves the list.",
            "No RPC waits for the hypervisor or for another machine.",
            "Power off moments after the create is accepted and carried out.",
        ),
    ),
    (
        "A6",  # status codes
        (
            "A call about an unknown machine is NOT_FOUND.",
            "The detach of what is not in the spec is NOT_FOUND.",
            "What is wrong in itself is INVALID_ARGUMENT, with the field's name: class, volume, network interface, id.",
            "An attach of what is attached is OK; of another spec under its name ALREADY_EXISTS.",
            "Exec is never RESOURCE_EXHAUSTED.",
        ),
    ),
    (
        "A7",  # states and handles
        (
            "SUSPENDED is a machine that is off; TERMINATED only one whose deletion has begun.",
            "Status entries carry the names of the spec's entries, in a stable order.",
            "The handle of a network interface is stable, and not empty once it is ATTACHED.",
            "States are the enum's own numbers.",
        ),
    ),
    (
        "A8",  # classes and capacity
        (
            "Every entry of Status has machine_class and capabilities.",
            "Names and capabilities of classes are exactly the configured ones.",
            "quantity is a total, never a rest, never negative.",
        ),
    ),
    (
        "A9",  # version, discovery, start
        (
            "Version names a runtime without `://` and a version.",
            "The socket is /var/run/sri-virtd.sock unless told otherwise.",
            "A stale socket is removed at the start; a live one, or what is no socket, never.",
        ),
    ),
    (
        "A10",  # the poollet's defects
        (
            "There are never two machines of one uid, however many creates race.",
            "All volumes detached and attached again in one breath: nothing is unplugged, nothing is lost.",
            "Numbers of volumes and network interfaces need not be equal.",
            "A network_id that comes later is a detach and an attach, and the device comes with it.",
            "An attach waits behind the unplug of an older device of its name.",
        ),
    ),
    (
        "A11",  # the reference server's tests
        (
            "Machines that share a uid label but lack the other labels are all made, and listed as they were returned.",
            "A machine being deleted stays listed while its guest shuts down, and is destroyed after the grace time.",
        ),
    ),
    (
        "A12",  # seen with the real poollet
        (
            "At rest the poollet does nothing but its relist.",
            "CreateMachine refuses only what cannot be accepted and waited for.",
        ),
    ),
    (
        "G1",
        (
            "A create with all three labels of a live machine returns that machine if its spec is the same.",
            "With another spec it is ALREADY_EXISTS.",
            "While the machine of that uid is being deleted it is UNAVAILABLE, also in words.",
            "Without all three labels a uid is not looked at.",
            "A class is resolved at create and kept: editing or removing it touches no machine.",
        ),
    ),
    ("G2", ("Exec of an unknown machine is NOT_FOUND.", "Exec of a machine that does not run is FAILED_PRECONDITION.")),
    (
        "G3",
        (
            "Ignition data over 4 KiB is in the reply of CreateMachine and never in a list.",
            "A machine without its ignition data may have 128 KiB; what would make it larger is INVALID_ARGUMENT.",
            "A create that would make the list larger than 3 MiB is RESOURCE_EXHAUSTED and says so.",
        ),
    ),
    (
        "G4",
        (
            "An empty disk's data survives a detach until its machine is deleted, and is adopted by name and size.",
            "Size 0 means 1 GiB.",
            "An unplug is not sent for the settle time, and not at all when the same device comes back in it.",
            "Credentials may differ when a volume comes back.",
            "Empty disks stay plugged for the hold time when all volumes of a running machine go, with an event.",
            "A connection is unplugged after the settle time in any case.",
            "The spec, and the answer to a second detach, change at once.",
            "Settle and hold are arithmetic on stored times: a restart changes nothing.",
            "The claim of an empty disk is kept until its machine is deleted.",
        ),
    ),
    (
        "G5",
        (
            "A guest that powers itself off is SUSPENDED, over restarts and host boots, until power goes off and on.",
            "Where the operator asks for that it is started again at once.",
            "A guest that ends in another way is started again, with back-off.",
            "A guest that ends after our button while power is on by now is started again.",
            "While the host stops, every stop counts as the host's.",
            "A stop that nobody watched is told from the log of QEMU.",
            "A managed save of this run is restored unless the spec has changed since.",
            "A guest that an operator paused is left alone, PENDING.",
            "A guest that an I/O error paused is resumed with back-off.",
        ),
    ),
    (
        "G6",
        (
            "The socket is opened only once the store is loaded.",
            "Without libvirt reads answer, and creates are accepted and wait with a reason.",
            "On a host that cannot run guests at all CreateMachine is UNAVAILABLE with the reason.",
            "The health service tells the store and the hypervisor apart.",
        ),
    ),
    (
        "G7",
        (
            "quantity is what exists of a class and what more of it would fit beside everything else.",
            "Exactly as many creates succeed as quantity has left.",
        ),
    ),
    (
        "G8",
        (
            "Attach, detach and power refuse only what is wrong in itself; the rest is PENDING with a reason.",
            "An identical attach and an equal power are OK and no new generation.",
            "On a machine being deleted attach and power are FAILED_PRECONDITION, detach and annotations OK.",
        ),
    ),
    (
        "G9",
        (
            "A cold start waits for the image, every volume's backend and every network that is named.",
            "It never waits for a port: such a device stays PENDING with a reason.",
            "A network interface without a network never blocks.",
            "A wait of more than 30 s is an event with the reason.",
            "A machine with neither image nor volumes runs.",
        ),
    ),
    (
        "G10",
        (
            "A guest gets the button again every few seconds and is destroyed after the grace time.",
            "The grace time is 30 s unless told otherwise.",
        ),
    ),
    (
        "G11",
        (
            "ATTACHED is in the live XML; of a machine that is off, prepared and in the persistent XML.",
            "A handle is there while its device is PENDING.",
            "A machine being deleted is RUNNING until its guest is off.",
            "A generation counts as observed only when libvirt was reached.",
        ),
    ),
    (
        "G12",
        (
            "A volume's target is `vd` and what follows its device name's second letter.",
            "Equal targets are INVALID_ARGUMENT.",
            "A volume without a device name takes the lowest free target.",
            "The image's disk has target vdaaa, the first port and boot order 1.",
            "Ports are given in the order of device names, later the lowest free one, and none moves.",
            "A serial is the device name and 15 hexadecimal digits.",
        ),
    ),
    (
        "G13",
        (
            "network_id is empty, `isolated`, `network://NAME` or NAME; a network that is not there is waited for.",
            "A MAC is locally administered, of machine and name alone, unique in the store.",
        ),
    ),
    (
        "H",  # the poollet's side
        ("The socket's group and mode are the operator's to choose.",),
    ),
)

UNTIL = {
    "R-G2-2": "console sessions",
}

RULES: dict[str, Rule] = {
    rule.id: rule
    for section, sentences in _TABLE
    for number, says in enumerate(sentences, 1)
    for rule in [Rule(f"R-{section}-{number}", says, UNTIL.get(f"R-{section}-{number}", ""))]
}
"""All rules by id, in the contract's order."""
