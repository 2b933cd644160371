"""Proxies of the environment: they are used, and nobody's word makes one of them ask this host or its neighbours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sri_libvirt.images.rules import Rules
from sri_libvirt.images.sources import Sources
from tests.backends.proxy import Proxy
from tests.backends.webserver import Fault, WebServer
from tests.contract.images.conftest import MIB, fetched, left, noise, refused
from tests.image_house import House

DISK = noise(MIB)
NAME = "files.invalid"
"""That of a host of which the proxy alone knows."""


@pytest.fixture
def proxy(front: WebServer, no_proxy: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The one that the environment names for everything."""
    with Proxy({NAME: front.host}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        yield proxy


@pytest.fixture
def house(tmp_path: Path, proxy: Proxy, front: WebServer) -> Iterator[House]:
    """It may ask any registry by https, and that host and `front` by plain http."""
    sources = Sources(("oci://*", f"http://{NAME}/*", f"http://{front.host}/*", "https://*"))
    with House(tmp_path / "state", Rules(sources, insecure=(NAME, front.host))) as house:
        yield house


def test_what_it_alone_can_resolve_is_fetched_through_it(house: House, proxy: Proxy, front: WebServer) -> None:
    front.files["/disk.raw"] = DISK
    assert fetched(house, f"http://{NAME}/disk.raw").read_bytes() == DISK
    assert proxy.asked == [NAME]


def test_https_goes_through_it_to_the_end(tmp_path: Path, proxy: Proxy) -> None:
    with WebServer({"/disk.raw": DISK}, tls=tmp_path / "tls") as server:
        rules = Rules(Sources((f"{server.url}/*",)), ca=server.ca)
        with House(tmp_path / "state", rules) as house:
            assert fetched(house, f"{server.url}/disk.raw").read_bytes() == DISK
        assert proxy.asked == [server.host], "an address that the operator names may be asked for"


def test_hosts_of_no_proxy_are_asked_without_it(
    house: House, proxy: Proxy, front: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    front.files["/disk.raw"] = DISK
    monkeypatch.setenv("NO_PROXY", f"example.org,{front.address}")
    assert fetched(house, f"{front.url}/disk.raw").read_bytes() == DISK
    assert proxy.asked == []


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:5000",
        "127.1:5000",
        "0x7f.1",
        "2130706433:443",
        "169.254.169.254",
        "localhost",
        "a.localhost:5000",
        "[::1]:5000",
        "[::ffff:127.0.0.1]:5000",
        "[fd00:ec2::254]:443",
    ],
)
def test_it_never_hears_of_addresses_that_are_nobody_s_to_name(house: House, proxy: Proxy, host: str) -> None:
    image = f"{host}/org/disk:1"
    words = "leads to .*, and no --image-source names that host"
    refused(lambda: house.resolve(image), "image-refused", image, words)
    assert proxy.asked == []


@pytest.mark.parametrize("host", ["169.254.169.254", "127.0.0.1.:8443", "0x7f000001", "LOCALHOST.", "[::1]"])
def test_nor_by_a_redirect(house: House, proxy: Proxy, front: WebServer, host: str) -> None:
    front.misbehave("/*", Fault(redirect=f"https://{host}/latest/meta-data"))
    image = f"http://{NAME}/disk.raw"
    words = f"{re.escape(host)} leads to .*, and no --image-source names that host"
    refused(lambda: house.resolve(image), "image-refused", image, words)
    assert proxy.asked == [NAME]
    assert left(house) == []
