"""What Prometheus can scrape: RPCs, passes of the loop, its actions, probes of volumes, machines by state, libvirt.

One `Metrics` object per process, made by `app.py` and handed to whoever counts. No label ever holds a machine's id or
name: a pool's label sets stay few. When something is counted does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sri_libvirt import __version__
from sri_libvirt.config import split_host_port
from sri_libvirt.errors import ConfigError

_RPC_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
_PULL_SECONDS = (0.5, 2, 10, 30, 60, 300, 900, 3600, 14400)
_WORK_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """All metrics of one process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        build = Gauge("sri_libvirt_build_info", "The running version.", ["version"], registry=self.registry)
        build.labels(__version__).set(1)
        self._rpcs = self._counter("rpcs", "RPCs answered.", "method", "code")
        self._rpc_seconds = self._histogram("rpc_seconds", "Time of an RPC.", _RPC_SECONDS, "method")
        self._passes = self._counter("passes", "Passes of the loop over one machine.", "outcome")
        self._pass_seconds = self._histogram("pass_seconds", "Time of a pass.", _WORK_SECONDS)
        self._actions = self._counter("actions", "Actions performed.", "action", "outcome")
        self._action_seconds = self._histogram("action_seconds", "Time of an action.", _WORK_SECONDS, "action")
        self._probes = self._counter("probes", "Volumes whose backends were asked for them.", "driver", "outcome")
        self._probe_seconds = self._histogram("probe_seconds", "Time of a probe.", _WORK_SECONDS, "driver")
        self._pulls = self._counter("image_pulls", "Files of images that were fetched.", "outcome")
        self._pull_bytes = self._counter("image_pull_bytes", "Bytes of what was fetched, unpacked.")
        self._pull_seconds = self._histogram("image_pull_seconds", "Time of a pull.", _PULL_SECONDS)
        self._consoles = Gauge(
            "sri_libvirt_console_sessions", "Console sessions that are open.", registry=self.registry
        )
        self._consoles_closed = self._counter("console_sessions_closed", "Console sessions that have ended.", "outcome")
        self._console_refusals = self._counter("console_refusals", "Requests for consoles that were refused.", "status")
        self._console_bytes = self._counter("console_bytes", "Bytes typed, shown, and lost unread.", "direction")
        self._reachable = Gauge("sri_libvirt_hypervisor_reachable", "1 if libvirt answers.", registry=self.registry)
        self._doubted = Gauge(
            "sri_libvirt_store_doubted",
            "1 while RPCs are refused because the store is empty and may be the wrong one.",
            registry=self.registry,
        )
        self._orphans = Gauge(
            "sri_libvirt_orphans", "Ids with our marks that belong to no machine.", registry=self.registry
        )

        self._left = Gauge(
            "sri_libvirt_left_behind",
            "What passed its deadline and goes on: work of lanes, looks at files, programs that cannot be killed.",
            ["what"],
            registry=self.registry,
        )

    def rpc(self, method: str, code: str, seconds: float) -> None:
        """Count an answered RPC; `code` is the gRPC code's name."""
        self._rpcs.labels(method, code).inc()
        self._rpc_seconds.labels(method).observe(seconds)

    def loop_pass(self, outcome: str, seconds: float) -> None:
        """Count a pass over one machine; `outcome` is "ok", "error" or "bug"."""
        self._passes.labels(outcome).inc()
        self._pass_seconds.observe(seconds)

    def action(self, action: str, outcome: str, seconds: float) -> None:
        """Count a performed action; `outcome` is "ok", the name of the error's class, or "bug"."""
        self._actions.labels(action, outcome).inc()
        self._action_seconds.labels(action).observe(seconds)

    def probe(self, driver: str, outcome: str, seconds: float) -> None:
        """Count a probe of a volume; `outcome` is "ok" or the code of why it is not ready."""
        self._probes.labels(driver, outcome).inc()
        self._probe_seconds.labels(driver).observe(seconds)

    def pull(self, outcome: str, size: int, seconds: float) -> None:
        """Count a pull of an image's part; `outcome` is "ok" or the code of why it failed, `size` bytes came."""
        self._pulls.labels(outcome).inc()
        self._pull_bytes.inc(size)
        self._pull_seconds.observe(seconds)

    def console_opened(self) -> None:
        """Count a console session that is open from now on."""
        self._consoles.inc()

    def console_closed(self, outcome: str, lost: int) -> None:
        """Count one that is no more; `outcome` is "ended" (the guest), "left" (the client) or "failed"."""
        self._consoles.dec()
        self._consoles_closed.labels(outcome).inc()
        self._console_bytes.labels("lost").inc(lost)

    def console_refused(self, status: int) -> None:
        """Count a request for a console that was answered with this HTTP status."""
        self._console_refusals.labels(str(status)).inc()

    def console_bytes(self, direction: str, count: int) -> None:
        """Count bytes of consoles that were "typed" or "shown"."""
        self._console_bytes.labels(direction).inc(count)

    def hypervisor_reachable(self, reachable: bool) -> None:
        """Say whether libvirt answers."""
        self._reachable.set(int(reachable))

    def store_doubted(self, doubted: bool) -> None:
        """Say whether the store may be the wrong one."""
        self._doubted.set(int(doubted))

    def orphans(self, count: int) -> None:
        """Say how many orphans the latest look found."""
        self._orphans.set(count)

    def left_behind(self, **counts: Callable[[], int]) -> None:
        """Ask these at every scrape how many of each kind passed a deadline and go on."""
        for what, count in counts.items():
            self._left.labels(what).set_function(count)

    def follow(
        self,
        *,
        queue_depth: Callable[[], int],
        machines: Callable[[], Mapping[str, int]],
        store_full: Callable[[], bool],
        unconfirmed: Callable[[], int],
        volumes_waiting: Callable[[], int],
        image_bytes: Callable[[], int],
    ) -> None:
        """Ask these at every scrape: machines that wait for a lane, by SRI state, and for a word after a restore;
        volumes that wait for their backends; whether the store is full; what the image cache takes. Call once."""
        self.registry.register(_Followed(queue_depth, machines, store_full, unconfirmed, volumes_waiting, image_bytes))

    def serve(self, address: str) -> Callable[[], None]:
        """Serve `/metrics` on `host:port` from threads of its own; returns stop(). Raises ConfigError. Call once."""
        host, port = split_host_port(address)
        ProcessCollector(registry=self.registry)
        try:
            server, thread = start_http_server(port, host, self.registry)
        except OSError as error:
            raise ConfigError(f"--metrics-address {address}: {error.strerror or error}") from error

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"sri_libvirt_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"sri_libvirt_{name}", text, labels, registry=self.registry, buckets=buckets)


