"""What an operator gets in deploy/, judged by systemd's, Kubernetes' and the shell's own tools; offline, nothing runs.

What these files do on a host is proven in tests/vm.
"""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from sri_libvirt import config
from sri_libvirt.host import boot

DEPLOY = Path(__file__).parents[2] / "deploy"
SYSTEMD = DEPLOY / "systemd"
KUBERNETES = DEPLOY / "kubernetes"
SERVICES = ["sri-libvirt.service", "machinepoollet.service"]
SCRIPTS = ["install.sh", "uninstall.sh"]
OLDEST = "1.29"
"""The first Kubernetes with sidecars."""

POOLLET_FLAGS = {
    "--kubeconfig",
    "--machine-pool-name",
    "--provider-id",
    "--machine-runtime-endpoint",
    "--machine-runtime-socket-discovery-timeout",
    "--dial-timeout",
    "--mcm-sync-timeout",
    "--machine-downward-api-label",
    "--machine-downward-api-annotation",
    "--metrics-bind-address",
    "--health-probe-bind-address",
}
"""What a machinepoollet takes, without --leader-elect, which is never right here (contract H)."""

systemd_analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


def unit(name: str) -> dict[str, list[str]]:
    """Settings of a unit file; continued lines are joined, a setting that repeats has several values."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in (SYSTEMD / name).read_text().replace("\\\n", " ").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[key].append(" ".join(value.split()))
    return found


def manifests() -> list[dict[str, Any]]:
    files = [path for path in sorted(KUBERNETES.glob("*.yaml")) if path.name != "kustomization.yaml"]
    return [document for path in files for document in yaml.safe_load_all(path.read_text())]


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = (document for document in manifests() if document["kind"] == kind)
    return dict(found)


def pod() -> dict[str, Any]:
    return dict(of_kind("DaemonSet")["spec"]["template"]["spec"])


def mounts(container: dict[str, Any]) -> dict[str, str]:
    return {each["mountPath"]: each["name"] for each in container["volumeMounts"]}


# --- systemd -------------------------------------------------------------------------------------


@systemd_analyze
@pytest.mark.parametrize("name", SERVICES)
def test_systemd_has_nothing_against_a_unit(name: str, tmp_path: Path) -> None:
    for each in SERVICES:  # one names the other
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", (SYSTEMD / each).read_text(), flags=re.MULTILINE)
        (tmp_path / each).write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / name], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if name in line] == []


@systemd_analyze
def test_a_setting_that_systemd_does_not_know_would_be_found(tmp_path: Path) -> None:
    name = SERVICES[0]
    (tmp_path / name).write_text((SYSTEMD / name).read_text().replace("WatchdogSec", "WatchdogSeconds"))
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / name], capture_output=True, text=True, check=False)
    assert "WatchdogSeconds" in done.stderr


@systemd_analyze
@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_sandboxed(name: str) -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--threshold=40", str(SYSTEMD / name)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if "Unknown" in done.stderr or "unrecognized" in done.stderr:
        pytest.skip(f"this systemd cannot judge a unit file: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_the_daemon_is_restarted_watched_and_never_ends_a_guest() -> None:
    found = unit("sri-libvirt.service")
    assert found["Type"] == ["notify"]
    assert found["Restart"] == ["always"]
    assert int(found["WatchdogSec"][0]) >= 30
    assert found["KillMode"] == ["mixed"]
    assert "machine.slice" not in found["Slice"]
    for name in ("libvirtd.service", "virtqemud.socket", "virtlogd.socket", "libvirt-guests.service"):
        assert name in found["After"][0].split()
    # A host runs one kind of daemons; wanting the other would start it.
    assert found["Wants"] == ["virtlogd.socket", "time-sync.target"]
    assert "Requires" not in found
    assert "BindsTo" not in found


def test_kvm_is_allowed_by_number_so_that_a_device_that_comes_after_the_unit_is_too() -> None:
    assert unit("sri-libvirt.service")["DeviceAllow"] == ["/dev/char/10:232 rw", "/dev/char/10:200 rw"]


def test_directories_have_the_modes_that_qemu_needs() -> None:
    found = unit("sri-libvirt.service")
    assert found["StateDirectory"] == ["sri-libvirt"]
    assert found["StateDirectoryMode"] == ["0711"]
    assert config.BY_NAME["state_dir"].default == "/var/lib/sri-libvirt"


def test_the_socket_is_where_units_and_the_link_have_it() -> None:
    settings = config.load(config=DEPLOY / "config.toml", environ={})
    assert unit("sri-libvirt.service")["RuntimeDirectory"] == ["sri-libvirt"]
    assert settings.address == "unix:///run/sri-libvirt/sri-virtd.sock"
    assert f"--machine-runtime-endpoint={settings.address}" in unit("machinepoollet.service")["ExecStart"][0]
    assert unit("machinepoollet.service")["SupplementaryGroups"] == [settings.socket_group] == ["sri-libvirt"]
    link = (SYSTEMD / "sri-libvirt.tmpfiles.conf").read_text().splitlines()[-1].split()
    assert link[:2] == ["L+", config.BY_NAME["address"].default.removeprefix("unix:///var")]
    assert Path("/run", link[-1]) == Path(settings.address.removeprefix("unix://"))


def test_the_example_of_a_drop_in_names_an_option() -> None:
    (setting,) = unit("poollet-group.conf")["Environment"]
    assert setting.split("=")[0] == config.BY_NAME["socket_group"].variable


def test_every_key_in_the_example_settings_is_an_option() -> None:
    text = (DEPLOY / "config.toml").read_text()
    keys = re.findall(r"^#?([a-z_]+) = ", text, flags=re.MULTILINE)
    assert len(keys) > 5
    assert set(keys) <= config.BY_NAME.keys()
    uncommented = re.sub(r"^#(?=[a-z_]+ = )", "", text, flags=re.MULTILINE)
    assert uncommented != text


def test_all_commented_settings_are_valid_too(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    text = (DEPLOY / "config.toml").read_text()
    file.write_text(re.sub(r"^#(?=[a-z_]+ = )", "", text, flags=re.MULTILINE))
    assert config.load(config=file, environ={}).image_dirs == (Path("/srv/images"),)


def poollet_flags(arguments: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in arguments if word.startswith("--")}


def test_poollets_get_flags_that_they_know() -> None:
    on_host = poollet_flags(unit("machinepoollet.service")["ExecStart"][0].split())
    in_pod = poollet_flags(pod()["containers"][0]["args"])
    for flags in (on_host, in_pod):
        assert {"--machine-pool-name", "--provider-id", "--machine-runtime-endpoint"} <= flags <= POOLLET_FLAGS


def test_a_poollet_starts_after_the_provider_serves() -> None:
    found = unit("machinepoollet.service")
    assert "sri-libvirt.service" in found["After"][0].split()
    assert found["Requires"] == ["sri-libvirt.service"]


# --- scripts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_posix_shell_and_say_how_they_are_used(name: str) -> None:
    done = subprocess.run([DEPLOY / name, "--no-such-option"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"deploy/{name}" in done.stderr
    assert (DEPLOY / name).read_text().startswith("#!/bin/sh\n")
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", DEPLOY / name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def shell_functions(script: str, *names: str) -> str:
    """These functions of a script, as shell source."""
    text = (DEPLOY / script).read_text()
    found = {name: re.search(rf"^{name}\(\) {{.*?^}}$", text, re.MULTILINE | re.DOTALL) for name in names}
    return "\n".join(match.group() for match in found.values() if match)


def test_the_newest_release_is_the_one_installed_last_whatever_the_clock_said(tmp_path: Path) -> None:
    releases = tmp_path / "releases"
    releases.mkdir()
    for name in ("000009-20360101T000000Z", "20251101T000000Z", "000010-20240101T000000Z", "20251102T000000Z"):
        (releases / name).mkdir()
    source = f"root={tmp_path}\n{shell_functions('install.sh', 'releases', 'next_release')}\nreleases\nnext_release"
    done = subprocess.run(["sh", "-euc", source], capture_output=True, text=True, check=True)
    *ordered, latest = done.stdout.splitlines()
    assert ordered == [
        "20251101T000000Z", "20251102T000000Z", "000009-20360101T000000Z", "000010-20240101T000000Z",
    ]  # fmt: skip
    assert re.fullmatch(rf"{releases}/000011-\d{{8}}T\d{{6}}Z", latest)


def test_the_first_release_is_the_first(tmp_path: Path) -> None:
    (tmp_path / "releases").mkdir()
    source = f"root={tmp_path}\n{shell_functions('install.sh', 'releases', 'next_release')}\nnext_release"
    done = subprocess.run(["sh", "-euc", source], capture_output=True, text=True, check=True)
    assert "/releases/000001-" in done.stdout


def test_the_daemon_waits_for_the_clock() -> None:
    assert "time-sync.target" in unit("sri-libvirt.service")["After"][0].split()
    assert "time-sync.target" in " ".join(unit("sri-libvirt.service")["Wants"]).split()


def test_librados_gets_times_to_connect_in_and_none_for_what_waits_for_a_disk_in_use() -> None:
    found = configparser.ConfigParser()
    found.read(DEPLOY / "ceph.conf")
    assert {name: dict(found[name]) for name in found.sections()} == {
        "global": {"client mount timeout": "5", "rados mon op timeout": "5"}
    }
    path = config.BY_NAME["ceph_conf"].default
    assert re.fullmatch(r"/etc/ceph/[^/]+\.conf", path), "AppArmor lets QEMU read no other"
    install = (DEPLOY / "install.sh").read_text()
    kept = f'[ ! -e {path} ]; then\n    install -D -m 644 "$here/ceph.conf" {path}\n'
    assert kept in install, "an operator's stays as it is"


def test_what_install_installs_uninstall_removes() -> None:
    install, uninstall = ((DEPLOY / name).read_text() for name in SCRIPTS)
    for name in ("sri-libvirt.service", "machinepoollet.service", "/etc/tmpfiles.d/sri-libvirt.conf"):
        assert name in install
        assert name in uninstall
    for line in ("root=/usr/local/lib/sri-libvirt", "/usr/local/bin/sri-libvirt"):
        assert line in install
        assert line in uninstall


UNINSTALLED = """
for each in /usr/local /var/lib /etc; do mount -t tmpfs tmpfs "$each"; done
mkdir -p /usr/local/lib/sri-libvirt/current/bin /usr/local/bin /etc/sri-libvirt /etc/systemd/system
touch /etc/systemd/system/sri-libvirt.service
export PATH="$0:$PATH"
ln -s "$0/program" /usr/local/lib/sri-libvirt/current/bin/sri-libvirt
mkdir -p /var/lib/sri-libvirt/store /var/lib/sri-libvirt/machines/a-machine
touch /var/lib/sri-libvirt/store/state.sqlite /var/lib/sri-libvirt/machines/a-machine/disk.qcow2
mkdir /etc/ceph
touch /etc/ceph/sri-libvirt.conf
sh -ec "$1"
status=0
"$2" --purge $3 || status=$?
for each in /var/lib/sri-libvirt/machines/a-machine/disk.qcow2 /etc/systemd/system/sri-libvirt.service \\
    /usr/local/lib/sri-libvirt /etc/ceph; do
    [ ! -e "$each" ] || echo "left $each" >>"$0/log"
