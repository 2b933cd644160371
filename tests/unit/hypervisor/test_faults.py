"""The table of libvirt's errors: lost, refused, or simply not there."""

from __future__ import annotations

import libvirt
import pytest

from sri_libvirt.errors import DiskLocked, HypervisorError, Unreachable
from sri_libvirt.hypervisor import faults


class Fault(libvirt.libvirtError):  # type: ignore[misc]
    """A libvirtError as the binding makes it from the C library's last error."""

    def __init__(self, code: int, domain: int, message: str) -> None:
        Exception.__init__(self, message)
        self.err = (code, domain, message, 2, "", "", "", -1, -1)


SOCKET = Fault(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC, "Cannot write data: Broken pipe")
CLOSED = Fault(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC, "internal error: client socket is closed")
REFUSED = Fault(libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_FROM_POLKIT, "no")
FILE = Fault(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_QEMU, "Cannot access storage file")
BUSY = Fault(libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_FROM_QEMU, "cannot acquire state change lock")
NO_LOGS = Fault(
    libvirt.VIR_ERR_SYSTEM_ERROR,
    libvirt.VIR_FROM_RPC,
    "Failed to connect socket to '/var/run/libvirt/virtlogd-sock': Connection refused",
)
NO_DOMAIN = Fault(libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_FROM_QEMU, "Domain not found")


@pytest.mark.parametrize("error", [SOCKET, CLOSED, REFUSED], ids=["broken pipe", "closed", "auth"])
def test_a_lost_connection_is_unreachable_even_if_it_says_that_it_lives(error: Fault) -> None:
    assert isinstance(faults.translate(error, "start the domain", alive=True), Unreachable)


@pytest.mark.parametrize("error", [FILE, BUSY, NO_DOMAIN, NO_LOGS], ids=["file", "busy", "gone", "virtlogd"])
def test_a_refusal_is_no_loss(error: Fault) -> None:
    fault = faults.translate(error, "start the domain")
    assert type(fault) is HypervisorError
    assert fault.code == error.get_error_code()
    assert "could not start the domain" in str(fault)
    assert error.get_error_message() in str(fault)


def test_an_unclear_error_of_a_dead_connection_is_unreachable() -> None:
    assert isinstance(faults.translate(FILE, "start the domain", alive=False), Unreachable)


def test_an_answer_stays_an_answer_though_the_connection_died_since() -> None:
    assert type(faults.translate(NO_DOMAIN, "read the domain", alive=False)) is HypervisorError


def test_a_hung_qemu_comes_with_advice() -> None:
    assert "destroying it" in str(faults.translate(BUSY, "press the button"))


@pytest.mark.parametrize(
    "message",
    [
        "internal error: unable to execute QEMU command 'blockdev-add': Failed to get \"write\" lock",
        "internal error: unable to execute QEMU command 'device_add': Failed to get shared \"write\" lock",
        "internal error: process exited while connecting to monitor: Is another process using the image [/srv/a.raw]?",
    ],
)
def test_a_file_that_another_program_holds_is_told_from_other_refusals(message: str) -> None:
    fault = faults.translate(Fault(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU, message), "attach the disk")
    assert type(fault) is DiskLocked
    assert message in str(fault)
    assert "lslocks and fuser -v FILE tell which" in str(fault), "also of a start, whose reason has these words alone"


def test_nothing_is_gone_because_the_line_is() -> None:
    lookalike = Fault(libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_FROM_RPC, "client socket is closed")
    assert not faults.is_code(lookalike, libvirt.VIR_ERR_NO_DOMAIN)
    assert faults.is_code(NO_DOMAIN, libvirt.VIR_ERR_NO_DOMAIN)


@pytest.mark.parametrize(
    ("code", "message", "certain"),
    [
        (libvirt.VIR_ERR_OPERATION_FAILED, "operation failed: image magic is incorrect", True),
        (libvirt.VIR_ERR_OPERATION_FAILED, "operation failed: failed to read domain XML", True),
        (libvirt.VIR_ERR_XML_DETAIL, "(domain_definition):1: error parsing attribute name", False),
        (libvirt.VIR_ERR_INTERNAL_ERROR, "qemu-system-x86_64: load of migration failed: Input/output error", False),
        (libvirt.VIR_ERR_INTERNAL_ERROR, "qemu-system-x86_64: Not a migration stream", False),
    ],
)
def test_a_save_that_cannot_be_read_is_known_by_libvirts_and_qemus_words(
    code: int, message: str, certain: bool
) -> None:
    unusable = faults.unusable_save(Fault(code, libvirt.VIR_FROM_QEMU, message))
    assert unusable is not None
    assert unusable.certain is certain
    assert message in str(unusable)


def test_a_descriptor_that_the_host_keeps_from_qemu_is_known_by_qemus_words() -> None:
    words = "unable to execute QEMU command 'getfd': No file descriptor supplied via SCM_RIGHTS"
    refused = faults.descriptor_refused(Fault(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU, words))
    assert refused is not None
    assert words in str(refused)
    for other in (NO_LOGS, FILE, BUSY):
        assert faults.descriptor_refused(other) is None


@pytest.mark.parametrize(
    "error",
    [
        NO_LOGS,
        FILE,
        BUSY,
        Fault(libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_FROM_QEMU, "image version is not supported (3 > 2)"),
        Fault(libvirt.VIR_ERR_CONFIG_UNSUPPORTED, libvirt.VIR_FROM_QEMU, "does not support machine type 'pc-q35-9.9'"),
        Fault(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU, "'cont': Failed to get \"write\" lock"),
    ],
)
def test_a_restore_that_fails_for_another_reason_says_nothing_of_the_save(error: Fault) -> None:
    assert faults.unusable_save(error) is None
