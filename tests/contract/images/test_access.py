"""Who may fetch what from where: passwords and tokens, certificates, the operator's sources, addresses, redirects."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sri_libvirt.errors import NotReady
from sri_libvirt.images.rules import Rules
from sri_libvirt.images.sources import Sources
from tests.backends.artifacts import ironcore
from tests.backends.daemon import wait_until
from tests.backends.registry import Registry
from tests.backends.webserver import Fault, Request, WebServer
from tests.contract.backends.test_registry import Got
from tests.contract.images.conftest import MIB, MINUTE, again, digest_of, fetched, left, lenient, let_go, noise, refused
from tests.image_house import House

DISK = noise(1 * MIB)
USER, SECRET, WRONG = "reader", "s3cret:with colon", "another s3cret"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that wants a password, with the image org/disk:1."""
    with Registry(tmp_path_factory.mktemp("locked"), users={USER: SECRET}) as registry:
        ironcore(registry, "org/disk", "1", parts={"disk": DISK})
        yield registry


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One that wants tokens, which are given for a password; with the same image."""
    with Registry(tmp_path_factory.mktemp("tokens"), users={USER: SECRET}, tokens=True) as registry:
        ironcore(registry, "org/disk", "1", parts={"disk": DISK})
        yield registry


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One by https, with the same image."""
    directory = tmp_path_factory.mktemp("trusted")
    with Registry(directory, tls=directory / "tls") as registry:
        ironcore(registry, "org/disk", "1", parts={"disk": DISK})
        yield registry


