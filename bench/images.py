"""Images from a registry: what a cached one costs a machine, what a pull costs this host, and what RPCs see of it.

The registry is Debian's docker-registry on loopback, where the provider is. What is measured of machines without an
image does not belong here (`on_libvirt.py`).
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from bench.client import MIB, Provider, machine_request, milliseconds, until
from bench.on_fake import provider
from bench.table import Figure, Report, median, p99
from bench.world import World, world
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.base import EventKind
from sri_libvirt.server import asking
from tests import guest
from tests.backends import artifacts
from tests.backends.registry import Registry
from tests.e2e.libvirtd import PrivateLibvirt

LARGE = 2048 * MIB
DATA = 512 * MIB
"""Of the large image; the rest of it are zeroes. As much is pulled to see how fast that is."""


@dataclass
class Bench:
    """A provider and the registry that it knows, which is filled beside it."""

    world: World
    host: str
    fill: Registry
    work: Path
    made: list[str] = field(default_factory=list)

    @property
    def served(self) -> Provider:
        return self.world.served

    def push(self, disk: Path) -> str:
        """A new image of this disk; its reference."""
        tag = f"v{len(self.made)}"
        self.made.append(tag)
        artifacts.ironcore(self.fill, "bench", tag, parts={"rootfs": disk})
        return f"{self.host}/bench:{tag}"

    def pull(self, reference: str) -> None:
        """Have the provider fetch it."""
        _pull(self.served, reference)


def measure(private: PrivateLibvirt, report: Report, rounds: int) -> None:
    """All of it."""
    directory = private.directory("registry")
    with Registry(directory, inside=private.inside) as registry, Registry(directory) as fill:
        work = private.directory("pictures")
        with world(private, "--insecure-registry", registry.host) as made:
            bench = Bench(made, registry.host, fill, work)
            for part in (_create, _pulls, _rpcs):
                part(bench, report, rounds)


def _create(bench: Bench, report: Report, rounds: int) -> None:
    large, tiny = bench.work / "large.raw", bench.work / "tiny.raw"
    shutil.copyfile(guest.image(), tiny)
    shutil.copyfile(guest.image(), large)
    with large.open("r+b") as file:
        file.seek(64 * MIB)
        for _ in range(DATA // MIB):
            file.write(os.urandom(MIB))
        file.truncate(LARGE)
    references = {"tiny": bench.push(tiny), "large": bench.push(large)}
    for reference in references.values():
        bench.pull(reference)
    times: dict[str, list[float]] = {"tiny": [], "large": [], "copy": []}
    for _ in range(rounds):
        for name, reference in references.items():
            times[name].append(_started(bench, reference))
        times["copy"].append(milliseconds(lambda: _copied(large)))
    tiny_ms, large_ms, copy_ms = (median(times[name]) for name in ("tiny", "large", "copy"))
    report.figures.append(
        Figure(
            name="create to STARTED with a cached image of 2 GiB, over that with the tiny one",
            unit="ms more",
            value=large_ms - tiny_ms,
            goal=max(10.0, tiny_ms * 0.05),
            peer="4,000 to 7,000 ms",
            alternative="ms for a copy of it",
            alternative_value=copy_ms,
            on="libvirt",
            note=f"{large_ms:.0f} and {tiny_ms:.0f} ms; medians of {rounds}, in turn; the copy is `cp --sparse`, of an "
            f"image with {DATA // MIB} MiB that are no zeroes",
        )
    )


def _started(bench: Bench, reference: str) -> float:
    """Milliseconds from a create to its guest."""
    served, watch = bench.served, bench.world.watch
    watch.forget()
    request = machine_request()
    request.machine.spec.image.image = reference
    begun = time.perf_counter()
    machine_id = served.create(request)
    started = watch.wait(machine_id, EventKind.STARTED)
    served.delete(machine_id)
    watch.wait(machine_id, EventKind.STOPPED)
    until("its end", lambda: served.find(machine_id) is None, 0.01)
    return (started - begun) * 1000


def _copied(image: Path) -> None:
    copy = image.with_suffix(".copy")
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    copy.unlink()


def _pulls(bench: Bench, report: Report, rounds: int) -> None:
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for number in range(min(rounds, 3)):
        reference = bench.push(_random(bench, number))
        theirs.append(_skopeo(bench, reference))
        before, begun = _family_cpu(bench.served), time.perf_counter()
        bench.pull(reference)
        ours.append((time.perf_counter() - begun, _family_cpu(bench.served) - before))
    seconds, cpu = (median([each[column] for each in ours]) for column in (0, 1))
    their_seconds, their_cpu = (median([each[column] for each in theirs]) for column in (0, 1))
    report.figures.append(
        Figure(
            name="pull of 512 MiB from a registry",
            unit="s of CPU",
            value=cpu,
            goal=their_cpu,
            alternative="s of CPU for `skopeo copy` of it",
            alternative_value=their_cpu,
            on="libvirt",
            note=f"{DATA / MIB / seconds:.0f} MiB/s, skopeo's {DATA / MIB / their_seconds:.0f}; CPU of provider and "
            f"fetcher; medians of {len(ours)}, in turn; random bytes",
        )
    )


def _rpcs(bench: Bench, report: Report, _: int) -> None:
    served = bench.served
    machine_id = served.create(machine_request(pb.POWER_OFF))
    socket = served.root / "state" / "admin.sock"
    notes = count()

    def note() -> None:
        request = pb.UpdateMachineAnnotationsRequest(machine_id=machine_id, annotations={"note": str(next(notes))})
        served.stub.UpdateMachineAnnotations(request)

    acts: dict[str, Callable[[], object]] = {"ListMachines": served.machines, "UpdateMachineAnnotations": note}
    quiet = _timed(acts, lambda: False, least=200)
    references = [bench.push(_random(bench, number)) for number in (10, 11)]
    busy = _timed(acts, lambda: not all(asking.ask(socket, "images-pull", {"image": r})["ready"] for r in references))
    for name in acts:
        report.figures.append(
            Figure(
                name=f"{name} while two images are pulled",
                unit="ms",
                value=median(busy[name]),
                p99=p99(busy[name]),
                goal=median(quiet[name]) + 1,
                alternative=f"ms while none is, p99 {p99(quiet[name]):.1f}",
                alternative_value=median(quiet[name]),
                on="libvirt",
                note=f"of {len(busy[name])} and {len(quiet[name])} calls; both CPUs are busy with two fetchers and the "
                "registry",
            )
        )
    served.delete(machine_id)
    until("its end", lambda: served.find(machine_id) is None, 0.01)


def _timed(
    acts: Mapping[str, Callable[[], object]], busy: Callable[[], bool], least: int = 0
) -> dict[str, list[float]]:
    """Milliseconds of each act, in turn, as long as something is busy, asked about seldom."""
    times: dict[str, list[float]] = {name: [] for name in acts}
    for number in count(1):
        for name, act in acts.items():
            times[name].append(milliseconds(act))
        if number >= least and number % 25 == 0 and not busy():
            return times
        time.sleep(0.002)
    return times


def _random(bench: Bench, number: int) -> Path:
    return _noise(bench.work / f"random{number}.raw")


def _noise(path: Path) -> Path:
    """A disk in which nothing can be packed."""
    with path.open("wb") as file:
        file.write(b"\xeb\x3c\x90" + os.urandom(MIB - 3))
        for _ in range(DATA // MIB - 1):
            file.write(os.urandom(MIB))
    return path


def memory(root: Path, report: Report, *, quick: bool) -> None:
    """What a pull leaves of the daemon's memory, on the fake hypervisor: the daemon's part of it is the same."""
    for name in ("memory", "registry"):
        (root / name).mkdir()
    with Registry(root / "registry") as registry:
        disk = root / "noise.raw"
        for tag in ("first", "second"):
            _noise(disk)
            if quick:
                os.truncate(disk, DATA // 10)
            artifacts.ironcore(registry, "bench", tag, parts={"rootfs": disk})
        with provider(root / "memory", registry.host) as served:
            sizes = [_settled(served)]
            for tag in ("first", "second"):
                _pull(served, f"{registry.host}/bench:{tag}")
                sizes.append(_settled(served))
        report.figures.append(
            Figure(
                name="memory of the daemon over a pull",
                unit="MiB more",
                value=(sizes[1] - sizes[0]) / MIB,
                goal=1,
                alternative="MiB for what is pulled",
                alternative_value=disk.stat().st_size / MIB,
                note=f"resident, settled: {sizes[0] / MIB:.1f} before it, {sizes[1] / MIB:.1f} after it, and "
                f"{sizes[2] / MIB:.1f} after another one",
            )
        )


def _settled(served: Provider) -> int:
    """Its resident bytes, once they have stayed the same for a while."""
    seen: deque[int] = deque(maxlen=10)

    def same() -> bool:
        seen.append(served.usage.memory_info().rss)
        return len(seen) == seen.maxlen and len(set(seen)) == 1

    until("memory at rest", same, 0.2)
    return seen[-1]


def _pull(served: Provider, reference: str) -> None:
    """Have a provider fetch it, as `sri-libvirt images pull` does."""
    socket = served.root / "state" / "admin.sock"
    until(reference, lambda: asking.ask(socket, "images-pull", {"image": reference})["ready"], 0.05)


def _skopeo(bench: Bench, reference: str) -> tuple[float, float]:
    """Seconds and seconds of CPU of a copy to a directory."""
    target = bench.work / "skopeo"
    argv = ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{reference}", f"dir:{target}"]
    before, begun = _children(), time.perf_counter()
    subprocess.run(bench.world.private.inside(argv), check=True)
    took = time.perf_counter() - begun
    shutil.rmtree(target)
    return took, _children() - before


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _family_cpu(served: Provider) -> float:
    """Of the provider and of all its programs that have ended."""
    times = served.usage.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
