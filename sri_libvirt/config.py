"""The program's settings: one table, from which flags, environment variables and TOML keys all come.

Precedence: flags, then `SRI_LIBVIRT_<NAME>` in the environment, then the TOML file, then the default. This is the only
place that reads the environment or TOML. What a setting does does not belong here, nor how a command line is parsed.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from sri_libvirt import quantity
from sri_libvirt.errors import ConfigError
from sri_libvirt.records import MOST_DEVICES, SECOND

DEFAULT_FILE = Path("/etc/sri-libvirt/config.toml")
PREFIX = "SRI_LIBVIRT_"


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, parsed. Durations are nanoseconds; an empty string or None means "not set"."""

    address: str
    socket_group: str
    socket_mode: int
    insecure_tcp: bool
    libvirt_uri: str
    state_dir: Path
    streaming_address: str
    streaming_cert: Path | None
    streaming_key: Path | None
    base_url: str
    console_takeover: bool
    domain_type: Literal["auto", "kvm", "qemu"]
    firmware: Literal["auto", "bios", "uefi"]
    pcie_ports: int
    template_dir: Path | None
    image_dir: tuple[Path, ...]
    image_source: tuple[str, ...]
    insecure_registry: tuple[str, ...]
    registry_auth: Path | None
    registry_ca: Path | None
    image_pulls: int
    image_keep: int
    image_min_free: int
    file_dir: tuple[Path, ...]
    nbd_socket_dir: tuple[Path, ...]
    block_device: tuple[str, ...]
    ceph_conf: Path
    probe_timeout: int
    machine_classes: Path | None
    network_map: Path | None
    allow_user_net: bool
    reserved_memory: int | None
    reserved_cpus: int
    cpu_overcommit: Fraction
    disk_overcommit: Fraction
    max_machines: int
    shutdown_grace: int
    on_guest_poweroff: Literal["stay", "restart"]
    detach_settle: int
    detach_hold: int
    lanes: int
    call_deadline: int
    log_level: str
    log_format: Literal["auto", "json", "console"]
    metrics_address: str
    schema_dir: Path
    sysfs: Path
    procfs: Path
    devpts: Path
    backup_period: int
    backups: int
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Where each comes from: `--flag`, an environment variable, a file's key, or "default"."""

    @property
    def image_dirs(self) -> tuple[Path, ...]:
        """Where local images may lie: `image_dir`, or `images` in the state directory."""
        return self.image_dir or (self.state_dir / "images",)


@dataclass(frozen=True, slots=True)
class Option:
    """One setting. `parse` makes its value of a text, or raises ValueError with a sentence.

    `native` are the types that TOML may give instead of a text; they go through `parse` as `str(value)`, numbers of an
    octal setting in octal. `multiple`: a flag that repeats, a TOML array, in the environment a list with a `separator`.
    """

    name: str
    parse: Callable[[str], Any]
    default: str
    help: str
    metavar: str = "TEXT"
    choices: tuple[str, ...] = ()
    native: type | None = None
    multiple: bool = False
    separator: str = os.pathsep

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def is_switch(self) -> bool:
        return self.native is bool

    def written(self, value: Any) -> Any:
        """The text, list of texts or yes or no of which `of_toml` makes this value again."""
        if self.is_switch:
            return value
        return [self._text(each) for each in value] if self.multiple else self._text(value)

    def _text(self, value: Any) -> str:
        if value is None:
            return self.default
        if isinstance(value, Fraction):
            return repr(float(value))
        if self.metavar == "DURATION":
            return duration_text(value)
        if self.parse is octal_mode:
            return f"{value:04o}"
        return f"{value}m" if self.parse is cpu_millis else str(value)

    def of_text(self, text: str) -> Any:
        """The value of a text from the environment, or the default."""
        if self.multiple:
            return tuple(self.parse(part) for part in text.split(self.separator) if part)
        return self.parse(text)

    def of_toml(self, value: object) -> Any:
        """The value of what a TOML file holds. Raises ValueError."""
        if self.multiple and isinstance(value, list):
            return tuple(self.of_toml_item(item) for item in value)
        item = self.of_toml_item(value)
        return (item,) if self.multiple else item

    def of_toml_item(self, value: object) -> Any:
        if isinstance(value, str) and not self.is_switch:
            return self.parse(value)
        if self.native is None or type(value) not in (self.native, *([int] if self.native is float else [])):
            wanted = "true or false" if self.is_switch else "a string" if self.native is None else "a number"
            raise ValueError(f"must be {wanted}, not {value!r}")
        return self.parse(f"{value:o}" if self.parse is octal_mode else str(value))


