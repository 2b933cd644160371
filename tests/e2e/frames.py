"""Frames that a guest sends, honest and forged, and how it is made to send them.

What a frame is of is in its name; its mark, some bytes of payload, tells it from all others where it arrives. The
sender is a program of one system call, brought with the frames by the machine's ignition data, for busybox has no raw
sockets. What lets which of them through does not belong here.
"""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from struct import pack

LAST = "the-last"
OWN_MAC = b"@MAC@"
"""Stands for the MAC of the NIC that sends: the guest puts it in."""

FOREIGN_MAC = bytes.fromhex("020000000bad")
OWN4, FOREIGN4 = IPv4Address("10.98.0.7"), IPv4Address("10.98.0.66")
OWN6, FOREIGN6 = IPv6Address("2001:db8::7"), IPv6Address("2001:db8::66")
NOBODY4, NOBODY6 = IPv4Address(0), IPv6Address(0)
LINK_LOCAL = IPv6Address("fe80::7")

_BROADCAST, _ALL_NODES = b"\xff" * 6, bytes.fromhex("333300000001")
_ALL = IPv6Address("ff02::1")
_ARP, _IPV4, _IPV6, _VLAN, _OTHER = 0x0806, 0x0800, 0x86DD, 0x8100, 0x88B5
_UDP, _ICMPV6, _HOP_BY_HOP = 17, 58, 0

_SENDER = r"""
/* frame INDEX <frame: standard input, one frame, is sent by the network device of this index. */
static long call(long n, long a, long b, long c, long d, long e, long f) {
    long result;
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
static char frame[2048];
__attribute__((used)) void begin(long *stack) {
    struct { short family, protocol; int index; short kind; char type, length, address[8]; } to = {17};
    for (char *digit = (char *)stack[2]; *digit; digit++) to.index = to.index * 10 + *digit - '0';
    long socket = call(41, 17, 3, 0, 0, 0, 0), size = call(0, 0, (long)frame, sizeof frame, 0, 0, 0);
    long sent = call(44, socket, (long)frame, size, 0, (long)&to, sizeof to);
    call(60, sent != size, 0, 0, 0, 0, 0);
}
__asm__(".globl _start\n_start: mov %rsp, %rdi\nand $-16, %rsp\ncall begin\n");
"""


Builder = Callable[[bytes], bytes]
"""Makes a frame that has a mark."""


def frames() -> Mapping[str, bytes]:
    """All of them by name, in the order in which they are sent; `LAST` is let through by every filter."""
    return {name: build(mark_of(number)) for number, (name, build) in enumerate(_builders())}


def mark_of(number: int) -> bytes:
    """The mark of the frame at this place among them."""
    return b"M%05d" % number