done
exit "$status"
"""

FAKES = {
    # What was asked for, and whether libvirt answers: a file tells in which call it goes away.
    "program": """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
echo "program $*" >>"$here/log"
case $* in *--yes*) [ ! -e "$here/away-later" ] ;; *) [ ! -e "$here/away" ] ;; esac || exit 1
case $* in *--yes*) rm -rf /var/lib/sri-libvirt/machines/a-machine ;; esac
""",
    "systemctl": """#!/bin/sh\necho "systemctl $*" >>"${0%/*}/log"\n""",
    # By name no guest is ever asked for or ended.
    "virsh": """#!/bin/sh
echo "virsh ${*#-q -c qemu:///system }" >>"${0%/*}/log"
case $* in *nwfilter-list) printf ' %s  %s\\n' 01 clean-traffic 02 sri-libvirt-1-any 03 my-sri-libvirt-1-any ;; esac
""",
    "groupdel": """#!/bin/sh\n""",
}


def uninstalled(tmp_path: Path, before: str = ":", options: str = "--with-machines") -> tuple[int, list[str], str]:
    """Status, what was done and is left, and what was said, by uninstall.sh in a mount namespace with fake programs."""
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    for name, text in FAKES.items():
        (fakes / name).write_text(text)
        (fakes / name).chmod(0o755)
    before = before.replace("FAKES", str(fakes))
    argv = ["unshare", "--mount", "sh", "-ec", UNINSTALLED, str(fakes), before, str(DEPLOY / "uninstall.sh"), options]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, (fakes / "log").read_text().splitlines() if (fakes / "log").exists() else [], done.stderr


