"""What a scrape shows."""

from __future__ import annotations

from prometheus_client import generate_latest

from sri_libvirt.metrics import Metrics


def scrape(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def test_counts() -> None:
    metrics = Metrics()
    metrics.rpc("CreateMachine", "OK", 0.003)
    metrics.loop_pass("ok", 0.01)
    metrics.action("start", "HypervisorError", 2.0)
    metrics.pull("ok", 4096, 1.5)
    metrics.probe("ceph", "backend-silent", 10.0)
    metrics.hypervisor_reachable(True)
    text = scrape(metrics)
    assert 'sri_libvirt_rpcs_total{code="OK",method="CreateMachine"} 1.0' in text
    assert 'sri_libvirt_rpc_seconds_bucket{le="0.005",method="CreateMachine"} 1.0' in text
    assert 'sri_libvirt_rpc_seconds_bucket{le="0.002",method="CreateMachine"} 0.0' in text
    assert 'sri_libvirt_passes_total{outcome="ok"} 1.0' in text
    assert 'sri_libvirt_actions_total{action="start",outcome="HypervisorError"} 1.0' in text
    assert 'sri_libvirt_probes_total{driver="ceph",outcome="backend-silent"} 1.0' in text
    assert 'sri_libvirt_probe_seconds_bucket{driver="ceph",le="5.0"} 0.0' in text
    assert 'sri_libvirt_probe_seconds_count{driver="ceph"} 1.0' in text
    assert 'sri_libvirt_image_pulls_total{outcome="ok"} 1.0' in text
    assert "sri_libvirt_image_pull_bytes_total 4096.0" in text
    assert "sri_libvirt_hypervisor_reachable 1.0" in text
    metrics.hypervisor_reachable(False)
    assert "sri_libvirt_hypervisor_reachable 0.0" in scrape(metrics)


def test_followed_values_are_read_at_the_scrape() -> None:
    metrics = Metrics()
    depth, full = [3], [False]
    states = {"MACHINE_RUNNING": 2}
    metrics.follow(
        queue_depth=lambda: depth[0],
        machines=lambda: states,
        store_full=lambda: full[0],
        unconfirmed=lambda: 5,
        volumes_waiting=lambda: 7,
        image_bytes=lambda: 9,
    )
    assert "sri_libvirt_image_cache_bytes 9.0" in scrape(metrics)
    assert "sri_libvirt_volumes_waiting 7.0" in scrape(metrics)
    assert "sri_libvirt_unconfirmed 5.0" in scrape(metrics)
    assert "sri_libvirt_queue_depth 3.0" in scrape(metrics)
    assert "sri_libvirt_store_full 0.0" in scrape(metrics)
    depth[0], full[0] = 0, True
    states["MACHINE_PENDING"] = 1
    text = scrape(metrics)
    assert "sri_libvirt_queue_depth 0.0" in text
    assert 'sri_libvirt_machines{state="MACHINE_PENDING"} 1.0' in text
    assert "sri_libvirt_store_full 1.0" in text


def test_two_objects_share_nothing() -> None:
    first, second = Metrics(), Metrics()
    first.rpc("Version", "OK", 0.1)
    assert "Version" not in scrape(second)


def test_no_label_can_hold_a_machine() -> None:
    """Each label has a fixed list of words: the code's own, gRPC's, or the SRI's."""
    metrics = Metrics()
    metrics.rpc("CreateMachine", "OK", 0.1)
    metrics.loop_pass("ok", 0.1)
    metrics.action("Define", "ok", 0.1)
    metrics.probe("ceph", "ok", 0.1)
    labels = {label for family in metrics.registry.collect() for sample in family.samples for label in sample.labels}
    assert labels <= {"version", "method", "code", "outcome", "action", "driver", "state", "le"}