class Passwords:
    """A file of --registry-auth."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.say({})

    def say(self, passwords: dict[str, str]) -> None:
        """From now on it has these passwords of USER."""
        auths = {key: {"auth": base64.b64encode(f"{USER}:{each}".encode()).decode()} for key, each in passwords.items()}
        self.path.write_text(json.dumps({"auths": auths}))


@pytest.fixture
def passwords(tmp_path: Path) -> Passwords:
    return Passwords(tmp_path / "auth.json")


def rules_of(*servers: Registry | WebServer, auth: Path) -> Rules:
    return Rules(insecure=tuple(each.address for each in servers), auth=auth)  # and who gives tokens for them


def discreet(error: NotReady) -> None:
    """It holds no secret, in no form."""
    said = f"{error} {error.advice}"
    for secret in (SECRET, WRONG, base64.b64encode(f"{USER}:{SECRET}".encode()).decode(), "eyJ"):
        assert secret not in said


# Passwords and tokens.


def test_a_tag_that_is_not_there_is_seen_once_it_is(house: House, registry: Registry, front: WebServer) -> None:
    image = f"{front.host}/unknown/image:1"
    refused(lambda: house.resolve(image), "image-refused", image, "does not have an image unknown/image called 1")
    ironcore(registry, "unknown/image", "1", parts={"disk": DISK})
    refused(lambda: house.resolve(image), "image-refused", image, "called 1")
    assert len(front.requests) == 1
    house.later(MINUTE)
    assert again(house, lambda: fetched(house, image)).read_bytes() == DISK


@pytest.mark.parametrize("kind", ["locked", "tokens"])
def test_who_may_not_pull_hears_of_it_and_the_file_of_passwords_is_read_for_each_try(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, passwords: Passwords
) -> None:
    registry: Registry = request.getfixturevalue(kind)
    image = f"{registry.host}/org/disk:1"
    with House(tmp_path / "state", rules_of(registry, auth=passwords.path)) as house:
        for known in ({}, {registry.host: WRONG}, {"other.example.org": SECRET}):
            passwords.say(known)
            error = refused(
                lambda: again(house, lambda: house.resolve(image)), "image-refused", image, "status 401|wants a passw"
            )
            discreet(error)
            assert "--registry-auth" in error.advice
            house.later(MINUTE)
        passwords.say({registry.host: WRONG, f"{registry.host}/org": SECRET})
        assert again(house, lambda: fetched(house, image)).read_bytes() == DISK


def test_a_token_is_asked_for_what_is_pulled_and_no_more(
    tmp_path: Path, tokens: Registry, passwords: Passwords
) -> None:
    assert tokens.tokens
    passwords.say({tokens.host: SECRET})
    tokens.tokens.asked.clear()
    with House(tmp_path / "state", rules_of(tokens, auth=passwords.path)) as house:
        fetched(house, f"{tokens.host}/org/disk:1")
    assert {(each.user, each.scopes, each.status) for each in tokens.tokens.asked} == {
        (USER, ("repository:org/disk:pull",), 200)
    }
    assert len(tokens.tokens.asked) == 2  # one of each fetcher: of the manifest, and of the disk


def test_a_token_that_ends_in_the_middle_is_replaced(tmp_path: Path, tokens: Registry, passwords: Passwords) -> None:
    assert tokens.tokens
    middle = len(DISK) // 2
    with WebServer(proxy=tokens) as front, House(tmp_path / "state", rules_of(front, tokens, auth=passwords.path)) as h:
        passwords.say({front.host: SECRET})
        image = f"{front.host}/org/disk:1"
        pin = h.resolve(image)
        tokens.tokens.lifetime = 3
        front.misbehave("/v2/*/blobs/*", Fault(), times=1)  # the one without a token
        front.misbehave("/v2/*/blobs/*", Fault(hang_after=middle, drop_after=middle), times=1)
        try:
            with pytest.raises(NotReady, match="is being fetched"):
                h.images.select(image).base(image, pin, "somebody", None)
            wait_until(lambda: front.requests[-1].sent == middle, "half of it")
            shown = front.requests[-1]
            url = f"{tokens.url}{shown.target}"
            wait_until(lambda: Got(url, {"Authorization": shown.headers["Authorization"]}).status == 401, "the end")
            tokens.tokens.lifetime = 300
            let_go(front, lambda: front.requests[-1] is not shown, "it is asked for the rest")
            assert fetched(h, image, pin).read_bytes() == DISK
        finally:
            tokens.tokens.lifetime = 300
    asked = [(r.status, r.sent) for r in front.requests[-4:]]
    assert [status for status, _ in asked] == [401, 200, 401, 206]
    assert (asked[1][1], asked[3][1]) == (middle, len(DISK) - middle)


def test_tokens_that_open_nothing_are_not_asked_for_without_end(
    tmp_path: Path, tokens: Registry, passwords: Passwords
) -> None:
    assert tokens.tokens
    passwords.say({tokens.host: SECRET})
    image = f"{tokens.host}/org/disk:1"
    tokens.tokens.asked.clear()
    with House(tmp_path / "state", rules_of(tokens, auth=passwords.path)) as house:
        try:
            tokens.tokens.lifetime = -1
            discreet(refused(lambda: house.resolve(image), "image-refused", image, "status 401"))
            assert len(tokens.tokens.asked) == 1
            tokens.tokens.lifetime, tokens.tokens.status = 300, 503
            house.later(MINUTE)
            error = refused(
                lambda: again(house, lambda: house.resolve(image)), "image-unreachable", image, "answers 503"
            )
            discreet(error)
        finally:
            tokens.tokens.lifetime, tokens.tokens.status = 300, 0
        house.later(MINUTE)
        tokens.tokens.fields = ("access_token",)
        assert again(house, lambda: fetched(house, image)).read_bytes() == DISK


@pytest.mark.parametrize(
    ("challenge", "words"),
    [
        ("Negotiate", "a proof of a kind that is not known"),
        ("Bearer realm", "asks for a token in a way that cannot be read"),
        ("Bearer realm=", "asks for a token in a way that cannot be read"),
        ('Bearer realm="file:///etc/shadow"', "the server sends one to .*file:///etc/shadow"),
        ('Bearer realm="http://[/"', "the server sends one to"),
        ('Bearer realm="http://token.example.org/"', "--insecure-registry does not name it"),
        ('Bearer realm="https://169.254.169.254/"', "169.254.169.254, a link-local address"),
    ],
)
def test_what_a_registry_wants_is_not_done_blindly(
    tmp_path: Path, registry: Registry, passwords: Passwords, challenge: str, words: str
) -> None:
    with WebServer(proxy=registry) as front:
        front.misbehave("/v2/*", Fault(status=401, headers={"WWW-Authenticate": challenge}))
        passwords.say({front.host: SECRET})
        image = f"{front.host}/a/b:1"
        with House(tmp_path / "state", rules_of(front, auth=passwords.path)) as house:
            discreet(refused(lambda: house.resolve(image), "image-refused", image, words))
        assert len(front.requests) == 1


# Certificates.


def test_a_certificate_must_be_trusted(tmp_path: Path, trusted: Registry, registry: Registry) -> None:
    image = f"{trusted.host}/org/disk:1"
    sources = Sources((f"oci://{trusted.host}/*",))
    with House(tmp_path / "one", Rules(sources)) as house:
        error = refused(lambda: house.resolve(image), "image-unreachable", image, "no certificate that is trusted here")
        assert "--registry-ca" in error.advice
    with House(tmp_path / "two", Rules(sources, ca=trusted.ca)) as house:
        assert fetched(house, image).read_bytes() == DISK
    with House(tmp_path / "three", Rules(sources, ca=tmp_path / "nothing.pem")) as house:
        refused(lambda: house.resolve(image), "image-unreachable", image, "nothing.pem: No such file or directory")
    image = f"{registry.host}/org/disk:1"
    with House(tmp_path / "four", Rules(Sources((f"oci://{registry.host}/*",)))) as house:
        refused(lambda: house.resolve(image), "image-unreachable", image, "(?i)wrong version|record layer|plain|http")


def test_a_certificate_of_another_host_is_not_trusted(tmp_path: Path, trusted: Registry) -> None:
    assert trusted.ca
    address = "127.7.7.7"
    other = Registry(tmp_path, tls=trusted.ca.parent, address=address)
    image = f"{other.host}/org/disk:1"
    with (
        other,
        House(
            tmp_path / "state", Rules(Sources((f"oci://{address}:*/*", f"oci://{other.host}/*")), ca=trusted.ca)
        ) as h,
    ):
        refused(lambda: h.resolve(image), "image-unreachable", image, f"IP address mismatch.*{address}")


# The operator's sources, and addresses.


@contextmanager
def trap(address: str) -> Iterator[tuple[str, socket.socket]]:
    """A host with its port where nobody is to connect."""
    with socket.create_server((address, 0)) as server:
        server.setblocking(False)
        yield f"{address}:{server.getsockname()[1]}", server


def untouched(server: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        server.accept()


@pytest.mark.parametrize(
    ("patterns", "image"),
    [
        (("oci://ghcr.io/*",), "HOST/org/disk:1"),
        (("oci://HOST/other/*", "https://HOST/*"), "HOST/org/disk:1"),
        (("none",), "HOST/org/disk:1"),
        (("oci://*",), "http://HOST/disk.raw"),
        (("https://HOST/*",), "http://HOST/disk.raw"),
        (("http://HOST/images/*",), "http://HOST/disk.raw"),
    ],
)
def test_what_the_operator_does_not_list_is_not_asked_for(
    tmp_path: Path, front: WebServer, patterns: tuple[str, ...], image: str
) -> None:
    image = image.replace("HOST", front.host)
    rules = Rules(Sources(tuple(each.replace("HOST", front.host) for each in patterns)), insecure=(front.host,))
    with House(tmp_path / "state", rules) as house:
        error = refused(
            lambda: house.resolve(image), "image-not-allowed", image, r"may not be fetched by this host \(--ima"
        )
        assert rules.sources.words() in str(error)
    assert front.requests == []


def test_a_host_is_asked_by_plain_http_only_if_it_is_named_for_it(tmp_path: Path, front: WebServer) -> None:
    front.files["/disk.raw"] = DISK
    image = f"{front.url}/disk.raw"
    with House(tmp_path / "state", Rules(Sources((f"{front.url}/*",)))) as house:
        refused(lambda: house.resolve(image), "image-refused", image, "--insecure-registry does not name it")
    assert front.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "0.0.0.0"])
def test_an_address_of_this_host_itself_is_refused_by_whatever_name(tmp_path: Path, host: str) -> None:
    with trap("127.0.0.1") as (where, server), House(tmp_path / "state") as house:
        image = f"{host}:{where.rpartition(':')[2]}/org/disk:1"
        words = "(, a loopback address|, no address of a host), and no --image-source names that host"
        refused(lambda: house.resolve(image), "image-refused", image, words)
        untouched(server)


def test_so_is_its_address_of_ipv6(tmp_path: Path) -> None:
    with House(tmp_path / "state") as house:
        for address in ("[::1]", "[::ffff:127.0.0.1]", "[fe80::1]", "[fd00:ec2::254]"):
            image = f"{address}:1/org/disk:1"
            refused(lambda image=image: house.resolve(image), "image-refused", image, "no --image-source names that")  # type: ignore[misc]


def test_an_address_of_this_host_itself_is_asked_where_the_operator_names_it(
    tmp_path: Path, trusted: Registry, registry: Registry
) -> None:
    image = f"{trusted.host}/org/disk:1"
    with House(tmp_path / "one", Rules(Sources(("oci://127.*/*",)), ca=trusted.ca)) as house:
        refused(lambda: house.resolve(image), "image-refused", image, ", a loopback address")
    with House(tmp_path / "two", Rules(Sources((f"oci://{trusted.host}/*",)), ca=trusted.ca)) as house:
        assert house.resolve(image)
    with WebServer({"/disk.raw": DISK}, address="127.0.0.1") as server:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server.close()
        server.port = port
        server.start()
        image = f"http://localhost:{port}/disk.raw"
        rules = Rules(Sources((f"http://localhost:{port}/*",)), insecure=(f"localhost:{port}",))
        with House(tmp_path / "three", rules) as house:
            assert fetched(house, image).read_bytes() == DISK


# Redirects.


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("https://TRAP/disk.raw", "TRAP leads to .* a loopback address"),
        ("http://TRAP/disk.raw", "TRAP is to be asked by plain http"),
        ("https://169.254.169.254/latest/meta-data", ", a link-local address"),
        ("https://168.63.129.16/", "the address of a cloud's metadata service"),
        ("file:///etc/shadow", "the server sends one to"),
        ("https:///nowhere", "the server sends one to"),
        ("http://[/", "the server sends one to"),
        ("//TRAP/disk.raw", "TRAP is to be asked by plain http"),
    ],
)
def test_a_redirect_to_where_nobody_may_be_sent_is_not_followed(
    house: House, front: WebServer, target: str, words: str
) -> None:
    with trap("127.9.8.7") as (where, server):
        front.misbehave("/*", Fault(redirect=target.replace("TRAP", where)))
        image = f"{front.url}/disk.raw"
        refused(lambda: house.resolve(image), "image-refused", image, words.replace("TRAP", re.escape(where)))
        untouched(server)
    assert len(front.requests) == 1
    assert left(house) == []


@pytest.mark.parametrize("what", ["manifests", "blobs"])
def test_nor_is_one_of_a_registry(house: House, registry: Registry, front: WebServer, what: str) -> None:
    ironcore(registry, "org/disk", "1", parts={"disk": DISK})
    image = f"{front.host}/org/disk:1"
    with trap("127.9.8.7") as (where, server):
        front.misbehave(f"/v2/*/{what}/*", Fault(redirect=f"https://{where}/{{name}}"))
        refused(lambda: house.resolve(image), "image-refused", image, "127.9.8.7, a loopback address")
        untouched(server)


def test_a_redirect_in_a_circle_ends(house: House, front: WebServer) -> None:
    front.misbehave("/*", Fault(redirect=f"{front.url}/{{name}}x"))
    image = f"{front.url}/disk.raw"
    refused(lambda: house.resolve(image), "image-refused", image, "redirects without end")
    assert len(front.requests) < 10


@pytest.mark.parametrize("to", ["another", "the same"])
def test_a_password_goes_to_the_host_that_it_is_for_and_to_no_other(
    tmp_path: Path, locked: Registry, passwords: Passwords, to: str
) -> None:
    blob = f"/away/{digest_of(DISK)}"
    away = WebServer({blob: DISK})
    with away, WebServer({blob: DISK}, proxy=locked) as front:
        passwords.say({front.host: SECRET, away.host: WRONG})
        target = away if to == "another" else front
        pattern = f"/v2/*/blobs/{digest_of(DISK)}"
        front.misbehave(pattern, Fault(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'}), times=1)
        front.misbehave(pattern, Fault(redirect=f"{target.url}/away/{{name}}"))
        with House(tmp_path / "state", rules_of(front, away, auth=passwords.path)) as house:
            assert fetched(house, f"{front.host}/org/disk:1").read_bytes() == DISK
        asked: list[Request] = target.asked("/away/*")
        assert len(asked) == 1
        basic = f"Basic {base64.b64encode(f'{USER}:{SECRET}'.encode()).decode()}"
        assert asked[0].headers["Authorization"] == (None if to == "another" else basic)
        assert front.asked("/v2/*/blobs/*")[-1].headers["Authorization"] == basic


def test_a_password_of_a_web_server_is_sent_at_once_and_to_it_alone(tmp_path: Path, passwords: Passwords) -> None:
    away = WebServer({"/disk.raw": DISK})
    with away, WebServer() as server:
        passwords.say({server.host: SECRET})
        server.misbehave("/*", Fault(redirect=f"{away.url}{{path}}"))
        rules = Rules(lenient(server).sources, insecure=(server.host, away.host), auth=passwords.path)
        with House(tmp_path / "state", rules) as house:
            assert fetched(house, f"{server.url}/disk.raw").read_bytes() == DISK
        assert [(r.headers["Authorization"] or "")[:6] for r in (*server.requests, *away.requests)] == ["Basic ", ""]


def test_a_file_of_passwords_that_cannot_be_used_is_told_of_without_a_word_of_it(
    tmp_path: Path, registry: Registry, passwords: Passwords
) -> None:
    passwords.path.write_text(SECRET)
    image = f"{registry.host}/org/disk:1"
    with House(tmp_path / "state", rules_of(registry, auth=passwords.path)) as house:
        words = f"{passwords.path} cannot be used: it is not JSON"
        discreet(refused(lambda: house.resolve(image), "image-refused", "", words))


def test_and_such_a_pull_is_counted_by_a_name(tmp_path: Path, front: WebServer, passwords: Passwords) -> None:
    passwords.path.write_text(SECRET)
    rules = Rules(lenient(front).sources, insecure=(front.host,), auth=passwords.path)
    with House(tmp_path / "state", rules) as house:
        with pytest.raises(NotReady):
            house.resolve(f"{front.url}/disk.raw")
        wait_until(lambda: house.counted, "it is counted")
        assert house.counted[0][0]