LEFT = [
    "left /var/lib/sri-libvirt/machines/a-machine/disk.qcow2",
    "left /etc/systemd/system/sri-libvirt.service",
    "left /usr/local/lib/sri-libvirt",
    "left /etc/ceph",
]
ASKED = "program purge --state-dir /var/lib/sri-libvirt"
ASKED_FOR_NONE = "program purge --none --state-dir /var/lib/sri-libvirt"
NOT_MOUNTED = "rm -r /var/lib/sri-libvirt/*"
"""As the mount point is without its disk."""
REMOVED = "program purge --yes --state-dir /var/lib/sri-libvirt"
STOPPED = "systemctl --quiet disable --now sri-libvirt.service"


def test_a_purge_asks_the_program_what_is_its_own_before_anything_is_removed(tmp_path: Path) -> None:
    status, log, _ = uninstalled(tmp_path)
    filters = ["virsh nwfilter-list", "virsh nwfilter-undefine sri-libvirt-1-any"]
    assert (status, log) == (0, [ASKED, STOPPED, REMOVED, "systemctl daemon-reload", *filters])


def test_a_purge_leaves_what_else_there_is_of_ceph(tmp_path: Path) -> None:
    status, log, _ = uninstalled(tmp_path, "touch /etc/ceph/ceph.conf")
    assert (status, log[-1]) == (0, "left /etc/ceph")


