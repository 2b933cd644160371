"""What QEMU and Ceph say when they cannot open a volume, and what that means to a user: one literal table. Pure.

The words are those of QEMU 7.2 to 10.0 with Ceph 16 to 18. `backend-silent` is of one that has not answered, so that
nothing else need be asked of it for a while, `volume-refused` of one that has, and of a host that cannot ask. What
nobody has seen yet is told in the program's own words. Secrets are taken out before this is asked.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import Literal

from sri_libvirt.devices import DiskSource
from sri_libvirt.errors import NotReady

Code = Literal["backend-silent", "volume-refused"]

SILENT: Code = "backend-silent"
REFUSED: Code = "volume-refused"


@dataclass(frozen=True, slots=True)
class Meaning:
    """Of the words that `pattern` finds, or of an exit `status`. In `problem` and `advice` stand {what}, {where} and
    others of `_words_of`."""

    pattern: str
    code: Code
    problem: str
    advice: str = ""
    status: int | None = None


_UNREACHABLE = (
    "Connection refused|Connection timed out|No route to host|Network is unreachable|Host is (?:down|unreachable)"
    "|Connection reset by peer"
)
_KEY = "Compare the key with what the volume was formatted with. Its header and data are untouched."
_HEADER = (
    "Storage of a tenant is never formatted: format it where it is made (cryptsetup luksFormat, rbd encryption "
    "format), or leave encryption_data out."
)
_NO_HEADER = "{what} has no LUKS header, so it is not encrypted"
_WRONG_KEY = "the encryption key does not open {what}"

COMMON = (
    Meaning("Unknown driver '(?:rbd|iscsi)'", REFUSED, "QEMU cannot open {what}: its driver for that is not installed",
            "Install it on the host: apt-get install qemu-block-extra. Nothing need be restarted."),
    Meaning("Volume is not in LUKS format", REFUSED, _NO_HEADER, _HEADER),
    Meaning("LUKS version 2 is not supported", REFUSED,
            "{what} has a LUKS header of version 2, and QEMU opens version 1 alone",
            "Format it anew, with cryptsetup's --type luks1; an image of Ceph may be of either version."),
    Meaning("Invalid password, cannot unlock any keyslot", REFUSED, _WRONG_KEY, _KEY),
)  # fmt: skip

RBD = (
    Meaning("encryption load fail: Operation not permitted", REFUSED, _WRONG_KEY, _KEY),
    Meaning("encryption load fail: Invalid argument", REFUSED, "librbd cannot use the LUKS header of {what}",
            "It wants the data to begin on a whole object, as `rbd encryption format` has it."),
    Meaning("error connecting: Permission denied|handle_auth_bad_method(?s:.*)couldn't connect", REFUSED,
            "Ceph does not let in the user {user} with the key that is given",
            "Compare userID and userKey with `ceph auth get client.{user}`.", errno.EACCES),
    Meaning("unable to parse addrs", SILENT,
            "a name among {where} cannot be resolved", "Check the names and this host's DNS."),
    Meaning("failed to decode key|error connecting: Invalid argument", REFUSED,
            "the key that is given for the Ceph user {user} is none",
            "userKey is what `ceph auth get-key client.{user}` prints."),
    Meaning("error reading conf file|unable to open config file", REFUSED, "the Ceph settings {config} cannot be read",
            "Mend the file that --ceph-conf names."),
    Meaning("error connecting: (?:Connection|Operation) timed out|couldn't connect to the cluster", SILENT,
            "no answer from {where}",
            "Check that they run and that this host reaches them. On other ports than 3300 and 6789 a wrong userID or "
            "userKey looks just so."),
    Meaning("error opening pool '?[^:]*: (?:\\(2\\) )?No such file or directory", REFUSED,
            "the pool of {what} does not exist", "Check the attribute image: POOL/IMAGE."),
    Meaning("No such file or directory", REFUSED, "{what} does not exist", "Check the attribute image: POOL/IMAGE."),
    Meaning("Operation not permitted|Permission denied", REFUSED, "the Ceph user {user} may not open {what}",
            "Its caps must let it: mon 'profile rbd', osd 'profile rbd pool=POOL'."),
    Meaning("error connecting", SILENT, "{where} cannot be connected to: {words}"),
)  # fmt: skip

NBD = (
    Meaning("Requested export not available", REFUSED, "{where} has no such export ({name})",
            "Check the attribute export."),
    Meaning("credentials|certificate directory", REFUSED, "this host has no certificates for NBD by TLS: {words}",
            "QEMU takes ca-cert.pem, client-cert.pem and client-key.pem from the directory that libvirt's qemu.conf "
            "names."),
    Meaning("enied by server for option 5", REFUSED,
            "{where} does not offer TLS", "Leave the attribute tls out, or give the server certificates."),
    Meaning("TLS negotiation required", REFUSED, "{where} demands TLS",
            "Set the attribute tls to yes; the host's certificates are used."),
    Meaning("TLS handshake|[Cc]ertificate", REFUSED,
            "{where} and this host do not accept each other's certificates: {words}",
            "Both are to be of the authority in ca-cert.pem, the server's for the name or address that is used."),
    Meaning("address resolution failed", SILENT, "the name of {where} cannot be resolved",
            "Check the name and this host's DNS."),
    Meaning("Failed to connect to .*: No such file or directory", SILENT, "{where} is not there (yet)"),
    Meaning(_UNREACHABLE, SILENT, "no answer from {where}",
            "Check that it runs and that this host reaches it."),
    Meaning("Permission denied", REFUSED, "{where} may not be opened by this process"),
    Meaning("initial magic|[Uu]nexpected end|Failed to read", SILENT,
            "{where} speaks no NBD, or lets in no more clients: {words}"),
)  # fmt: skip

ISCSI = (
    Meaning("Can not resolv", SILENT, "the name of {where} cannot be resolved", "Check the name and this host's DNS."),
    Meaning("Target not found", REFUSED, "{where} has no target {target} for this host",
            "Check the attribute target, and whether it lets in this initiator."),
    Meaning("Authentication failure", REFUSED, "{where} refuses user name and password (CHAP) for {target}",
            "Check username and password in secret_data; without them there is no CHAP."),
    Meaning("Authorization failure", REFUSED,
            "{where} does not let this host use {target}", "Let in this initiator there."),
    Meaning("LOGICAL_UNIT_NOT_SUPPORTED|ILLEGAL_REQUEST", REFUSED, "{what} does not exist", "Check the attribute lun."),
    Meaning("iscsi_service failed|Failed to start full connect", SILENT,
            "no answer from {where}", "Check that it runs and that this host reaches it."),
)  # fmt: skip

LOCAL = (
    Meaning("driver requires .* to be", REFUSED, "{what} is no {kind}"),
    Meaning("not in qcow2 format", REFUSED, "{what} is not qcow2, which its volume says it is"),
    Meaning("No such file or directory", REFUSED, "{what} is not there (yet)", "It is looked for again and again."),
    Meaning("No such device|No medium found", REFUSED, "there is nothing behind {what}"),
    Meaning("Permission denied|Operation not permitted", REFUSED, "this process may not open {what}",
            "The service may open the devices alone that its unit lists: systemctl edit sri-libvirt, DeviceAllow=."),
    Meaning("Device or resource busy", REFUSED, "{what} is used by this host itself"),
    Meaning("Input/output error|Stale file handle|Host is down|Transport endpoint", SILENT,
            "the storage of {what} does not work: {words}", "See the kernel's log."),
)  # fmt: skip

TABLE: dict[str, tuple[Meaning, ...]] = {
    "rbd": (*COMMON, *RBD),
    "nbd": (*COMMON, *NBD),
    "iscsi": (*COMMON, *ISCSI),
    "": (*COMMON, *LOCAL),
}
"""By the source's protocol; the first that is found is it."""