def _builders() -> Iterator[tuple[str, Builder]]:
    def ether(kind: int, rest: bytes, source: bytes = OWN_MAC, to: bytes = _BROADCAST) -> bytes:
        return to + source + pack("!H", kind) + rest

    def arp(mark: bytes, address: IPv4Address, mac: bytes = OWN_MAC) -> bytes:
        body = pack("!HHBBH", 1, _IPV4, 6, 4, 1) + mac + address.packed + bytes(6) + FOREIGN4.packed
        return ether(_ARP, body + bytes(12) + mark)

    def ipv4(mark: bytes, source: IPv4Address, ports: tuple[int, int] = (4000, 4001), *, part: int = 0) -> bytes:
        body = pack("!HHHH", *ports, 8 + len(mark), 0) + mark
        head = pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, part, 64, _UDP, 0) + source.packed + b"\xff" * 4
        return head[:10] + _checksum(head) + head[12:] + body

    def ipv6(source: IPv6Address, protocol: int, body: bytes, *, behind: bool = False) -> bytes:
        if behind:  # an empty hop-by-hop header: who looks at the first header alone sees no ICMPv6
            protocol, body = _HOP_BY_HOP, bytes([protocol, 0, 1, 4, 0, 0, 0, 0]) + body
        head = pack("!IHBB", 6 << 28, len(body), protocol, 255) + source.packed + _ALL.packed
        return head + body

    def six(source: IPv6Address, protocol: int, body: bytes, *, behind: bool = False) -> bytes:
        return ether(_IPV6, ipv6(source, protocol, body, behind=behind), to=_ALL_NODES)

    def udp6(mark: bytes, source: IPv6Address, ports: tuple[int, int] = (4000, 4001)) -> bytes:
        return six(source, _UDP, pack("!HHHH", *ports, 8 + len(mark), 0) + mark)

    def icmp6(mark: bytes, source: IPv6Address, kind: int, rest: bytes, *, behind: bool = False) -> bytes:
        body = rest + b"\xfd\x01" + mark
        pseudo = source.packed + _ALL.packed + pack("!II", 4 + len(body), _ICMPV6)
        checksum = _checksum(pseudo + bytes([kind, 0]) + body)  # the bridge looks at it behind a header
        return six(source, _ICMPV6, bytes([kind, 0]) + checksum + body, behind=behind)

    solicit = bytes(4) + OWN6.packed
    yield "own-ipv4", lambda mark: ether(_IPV4, ipv4(mark, OWN4))
    yield "own-arp", lambda mark: arp(mark, OWN4)
    yield "arp-probe", lambda mark: arp(mark, NOBODY4)
    yield "dhcp-request", lambda mark: ether(_IPV4, ipv4(mark, NOBODY4, (68, 67)))
    yield "own-ipv6", lambda mark: udp6(mark, OWN6)
    yield "link-local", lambda mark: udp6(mark, LINK_LOCAL)
    yield "duplicate-detection", lambda mark: icmp6(mark, NOBODY6, 135, solicit)
    yield "forged-neighbour", lambda mark: icmp6(mark, LINK_LOCAL, 136, bytes([0x20, 0, 0, 0]) + FOREIGN6.packed)
    yield "foreign-ipv4", lambda mark: ether(_IPV4, ipv4(mark, FOREIGN4))
    yield "foreign-arp", lambda mark: arp(mark, FOREIGN4)
    yield "arp-of-another-mac", lambda mark: arp(mark, OWN4, FOREIGN_MAC)
    yield "foreign-ipv6", lambda mark: udp6(mark, FOREIGN6)
    yield "nobody-ipv6", lambda mark: udp6(mark, NOBODY6)
    yield "nobody-ipv4", lambda mark: ether(_IPV4, ipv4(mark, NOBODY4))
    yield "dhcp-answer", lambda mark: ether(_IPV4, ipv4(mark, OWN4, (67, 68)))
    yield "dhcp-answer-in-parts", lambda mark: ether(_IPV4, ipv4(mark, OWN4, (67, 68), part=0x2000))
    yield "dhcpv6-answer", lambda mark: udp6(mark, OWN6, (547, 546))
    yield "dhcpv6-answer-on-the-link", lambda mark: udp6(mark, LINK_LOCAL, (547, 546))
    yield "router-advertisement", lambda mark: icmp6(mark, LINK_LOCAL, 134, bytes([64, 0, 7, 8]) + bytes(8))
    yield "router-of-nobody", lambda mark: icmp6(mark, NOBODY6, 134, bytes([64, 0, 7, 8]) + bytes(8))
    yield (
        "router-behind-a-header",
        lambda mark: icmp6(mark, LINK_LOCAL, 134, bytes([64, 0, 7, 8]) + bytes(8), behind=True),
    )
    yield "redirect", lambda mark: icmp6(mark, LINK_LOCAL, 137, bytes(4) + OWN6.packed + FOREIGN6.packed)
    yield "another-mac", lambda mark: ether(_IPV4, ipv4(mark, OWN4), FOREIGN_MAC)
    yield "vlan-tag", lambda mark: ether(_VLAN, pack("!HH", 42, _IPV4) + ipv4(mark, OWN4))
    yield "other-protocol", lambda mark: ether(_OTHER, bytes(40) + mark)
    yield LAST, lambda mark: udp6(mark, LINK_LOCAL)


def ignition(directory: Path) -> bytes:
    """The sender and all frames, for the guest. Needs gcc."""
    source, program = directory / "sender.c", directory / "sender"
    source.write_text(_SENDER)
    options = ["-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie", "-Os", "-s"]
    subprocess.run(["gcc", *options, "-Wl,--build-id=none", "-o", program, source], check=True)
    lines = [f"sender {base64.b64encode(program.read_bytes()).decode()}"]
    lines += [f"frame {_printed(frame)}" for frame in frames().values()]
    return "\n".join([*lines, ""]).encode()


SETUP = (
    "w=/sys/firmware/qemu_fw_cfg/by_name/opt/com.coreos/config/raw; sed -n 's/^sender //p' $w | base64 -d >/bin/frame; "
    "chmod +x /bin/frame; sed -n 's/^frame //p' $w >/run/frames"
)
"""What the guest has to do once."""


def sending(nic: str) -> str:
    """The guest's words for sending all of them, in their order, by a NIC."""
    device = f"/sys/class/net/{nic}"
    mac = f"m=$(printf '\\\\%03o' $(sed 's/^/0x/;s/:/ 0x/g' {device}/address))"
    return f"{mac}; while read -r f; do eval printf '\"'$f'\"' | frame $(cat {device}/ifindex); done </run/frames"


def _checksum(data: bytes) -> bytes:
    """As IPv4's header and ICMPv6 have it, of an even number of bytes without one."""
    total = sum(int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return pack("!H", ~total & 0xFFFF)


def _printed(frame: bytes) -> str:
    """A frame as printf's format, in which $m is the MAC."""
    return "$m".join("".join(f"\\{byte:03o}" for byte in part) for part in frame.split(OWN_MAC))