class _Followed(Collector):
    """Values that are read at the scrape, so that nobody has to keep them up to date."""

    def __init__(
        self,
        queue_depth: Callable[[], int],
        machines: Callable[[], Mapping[str, int]],
        store_full: Callable[[], bool],
        unconfirmed: Callable[[], int],
        volumes_waiting: Callable[[], int],
        image_bytes: Callable[[], int],
    ) -> None:
        self._image_bytes = image_bytes
        self._unconfirmed = unconfirmed
        self._volumes_waiting = volumes_waiting
        self._queue_depth = queue_depth
        self._machines = machines
        self._store_full = store_full

    def collect(self) -> Iterable[GaugeMetricFamily]:
        yield GaugeMetricFamily("sri_libvirt_queue_depth", "Machines waiting for a lane.", value=self._queue_depth())
        yield GaugeMetricFamily(
            "sri_libvirt_store_full", "1 while only what makes room is stored.", value=int(self._store_full())
        )
        yield GaugeMetricFamily(
            "sri_libvirt_unconfirmed", "Machines of a restored backup that nobody confirmed.", value=self._unconfirmed()
        )
        yield GaugeMetricFamily(
            "sri_libvirt_volumes_waiting",
            "Volumes whose backends have not answered yet.",
            value=self._volumes_waiting(),
        )
        yield GaugeMetricFamily(
            "sri_libvirt_image_cache_bytes", "Disk that fetched images take.", value=self._image_bytes()
        )
        family = GaugeMetricFamily("sri_libvirt_machines", "Machines by SRI state.", labels=["state"])
        for state, count in self._machines().items():
            family.add_metric([state], count)
        yield family

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: registering must not call the sources, which may not be ready yet."""
        return []