def explain(source: DiskSource, words: str, status: int) -> NotReady:
    """What the words and the exit status of a program mean that has failed."""
    return _not_ready(source, meaning(source.protocol, words, status), words)


def meaning(protocol: str, words: str, status: int) -> Meaning:
    """The row of the table; one that tells the words themselves where there is none."""
    found = (each for each in TABLE[protocol] if status == each.status or re.search(each.pattern, words))
    return next(found, Meaning("", REFUSED, "{what} cannot be opened: {words}"))


def silent(source: DiskSource, seconds: float) -> NotReady:
    """Nothing was said in time."""
    advice = "Check that it works and that this host reaches it; what hangs is ended and tried again."
    return _not_ready(source, Meaning("", SILENT, f"no answer from {{where}} within {seconds:g} s", advice), "")


def hanging(source: DiskSource, problem: str) -> NotReady:
    """It was not asked, because who asked before hangs."""
    advice = "Its disk or file system is dead: see the kernel's log. It goes on by itself once that answers."
    return _not_ready(source, Meaning("", SILENT, "no answer from {where}: {words}", advice), problem)


def slow_key(source: DiskSource, seconds: float) -> NotReady:
    """It has answered, and its key was not opened in time."""
    advice = (
        "Opening a LUKS key is hard work by intent (cryptsetup luksDump shows how hard); give it more time with "
        "--probe-timeout."
    )
    problem = f"the encryption key of {{what}} could not be tried within {seconds:g} s"
    return _not_ready(source, Meaning("", REFUSED, problem, advice), "")


def unasked(source: DiskSource, problem: str) -> NotReady:
    """It could not be asked for."""
    return _not_ready(source, Meaning("", REFUSED, "{what} was not asked for: {words}"), problem)


def refused(source: DiskSource, problem: str, advice: str = "") -> NotReady:
    """What our own look at its answer finds wrong; `problem` with {what} and {where}."""
    return _not_ready(source, Meaning("", REFUSED, problem, advice), "")


def no_header(source: DiskSource) -> NotReady:
    """Encryption is wanted of what has none."""
    return refused(source, _NO_HEADER, _HEADER)


def open_elsewhere(source: DiskSource, addresses: list[str]) -> NotReady:
    """Others have it open to write."""
    return NotReady(
        f"{_words_of(source)['what']} is open elsewhere, by {', '.join(addresses)}",
        f"It waits until that is over (rbd status {source.name} shows it too); a client that has died is forgotten "
        "after 30 s.",
        "in-use",
    )


def _not_ready(source: DiskSource, meaning: Meaning, words: str) -> NotReady:
    values = {**_words_of(source), "words": "; ".join(words.split("\n"))[-500:]}
    return NotReady(meaning.problem.format_map(values), meaning.advice.format_map(values), meaning.code)


def _words_of(source: DiskSource) -> dict[str, str]:
    hosts = ", ".join(str(host.by(source.protocol)) for host in source.hosts)
    target, _, lun = source.name.rpartition("/")
    what, where = {
        "rbd": (f"the Ceph image {source.name}", f"the Ceph monitors {hosts}"),
        "nbd": (f"the NBD export {source.name or '(the default)'}", f"the NBD server {hosts}"),
        "iscsi": (f"LUN {lun} of the iSCSI target {target}", f"the iSCSI portal {hosts}"),
        "": (f"the {'device' if source.kind == 'block' else 'file'} {source.path}",) * 2,
    }[source.protocol]
    return {
        "what": what,
        "where": where,
        "name": source.name or "the default",
        "user": source.user,
        "config": source.config,
        "kind": "block device" if source.kind == "block" else "regular file",
        "target": target,
    }
