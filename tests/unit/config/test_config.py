"""Settings: one table, four sources in order, and every bad value told with its place."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from sri_libvirt import config
from sri_libvirt.errors import ConfigError
from sri_libvirt.records import SECOND

SAMPLES: dict[str, tuple[str, Any]] = {
    "address": ("unix:///run/other.sock", "unix:///run/other.sock"),
    "socket_group": ("pool", "pool"),
    "socket_mode": ("0600", 0o600),
    "insecure_tcp": ("true", True),
    "libvirt_uri": ("test:///default", "test:///default"),
    "state_dir": ("/srv/sri", Path("/srv/sri")),
    "streaming_address": ("[::1]:1", "[::1]:1"),
    "streaming_cert": ("/etc/sri-libvirt/tls.crt", Path("/etc/sri-libvirt/tls.crt")),
    "streaming_key": ("/etc/sri-libvirt/tls.key", Path("/etc/sri-libvirt/tls.key")),
    "base_url": ("https://host/consoles/", "https://host/consoles"),
    "console_takeover": ("true", True),
    "domain_type": ("qemu", "qemu"),
    "firmware": ("bios", "bios"),
    "pcie_ports": ("12", 12),
    "template_dir": ("/etc/t", Path("/etc/t")),
    "image_dir": ("/a", (Path("/a"),)),
    "image_source": ("oci://ghcr.io/org/*", ("oci://ghcr.io/org/*",)),
    "insecure_registry": ("10.0.0.1:5000", ("10.0.0.1:5000",)),
    "registry_auth": ("/etc/sri-libvirt/auth.json", Path("/etc/sri-libvirt/auth.json")),
    "registry_ca": ("/etc/ca.pem", Path("/etc/ca.pem")),
    "image_pulls": ("4", 4),
    "image_keep": ("1h", 3600 * SECOND),
    "image_min_free": ("10Gi", 10 << 30),
    "file_dir": ("/srv/volumes", (Path("/srv/volumes"),)),
    "nbd_socket_dir": ("/run/nbd", (Path("/run/nbd"),)),
    "block_device": ("/dev/vg0/*", ("/dev/vg0/*",)),
    "ceph_conf": ("/etc/ceph/other.conf", Path("/etc/ceph/other.conf")),
    "probe_timeout": ("2s500ms", 2_500_000_000),
    "machine_classes": ("/etc/classes.yaml", Path("/etc/classes.yaml")),
    "network_map": ("/etc/networks.yaml", Path("/etc/networks.yaml")),
    "allow_user_net": ("true", True),
    "reserved_memory": ("4Gi", 4 << 30),
    "reserved_cpus": ("500m", 500),
    "cpu_overcommit": ("1.5", Fraction(3, 2)),
    "disk_overcommit": ("2", Fraction(2)),
    "max_machines": ("100", 100),
    "shutdown_grace": ("1m30s", 90 * SECOND),
    "on_guest_poweroff": ("restart", "restart"),
    "detach_settle": ("2s500ms", 2_500_000_000),
    "detach_hold": ("1h", 3600 * SECOND),
    "lanes": ("7", 7),
    "call_deadline": ("90s", 90 * SECOND),
    "log_level": ("debug", "debug"),
    "log_format": ("json", "json"),
    "metrics_address": (":9100", ":9100"),
    "schema_dir": ("/opt/schemas", Path("/opt/schemas")),
    "sysfs": ("/host/sys", Path("/host/sys")),
    "procfs": ("/host/proc", Path("/host/proc")),
    "devpts": ("/host/dev/pts", Path("/host/dev/pts")),
    "backup_period": ("30m", 1800 * SECOND),
    "backups": ("3", 3),
}
"""A text other than the default for each setting, and its value."""


@pytest.fixture
def absent(tmp_path: Path) -> Path:
    return tmp_path / "absent.toml"


def test_the_table_and_the_settings_have_the_same_names() -> None:
    fields = [field.name for field in dataclasses.fields(config.Settings) if field.name != "sources"]
    assert fields == [option.name for option in config.OPTIONS] == list(SAMPLES)


@pytest.mark.rule("R-A9-2", "R-G10-2")
def test_defaults(absent: Path) -> None:
    settings = config.load(environ={}, default_file=absent)
    assert settings == config.Settings(
        address="unix:///var/run/sri-virtd.sock",
        socket_group="",
        socket_mode=0o660,
        insecure_tcp=False,
        libvirt_uri="qemu:///system",
        state_dir=Path("/var/lib/sri-libvirt"),
        streaming_address="127.0.0.1:20251",
        base_url="",
        streaming_cert=None,
        streaming_key=None,
        console_takeover=False,
        domain_type="auto",
        firmware="auto",
        pcie_ports=24,
        template_dir=None,
        image_dir=(),
        image_source=("oci://*",),
        insecure_registry=(),
        registry_auth=None,
        registry_ca=None,
        image_pulls=2,
        image_keep=168 * 3600 * SECOND,
        image_min_free=1 << 30,
        file_dir=(),
        nbd_socket_dir=(),
        block_device=(),
        ceph_conf=Path("/etc/ceph/sri-libvirt.conf"),
        probe_timeout=10 * SECOND,
        machine_classes=None,
        network_map=None,
        allow_user_net=False,
        reserved_memory=None,
        reserved_cpus=0,
        cpu_overcommit=Fraction(1),
        disk_overcommit=Fraction(1),
        max_machines=0,
        shutdown_grace=30 * SECOND,
        on_guest_poweroff="stay",
        detach_settle=2 * SECOND,
        detach_hold=600 * SECOND,
        call_deadline=120 * SECOND,
        lanes=4,
        log_level="info",
        log_format="auto",
        metrics_address="",
        schema_dir=Path("/usr/share/libvirt/schemas"),
        sysfs=Path("/sys"),
        procfs=Path("/proc"),
        devpts=Path("/dev/pts"),
        backup_period=6 * 3600 * SECOND,
        backups=8,
    )
    assert settings.image_dirs == (Path("/var/lib/sri-libvirt/images"),)


@pytest.mark.parametrize("name", SAMPLES)
def test_each_setting_from_the_environment(name: str, absent: Path) -> None:
    text, value = SAMPLES[name]
    settings = config.load(environ={f"SRI_LIBVIRT_{name.upper()}": text}, default_file=absent)
    assert getattr(settings, name) == value != getattr(config.load(environ={}, default_file=absent), name)


@pytest.mark.parametrize("name", SAMPLES)
def test_each_setting_from_toml(name: str, tmp_path: Path) -> None:
    text, value = SAMPLES[name]
    file = tmp_path / "config.toml"
    file.write_text(f"{name} = {text}\n" if config.BY_NAME[name].is_switch else f'{name} = "{text}"\n')
    assert getattr(config.load(environ={}, default_file=file), name) == value


def test_flags_before_environment_before_toml_before_default(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("lanes = 2\npcie_ports = 10\nlog_level = 'error'\n")
    environ = {"SRI_LIBVIRT_LANES": "3", "SRI_LIBVIRT_PCIE_PORTS": "11"}
    settings = config.load({"lanes": 4, "log_level": None, "image_dir": ()}, config=file, environ=environ)
    assert (settings.lanes, settings.pcie_ports, settings.log_level, settings.firmware) == (4, 11, "error", "auto")


def test_native_toml_values(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('socket_mode = 0o640\nlanes = 8\ninsecure_tcp = true\nimage_dir = ["/a", "/b"]\n')
    with file.open("a") as more:
        more.write("cpu_overcommit = 1.5\ndisk_overcommit = 2\nreserved_cpus = 3\nmachine_classes = 'auto'\n")
    settings = config.load(config=file, environ={})
    assert (settings.cpu_overcommit, settings.disk_overcommit) == (Fraction(3, 2), Fraction(2))
    assert (settings.reserved_cpus, settings.machine_classes) == (3000, None)
    assert (settings.socket_mode, settings.lanes, settings.insecure_tcp) == (0o640, 8, True)
    assert settings.image_dirs == (Path("/a"), Path("/b"))


def test_image_dirs_in_the_environment_are_a_list(absent: Path) -> None:
    settings = config.load(environ={"SRI_LIBVIRT_IMAGE_DIR": "/a:/b"}, default_file=absent)
    assert settings.image_dir == (Path("/a"), Path("/b"))


def test_paths_are_absolute(absent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = config.load(environ={"SRI_LIBVIRT_STATE_DIR": "a/../state"}, default_file=absent)
    assert settings.state_dir == tmp_path / "state"


def test_the_file_can_be_named_in_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text("lanes = 9")
    assert config.load(environ={"SRI_LIBVIRT_CONFIG": str(file)}).lanes == 9


def test_other_variables_of_our_prefix_are_no_mistake(absent: Path) -> None:
    config.load(environ={"SRI_LIBVIRT_PORT": "tcp://10.0.0.1:20251"}, default_file=absent)


def test_all_mistakes_are_told_with_their_places(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("lanes = 0\nlane = 3\nlibvirt_uri = 7\ninsecure_tcp = 'yes'\n[serve]\n")
    with pytest.raises(ConfigError) as caught:
        config.load(config=file, environ={"SRI_LIBVIRT_FIRMWARE": "coreboot"})
    assert str(caught.value).split("; ") == [
        f"{file}: unknown key 'lane'",
        f"{file}: unknown key 'serve'",
        f"{file}: insecure_tcp: must be true or false, not 'yes'",
        f"{file}: libvirt_uri: must be a string, not 7",
        "environment variable SRI_LIBVIRT_FIRMWARE: 'coreboot' is not one of auto, bios, uefi",
        f"{file}: lanes: '0' is not a whole number from 1 to 64",
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        config.load(config=tmp_path / "absent", environ={})
    (tmp_path / "bad").write_text("a = = b")
    with pytest.raises(ConfigError, match=r"bad: not TOML: .*line 1"):
        config.load(config=tmp_path / "bad", environ={})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30s", 30 * SECOND),
        ("1m30s", 90 * SECOND),
        ("500ms", SECOND // 2),
        ("2h", 7200 * SECOND),
        ("0s", 0),
        ("1h1ms", 3600_001_000_000),
    ],
)
def test_durations(text: str, value: int) -> None:
    assert config.duration(text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("shutdown_grace", ""),
        ("shutdown_grace", "30"),
        ("shutdown_grace", "30s1m"),
        ("shutdown_grace", "-1s"),
        ("shutdown_grace", "1.5s"),
        ("socket_mode", "660x"),
        ("socket_mode", "1777"),
        ("socket_mode", "0888"),
        ("address", "/run/x.sock"),
        ("address", ""),
        ("address", "unix:relative"),
        ("address", "unix:///"),
        ("address", "unix:///" + "a" * 120),
        ("address", "localhost"),
        ("address", "::1:80"),
        ("metrics_address", "1.2.3.4:99999"),
        ("streaming_address", "host:port"),
        ("base_url", "host:20251"),
        ("base_url", "http://host/?a=b"),
        ("base_url", "http://me@host"),
        ("reserved_memory", "much"),
        ("reserved_memory", "-1Gi"),
        ("reserved_cpus", "-1"),
        ("cpu_overcommit", "0"),
        ("cpu_overcommit", "0.000"),
        ("cpu_overcommit", "-1"),
        ("cpu_overcommit", "1e3"),
        ("disk_overcommit", "nan"),
        ("max_machines", "-1"),
        ("probe_timeout", "999ms"),
        ("probe_timeout", "61s"),
        ("probe_timeout", "10"),
        ("block_device", "vda"),
        ("block_device", "/srv/disk"),
        ("block_device", "/dev"),
        ("block_device", "/dev/../etc/*"),
        ("block_device", "/dev/vg0/"),
        ("block_device", "/dev/**"),
        ("pcie_ports", "1"),
        ("pcie_ports", "185"),
        ("pcie_ports", "٢٤"),
        ("lanes", "4.0"),
        ("insecure_tcp", "maybe"),
        ("log_level", "INFO"),
        ("state_dir", ""),
        ("state_dir", "a\0b"),
    ],
)
def test_bad_values(name: str, text: str, absent: Path) -> None:
    with pytest.raises(ConfigError, match=f"SRI_LIBVIRT_{name.upper()}: "):
        config.load(environ={f"SRI_LIBVIRT_{name.upper()}": text}, default_file=absent)


def test_more_ports_than_a_guest_can_use_are_refused_with_the_reason(absent: Path) -> None:
    assert config.load(environ={"SRI_LIBVIRT_PCIE_PORTS": "184"}, default_file=absent).pcie_ports == 184
    for text in ("185", "192"):
        with pytest.raises(ConfigError, match=f"{text} are too many: a guest with one vCPU has interrupt vectors"):
            config.load(environ={"SRI_LIBVIRT_PCIE_PORTS": text}, default_file=absent)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("1.2.3.4:80", "1.2.3.4", 80),
        ("[::1]:0", "::1", 0),
        (":9100", "127.0.0.1", 9100),
        ("node.example:65535", "node.example", 65535),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert config.split_host_port(text) == (host, port)
