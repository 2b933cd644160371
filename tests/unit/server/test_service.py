"""The wrapper's parts: the list reply, the table of codes, addresses."""

from __future__ import annotations

import inspect

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt import errors
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import ConfigError
from sri_libvirt.process import ProcessError
from sri_libvirt.server.listener import Binding, parse_address
from sri_libvirt.server.service import CODES, _verdict, stitch
from sri_libvirt.store.frames import Frame

NEVER_ANSWERED = {
    errors.NoConsole,
    errors.ConsoleHeld,
    errors.ConsoleLost,
    errors.DescriptorRefused,
    errors.DiskLocked,
    errors.SRIError,
    errors.HypervisorError,
    errors.UnusableSave,
    errors.AddressHeld,
    errors.ConfigError,
}


@given(st.lists(st.integers(0, 70_000), max_size=5))
def test_a_stitched_reply_is_the_message(sizes: list[int]) -> None:
    machines = [pb.Machine(spec=pb.MachineSpec(ignition_data=b"x" * size)) for size in sizes]
    frames = [machine.SerializeToString() for machine in machines]
    assert list(pb.ListMachinesResponse.FromString(stitch(frames)).machines) == machines
    assert sum(Frame(data, {}, 0, False).size for data in frames) == len(stitch(frames))


@pytest.mark.parametrize("length", [0, 127, 128, 16383, 16384])
def test_lengths_at_the_edges(length: int) -> None:
    assert Frame(b"x" * length, {}, 0, False).size == len(stitch([b"x" * length]))


def test_every_error_has_a_code_or_is_a_bug() -> None:
    defined = {
        each
        for each in vars(errors).values()
        if inspect.isclass(each) and issubclass(each, errors.SRIError) and each not in NEVER_ANSWERED
    }
    assert defined == set(CODES)


def test_an_error_without_a_code_is_told_to_nobody() -> None:
    for error in (ProcessError("qemu-img: /a/path"), errors.HypervisorError("secret"), ValueError("secret")):
        assert _verdict("M", error) == (grpc.StatusCode.INTERNAL, "internal error, see the log")
    assert _verdict("M", errors.Unreachable("libvirt is away")) == (grpc.StatusCode.UNAVAILABLE, "libvirt is away")


def test_a_message_fits_into_trailers_and_stays_text() -> None:
    code, words = _verdict("M", errors.NotFound("ü" * 5000))
    assert code is grpc.StatusCode.NOT_FOUND
    assert 1900 < len(words.encode()) <= 2000
    assert set(words) == {"ü"}


def test_a_message_cannot_draw_where_a_client_prints_it() -> None:
    _, words = _verdict("M", errors.NotFound("a\x9b2J\u202e\x1b[m\nb"))
    assert words == "a\ufffd2J\ufffd\ufffd[m\ufffdb"


@pytest.mark.parametrize(
    ("address", "binding"),
    [
        ("127.0.0.1:0", Binding(host="127.0.0.1")),
        ("127.8.8.8:80", Binding(host="127.8.8.8", port=80)),
        ("[::1]:20250", Binding(host="[::1]", port=20250)),
        ("localhost:1", Binding(host="localhost", port=1)),
    ],
)
def test_loopback(address: str, binding: Binding) -> None:
    assert parse_address(address, insecure_tcp=False) == binding


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1"])
def test_tcp_beyond_loopback_must_be_allowed(address: str) -> None:
    with pytest.raises(ConfigError, match="--insecure-tcp"):
        parse_address(address, insecure_tcp=False)
    assert parse_address(address, insecure_tcp=True).port == 1


@pytest.mark.parametrize("address", ["unix:///run/s.sock", "unix:/run/s.sock"])
def test_unix(address: str) -> None:
    assert str(parse_address(address, insecure_tcp=False).path) == "/run/s.sock"


def test_a_relative_unix_path_needs_the_short_form() -> None:
    assert str(parse_address("unix:s.sock", insecure_tcp=False).path) == "s.sock"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/run/s.sock",
        "unix:",
        "unix://",
        "unix:///",
        "unix://s",
        "unix:/" + "x" * 103,
        "host",
        "host:",
        ":1",
        "h:70000",
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        parse_address(address, insecure_tcp=True)