@pytest.mark.parametrize(
    ("before", "options", "words"),
    [
        ("touch FAKES/away", "--with-machines", "cannot be told"),
        ("rm FAKES/program", "--with-machines", "install it again"),
        ("echo 'state_dir = \"/srv/state\"' >/etc/sri-libvirt/config.toml", "--with-machines", 'is in "/srv/state"'),
        (":", "", "there are machines (1)"),
        (f"{NOT_MOUNTED}; touch FAKES/away", "--with-machines", "cannot be told"),
        (f"{NOT_MOUNTED}; touch FAKES/away", "", "cannot be told"),
        (f"{NOT_MOUNTED}; rm FAKES/program", "", "install it again"),
    ],
    ids=[
        "libvirt away",
        "no program",
        "another state directory",
        "machines",
        "a state directory that is not mounted",
        "one that is not mounted, without its machines",
        "an empty one, and no program",
    ],
)
def test_a_purge_that_cannot_tell_does_nothing(tmp_path: Path, before: str, options: str, words: str) -> None:
    status, log, said = uninstalled(tmp_path, before, options)
    assert status == 1
    assert words in said
    assert "Nothing was done" in said
    left = [each for each in LEFT if NOT_MOUNTED not in before or "disk.qcow2" not in each]
    assert [line for line in log if line not in (ASKED, ASKED_FOR_NONE)] == left


@pytest.mark.parametrize(("options", "asked"), [("--with-machines", [ASKED]), ("", [ASKED_FOR_NONE])])
def test_a_purge_of_an_empty_directory_asks_the_program_first(tmp_path: Path, options: str, asked: list[str]) -> None:
    status, log, _ = uninstalled(tmp_path, NOT_MOUNTED, options)
    assert (status, log[:2]) == (0, [*asked, STOPPED])


@pytest.mark.parametrize("options", ["--with-machines", ""])
def test_a_purge_where_nothing_is_has_nothing_to_do(tmp_path: Path, options: str) -> None:
    """Once more, or of a host that never had it."""
    nothing = "rm -rf /usr/local/lib/sri-libvirt /var/lib/sri-libvirt /etc/sri-libvirt"
    status, log, said = uninstalled(tmp_path, nothing, options)
    assert (status, said) == (0, "")
    assert not [line for line in log if not line.startswith("left ")]


def test_a_purge_whose_libvirt_goes_away_keeps_disks_and_program(tmp_path: Path) -> None:
    status, log, said = uninstalled(tmp_path, "touch FAKES/away-later")
    assert (status, log) == (1, [ASKED, STOPPED, REMOVED, *LEFT])
    assert "Run this again" in said


# --- Kubernetes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_manifests_fit_kubernetes_schemas(version: str) -> None:
    assert {document["kind"] for document in manifests()} >= {"Namespace", "ServiceAccount", "ClusterRole", "DaemonSet"}
    for document in manifests():
        kubernetes_validate.validate(document, version, strict=True)