def duration(text: str) -> int:
    """Nanoseconds of `30s`, `1m30s`, `500ms`, `2h`. Raises ValueError."""
    match = re.fullmatch(r"(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?(?:([0-9]+)ms)?", text)
    if not match or not text:
        raise ValueError(f"{text!r} is not a duration such as 30s, 1m30s or 500ms")
    hours, minutes, seconds, milliseconds = (int(part or 0) for part in match.groups())
    return (hours * 3600 + minutes * 60 + seconds) * SECOND + milliseconds * 1_000_000


def duration_text(nanoseconds: int) -> str:
    """The text of a duration, such as 1m30s."""
    seconds, rest = divmod(nanoseconds, SECOND)
    units = ((seconds // 3600, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s"), (rest // 1_000_000, "ms"))
    return "".join(f"{number}{unit}" for number, unit in units if number) or "0s"


def bounded_duration(least: int, most: int) -> Callable[[str], int]:
    """A parser of durations from `least` to `most` seconds."""

    def parse(text: str) -> int:
        found = duration(text)
        if not least * SECOND <= found <= most * SECOND:
            raise ValueError(f"{text!r} is not a duration from {least}s to {most}s")
        return found

    return parse


def octal_mode(text: str) -> int:
    """A file mode such as 0660. Raises ValueError."""
    if not re.fullmatch(r"(0o)?[0-7]{1,4}", text) or int(text.removeprefix("0o"), 8) > 0o777:
        raise ValueError(f"{text!r} is not an octal file mode such as 0660")
    return int(text.removeprefix("0o"), 8)


def switch(text: str) -> bool:
    """A yes or no. Raises ValueError."""
    match text.strip().lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off" | "":
            return False
    raise ValueError(f"{text!r} is not true or false")


def integer(least: int, most: int) -> Callable[[str], int]:
    """A parser of whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return parse


def pcie_ports(text: str) -> int:
    """How many PCIe root ports a machine has: 2 for its image and its seed, or more. Raises ValueError."""
    if re.fullmatch(r"[0-9]{1,9}", text) and int(text) > MOST_DEVICES:
        raise ValueError(
            f"{text} are too many: a guest with one vCPU has interrupt vectors for {MOST_DEVICES}, and what is plugged "
            "into the others it would not see"
        )
    return integer(2, MOST_DEVICES)(text)


def memory_reserve(text: str) -> int | None:
    """Bytes of a quantity such as 4Gi; None for `auto`. Raises ValueError."""
    return None if text == "auto" else _not_negative(quantity.whole(text), text)


def cpu_millis(text: str) -> int:
    """Thousandths of a CPU of a quantity such as 2 or 500m. Raises ValueError."""
    return _not_negative(quantity.millis(text), text)


def ratio(text: str) -> Fraction:
    """A ratio such as 1.5, exactly. Raises ValueError."""
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or not Fraction(text):
        raise ValueError(f"{text!r} is not a ratio such as 1.0 or 1.5, above 0")
    return Fraction(text)


def _not_negative(value: int, text: str) -> int:
    if value < 0:
        raise ValueError(f"{text} must not be negative")
    return value


def one_of(*words: str) -> Callable[[str], str]:
    """A parser that takes these words only."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is not one of {', '.join(words)}")
        return text

    return parse


def split_host_port(text: str) -> tuple[str, int]:
    """Host and port of `host:port`, `[v6]:port` or `:port` (which is loopback). Raises ValueError."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535 or (":" in host and not bracketed):
        raise ValueError(f"{text!r} is not an address such as 127.0.0.1:20251 or [::1]:20251")
    return host.strip("[]") or "127.0.0.1", int(port)


def is_loopback(host: str) -> bool:
    """Whether an address, or a name, is of this host alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_port(text: str) -> str:
    """The text, checked by `split_host_port`; "" stays "" (off)."""
    if text:
        split_host_port(text)
    return text


def base_url(text: str) -> str:
    """The text without a slash at its end, checked; "" stays "". Raises ValueError."""
    if text and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", text):
        raise ValueError(f"{text!r} is not a URL such as http://10.0.0.1:20251, without a query and a user")
    return text.rstrip("/")


def listen_address(text: str) -> str:
    """Where gRPC listens: `unix:///path` or `host:port`. Raises ValueError."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/") or path.endswith("/") or len(os.fsencode(path)) > 107:
            raise ValueError(f"{text!r} does not name a socket by an absolute path of at most 107 bytes")
        return text
    if not text or text.startswith("/"):
        raise ValueError(f"{text!r} is not an address; a socket is written unix://{text or '/path'}")
    return host_port(text)


def absolute_path(text: str) -> Path:
    """A path, made absolute (a daemon's working directory is nobody's choice). Raises ValueError."""
    if not text or "\0" in text:
        raise ValueError("the path is empty or holds a NUL")
    return Path(os.path.normpath(Path.cwd() / text))


def device_pattern(text: str) -> str:
    """A pattern of paths of block devices, such as /dev/vg0/*. Raises ValueError."""
    if not text.startswith("/dev/") or "\0" in text or os.path.normpath(text) != text:
        raise ValueError(f"{text!r} is not an absolute path below /dev without '.', '..', '//' and a slash at its end")
    if "**" in text:
        raise ValueError(f"{text!r} holds '**': a '*' stands for characters of one name, never for a slash")
    return text


def image_pattern(text: str) -> str:
    """A pattern of images that may be fetched, or `none`. Raises ValueError."""
    if text != "none" and not re.fullmatch(r"(oci|https|http)://[^/?#\s,]+(/[^\s,]*)?", text):
        raise ValueError(
            f"{text!r} is not a pattern such as oci://ghcr.io/org/*, https://images.example.org/*, oci://* or none"
        )
    return text


def registry_host(text: str) -> str:
    """The host of a registry, with its port where it has one. Raises ValueError."""
    if not re.fullmatch(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", text):
        raise ValueError(f"{text!r} is not a host such as registry.example.org or 10.0.0.1:5000")
    return text


def whole_bytes(text: str) -> int:
    """Bytes of a quantity such as 10Gi. Raises ValueError."""
    return _not_negative(quantity.whole(text), text)


def optional_path(text: str) -> Path | None:
    """A path, or None for ""."""
    return absolute_path(text) if text else None


def auto_path(text: str) -> Path | None:
    """A path, or None for `auto`."""
    return None if text == "auto" else optional_path(text)


def _choice(name: str, words: str, default: str, help: str) -> Option:  # noqa: A002
    choices = tuple(words.split("|"))
    return Option(name, one_of(*choices), default, help, f"[{words}]", choices)


OPTIONS: tuple[Option, ...] = (
    Option("address", listen_address, "unix:///var/run/sri-virtd.sock", "Where the SRI is served.", "ADDRESS"),
    Option("socket_group", str, "", "Group that owns the socket; the daemon's own when empty.", "GROUP"),
    Option("socket_mode", octal_mode, "0660", "Mode of the socket, octal.", "MODE", native=int),
    Option(
        "insecure_tcp", switch, "false", "Allow TCP on other addresses than loopback (no authentication!).", native=bool
    ),
    Option("libvirt_uri", str, "qemu:///system", "libvirt to use.", "URI"),
    Option("state_dir", absolute_path, "/var/lib/sri-libvirt", "Where the store and the machines' files are.", "DIR"),
    Option(
        "streaming_address",
        host_port,
        "127.0.0.1:20251",
        "Where console sessions are served; nowhere when empty.",
        "HOST:PORT",
    ),
    Option(
        "streaming_cert",
        optional_path,
        "",
        "Certificate for it, PEM, with what leads to its authority; without one there is no encryption.",
        "FILE",
    ),
    Option("streaming_key", optional_path, "", "The certificate's key, PEM.", "FILE"),
    Option(
        "base_url", base_url, "", "What clients reach the streaming address by, if by another name.", "http://HOST:PORT"
    ),
    Option(
        "console_takeover", switch, "false", "Let a second console session of a machine end the first.", native=bool
    ),
    _choice("domain_type", "auto|kvm|qemu", "auto", "Virtualisation of new machines; auto probes whether KVM works."),
    _choice("firmware", "auto|bios|uefi", "auto", "Firmware of new machines; auto is UEFI when the host has one."),
    Option("pcie_ports", pcie_ports, "24", "Devices that a new machine can hold.", "N", native=int),
    Option("template_dir", optional_path, "", "Templates of yours that override ours, file by file.", "DIR"),
    Option(
        "image_dir",
        absolute_path,
        "",
        "Where local images may lie [<state-dir>/images]; repeats.",
        "DIR",
        multiple=True,
    ),
    Option(
        "image_source",
        image_pattern,
        "oci://*",
        "What images may be fetched: oci://HOST/REPOSITORY and https://HOST/PATH with globs, or none; repeats. Any "
        "registry and no web server by default; in the environment a list with commas.",
        "PATTERN",
        multiple=True,
        separator=",",
    ),
    Option(
        "insecure_registry",
        registry_host,
        "",
        "Hosts that are asked by plain http, without TLS; repeats. None by default; in the environment a list with "
        "commas.",
        "HOST",
        multiple=True,
        separator=",",
    ),
    Option(
        "registry_auth",
        optional_path,
        "",
        "Passwords for registries, in the form of Docker's config.json; it is read for each question.",
        "FILE",
    ),
    Option("registry_ca", optional_path, "", "Authorities, besides the host's, that sign certificates.", "FILE"),
    Option("image_pulls", integer(1, 16), "2", "Images that are fetched at a time.", "N", native=int),
    Option("image_keep", duration, "168h", "How long a fetched image is kept that no machine needs.", "DURATION"),
    Option(
        "image_min_free",
        whole_bytes,
        "1Gi",
        "Images that no machine needs are given up while the file system has less than this.",
        "BYTES",
        native=int,
    ),
    Option(
        "file_dir",
        absolute_path,
        "",
        "Where volumes that are files may lie; repeats. None by default.",
        "DIR",
        multiple=True,
    ),
    Option(
        "nbd_socket_dir",
        absolute_path,
        "",
        "Where sockets of NBD volumes may lie; repeats. None by default.",
        "DIR",
        multiple=True,
    ),
    Option(
        "block_device",
        device_pattern,
        "",
        "Block devices that volumes may name, as /dev/vg0/*; repeats. None by default; in the environment write ? for "
        "a colon.",
        "PATTERN",
        multiple=True,
    ),
    Option(
        "ceph_conf",
        absolute_path,
        "/etc/ceph/sri-libvirt.conf",
        "What librados of Ceph volumes reads where it exists; AppArmor lets QEMU read /etc/ceph/*.conf alone.",
        "FILE",
    ),
    Option(
        "probe_timeout",
        bounded_duration(1, 60),
        "10s",
        "How long a volume's backend may take to answer before QEMU is given the volume.",
        "DURATION",
    ),
    Option(
        "machine_classes",
        auto_path,
        "auto",
        "File of machine classes; auto is a ladder that fits the host, as of the first run.",
        "FILE",
    ),
    Option(
        "network_map",
        optional_path,
        "",
        "File that says which network ids lead to which driver; without one isolated and libvirt networks are had.",
        "FILE",
    ),
    Option(
        "allow_user_net",
        switch,
        "false",
        "Let the network map name user networking, whose guests reach this host's loopback.",
        native=bool,
    ),
    Option(
        "reserved_memory",
        memory_reserve,
        "auto",
        "Memory that the host keeps for itself; auto is 2 %, at least 1 GiB.",
        "BYTES",
        native=int,
    ),
    Option("reserved_cpus", cpu_millis, "0", "CPUs that the host keeps for itself, as 2 or 500m.", "CPUS", native=int),
    Option("cpu_overcommit", ratio, "1.0", "How many CPUs may be promised for each.", "RATIO", native=float),
    Option("disk_overcommit", ratio, "1.0", "How many bytes of disk may be promised for each.", "RATIO", native=float),
    Option(
        "max_machines", integer(0, 1_000_000), "0", "Machines that this host takes; 0 is no limit.", "N", native=int
    ),
    Option("shutdown_grace", duration, "30s", "How long a guest may take to power off.", "DURATION"),
    _choice("on_guest_poweroff", "stay|restart", "stay", "What becomes of a guest that powers itself off."),
    Option(
        "detach_settle", duration, "2s", "How long a detached device may come back before it is unplugged.", "DURATION"
    ),
    Option(
        "detach_hold",
        duration,
        "10m",
        "How long empty disks stay plugged when all volumes of a running machine are detached.",
        "DURATION",
    ),
    Option("lanes", integer(1, 64), "4", "Machines that are worked on at a time.", "N", native=int),
    Option(
        "call_deadline",
        duration,
        "2m",
        "When a call of libvirt that starts, ends or defines counts as stuck; others do sooner, a whole action later.",
        "DURATION",
    ),
    _choice("log_level", "debug|info|warning|error", "info", "Least level that is logged."),
    _choice("log_format", "auto|json|console", "auto", "Form of the log; auto is console on a terminal, else JSON."),
    Option("metrics_address", host_port, "", "Where Prometheus metrics are served; off when empty.", "HOST:PORT"),
    Option("schema_dir", absolute_path, "/usr/share/libvirt/schemas", "libvirt's own XML schemas.", "DIR"),
    Option("sysfs", absolute_path, "/sys", "Where the host's sysfs is mounted.", "DIR"),
    Option("procfs", absolute_path, "/proc", "Where the host's procfs is mounted.", "DIR"),
    Option("devpts", absolute_path, "/dev/pts", "Where the host's terminals are, for typing at consoles.", "DIR"),
    Option("backup_period", duration, "6h", "How often the store is backed up; 0s is never.", "DURATION"),
    Option("backups", integer(1, 1000), "8", "Automatic backups that are kept.", "N", native=int),
)
"""The one table of settings; names are those of `Settings`."""

BY_NAME = {option.name: option for option in OPTIONS}


DEFAULT = "default"
RUNNING = "the provider that runs"
"""Where a value comes from that nobody has chosen, and one that a daemon has kept."""


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
    default_file: Path = DEFAULT_FILE,
    effective: Mapping[str, Any] = MappingProxyType({}),
) -> Settings:
    """The settings of this process. Raises ConfigError that names the place of every bad value.

    `flags` holds parsed values by name; None means that the flag was not given. `config` is the TOML file of
    `--config`, which must exist; without it (and `SRI_LIBVIRT_CONFIG`) the default file is read when it exists.
    Unknown variables `SRI_LIBVIRT_*` are no mistake: Kubernetes makes some for a Service of that name.
    `effective` are the values that a daemon runs with: before all but flags, and a file that is given as one.
    """
    environ = os.environ if environ is None else environ
    flags = {name: value for name, value in (flags or {}).items() if value is not None and value != ()}
    named = config or optional_path(environ.get(PREFIX + "CONFIG", ""))
    file = named or (default_file if default_file.exists() else None)
    written = read_file(file) if file else {}
    mistakes = [f"{file}: unknown key {key!r}" for key in written if key not in BY_NAME]
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in OPTIONS:
        place = option.flag
        try:
            if option.name in flags:
                values[option.name] = flags[option.name]
            elif option.name in effective and not (config and option.name in written):
                place = RUNNING
                values[option.name] = effective[option.name]
            elif option.variable in environ:
                place = f"environment variable {option.variable}"
                values[option.name] = option.of_text(environ[option.variable])
            elif option.name in written:
                place = f"{file}: {option.name}"
                values[option.name] = option.of_toml(written[option.name])
            else:
                place = DEFAULT
                values[option.name] = option.of_text(option.default)
        except ValueError as error:
            mistakes.append(f"{place}: {error}")
        sources[option.name] = place
    if mistakes:
        raise ConfigError("; ".join(mistakes))
    return Settings(**values, sources=sources)


def failpoint(environ: Mapping[str, str] | None = None) -> str:
    """What a test of this process arms (`failpoints.armed_by`), "" in production. Not a setting: no flag, no file."""
    return (os.environ if environ is None else environ).get(PREFIX + "FAILPOINT", "")


def has_colours(environ: Mapping[str, str] | None = None) -> bool:
    """Whether a user's terminal may be given colours. Not a setting: NO_COLOR (no-color.org)."""
    return not (os.environ if environ is None else environ).get("NO_COLOR")


def silence_grpc() -> None:
    """Keep gRPC's core, which is told by the environment alone, from lines of its own in the log: before its import.

    What it says of a failure the calls say too.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def is_journal(descriptor: int, environ: Mapping[str, str] | None = None) -> bool:
    """Whether what is written there goes to systemd's journal. Not a setting: JOURNAL_STREAM, systemd.exec(5)."""
    stream = (os.environ if environ is None else environ).get("JOURNAL_STREAM", "")
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return stream == f"{found.st_dev}:{found.st_ino}"


def service_manager(pid: int, environ: Mapping[str, str] | None = None) -> tuple[str, float]:
    """Who started the process `pid` and wants to be told how it is: the socket ("" for nobody), and within how many
    seconds it wants each sign of life (0: none). Not a setting: sd_notify(3), sd_watchdog_enabled(3)."""
    environ = os.environ if environ is None else environ
    period = environ.get("WATCHDOG_USEC", "")
    ours = environ.get("WATCHDOG_PID", str(pid)) == str(pid)  # else it is meant for our parent
    watchdog = int(period) / 1e6 if ours and re.fullmatch(r"[0-9]{1,18}", period) else 0.0
    return environ.get("NOTIFY_SOCKET", ""), watchdog


def read_file(path: Path) -> dict[str, Any]:
    """A TOML file's top-level table. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
