"""A registry for each file of tests, a web server in front of it, and how one waits for the image room."""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

from sri_libvirt.devices import ImagePin
from sri_libvirt.errors import NotReady
from sri_libvirt.images import fetching
from sri_libvirt.images.rules import Rules
from sri_libvirt.images.sources import Sources
from tests.backends.daemon import wait_until
from tests.backends.registry import Registry
from tests.backends.webserver import WebServer
from tests.image_house import House

T = TypeVar("T")

MIB = 1 << 20
MINUTE = 60.0
"""The longest pause between two tries."""


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment of the tests says: all servers are of this host."""
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """An open one."""
    with Registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def front(registry: Registry) -> Iterator[WebServer]:
    """What stands in front of it, and notes at once what is asked."""
    with WebServer(proxy=registry) as front:
        yield front


@pytest.fixture
def house(tmp_path: Path, registry: Registry, front: WebServer) -> Iterator[House]:
    """One that may ask both, and fetch files of the latter."""
    with House(tmp_path / "state", lenient(registry, front)) as house:
        yield house


def lenient(*servers: Registry | WebServer) -> Rules:
    """What lets one fetch artifacts and files of these, by plain http."""
    hosts = tuple(each.host for each in servers)
    return Rules(Sources(("oci://*", *(f"http://{host}/*" for host in hosts))), insecure=hosts)


def fetched(house: House, image: str, pin: ImagePin | None = None) -> Path:
    """The file that is the base of a machine's disk."""
    base = house.base(image, pin or house.resolve(image))
    assert base.disk is not None
    return Path(base.disk.path)


def refused(ask: Callable[[], object], code: str, image: str, words: str) -> NotReady:
    """It is not to be had, for a reason of this code that names it and has these words (a pattern), with advice."""
    with pytest.raises(NotReady, match=words) as caught:
        ask()
    assert caught.value.code == code
    assert image in str(caught.value)
    assert caught.value.advice
    return caught.value


def again(house: House, ask: Callable[[], T]) -> T:
    """What comes of it once it has been tried anew: until then one hears what was wrong before."""
    with suppress(NotReady):
        ask()
    wait_until(lambda: house.questions.counts() == house.pulls.counts() == (0, 0), "the end of what is under way")
    return ask()


def fetchers(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Fetchers are as ever, but for a line of Python that they begin with."""
    code = f"import sys, time\n{change}\nfrom sri_libvirt.images.fetch.__main__ import main\nsys.exit(main())"
    monkeypatch.setattr(fetching, "_ARGV", (sys.executable, "-I", "-c", code))


def let_go(front: WebServer, condition: Callable[[], object], what: str) -> None:
    """What hangs goes on, or is about to hang and does not: until the condition holds."""

    def holds() -> object:
        front.release()
        return condition()

    wait_until(holds, what)


def left(house: House) -> list[str]:
    """The names of all that is in the cache's directory."""
    return sorted(path.name for path in house.paths.image_cache.iterdir())


def noise(size: int, seed: int = 0) -> bytes:
    """A raw disk in which nothing can be packed."""
    return b"\xeb\x3c\x90" + random.Random(seed).randbytes(size - 3)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