def test_what_does_not_fit_would_be_found() -> None:
    wrong = of_kind("DaemonSet")
    wrong["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, OLDEST, strict=True)


def test_the_kustomization_holds_every_file() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    (generated,) = kustomization["configMapGenerator"]
    named = {*kustomization["resources"], *generated["files"], "kustomization.yaml"}
    assert named == {path.name for path in KUBERNETES.iterdir()}
    images = {image["name"] for image in kustomization["images"]}
    assert images == {each["image"] for each in (*pod()["initContainers"], *pod()["containers"])}
    assert generated["name"] == "sri-libvirt"
    assert kustomization["namespace"] == of_kind("Namespace")["metadata"]["name"]


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kubectl_builds_it(tmp_path: Path) -> None:
    argv = ["kubectl", "kustomize", str(KUBERNETES)]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    for document in built:
        kubernetes_validate.validate(document, OLDEST, strict=True)
    (settings,) = (each for each in built if each["kind"] == "ConfigMap")
    (daemonset,) = (each for each in built if each["kind"] == "DaemonSet")
    volumes = {each["name"]: each for each in daemonset["spec"]["template"]["spec"]["volumes"]}
    assert volumes["config"]["configMap"]["name"] == settings["metadata"]["name"]


def test_the_pods_shared_directory_holds_the_socket_that_both_use() -> None:
    settings = config.load(config=KUBERNETES / "config.toml", environ={})
    (provider,), (poollet,) = pod()["initContainers"], pod()["containers"]
    directory = str(Path(settings.address.removeprefix("unix://")).parent)
    assert mounts(provider)[directory] == mounts(poollet)[directory] == "socket"
    assert f"--machine-runtime-endpoint={settings.address}" in poollet["args"]
    assert provider["startupProbe"]["exec"]["command"][-1] == settings.address.removeprefix("unix://")
    assert settings.socket_group == str(poollet["securityContext"]["runAsGroup"])
    assert poollet["securityContext"]["runAsNonRoot"]


def test_the_provider_starts_first_and_sees_the_hosts_paths_as_libvirt_does() -> None:
    (provider,) = pod()["initContainers"]
    assert provider["restartPolicy"] == "Always"
    paths = {each["name"]: each["hostPath"]["path"] for each in pod()["volumes"] if "hostPath" in each}
    settings = config.load(config=KUBERNETES / "config.toml", environ={})
    for volume, root, path in (
        ("sys", settings.sysfs, "/sys"),
        ("proc", settings.procfs, "/proc"),
        ("terminals", settings.devpts, "/dev/pts"),
    ):
        assert mounts(provider)[str(root)] == volume
        assert paths.pop(volume) == path
    for path, volume in mounts(provider).items():
        if volume in paths:
            assert paths[volume] == path
    assert {"/var/lib/sri-libvirt", "/run/libvirt", "/var/log/libvirt/qemu"} <= set(paths.values())
    assert pod()["hostNetwork"]


def test_the_pod_can_ask_the_hosts_systemd_whether_the_host_goes_down() -> None:
    """By the same program and the same directory as on the host itself (host/boot.py)."""
    (provider,) = pod()["initContainers"]
    directory = str(boot.SYSTEMD.parent)
    (source,) = (each["hostPath"]["path"] for each in pod()["volumes"] if each["name"] == mounts(provider)[directory])
    assert source == directory
    (installed,) = (words for name, words in instructions() if name == "RUN" and "qemu-utils" in words)
    assert "systemd" in installed.split()


def test_the_token_of_the_api_is_for_the_poollet_alone() -> None:
    (provider,), (poollet,) = pod()["initContainers"], pod()["containers"]
    assert pod()["automountServiceAccountToken"] is False
    assert mounts(poollet)["/var/run/secrets/kubernetes.io/serviceaccount"] == "api"
    assert "api" not in mounts(provider).values()
    assert "serviceAccountToken" in str([each for each in pod()["volumes"] if each["name"] == "api"])
    (subject,) = of_kind("ClusterRoleBinding")["subjects"]
    assert subject["name"] == pod()["serviceAccountName"] == of_kind("ServiceAccount")["metadata"]["name"]
    assert of_kind("ClusterRoleBinding")["roleRef"]["name"] == of_kind("ClusterRole")["metadata"]["name"]


# --- the image -----------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_containerfile_copies_what_there_is_and_ends_as_the_daemon() -> None:
    known = {"ARG", "FROM", "RUN", "COPY", "ENV", "USER", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    found = instructions()
    assert {name for name, _ in found} <= known
    for name, words in found:
        if name == "COPY" and not words.startswith("--from"):
            assert all((DEPLOY.parent / word).exists() for word in words.split()[:-1]), words
        if name == "RUN" and "apt-get install" in words:
            assert "--no-install-recommends" in words
            assert "rm -rf /var/lib/apt/lists/*" in words
    assert found[-2:] == [("ENTRYPOINT", '["sri-libvirt"]'), ("CMD", '["serve"]')]
    assert ("STOPSIGNAL", "SIGTERM") in found
