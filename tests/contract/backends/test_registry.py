"""Registries and web servers of the tests themselves: others read what is built, and what goes wrong does."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import socket
import ssl
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from tests.backends.artifacts import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
    TYPES,
    Blob,
    Generation,
    Layer,
    Listed,
    Packing,
    container_disk,
    disk,
    index,
    ironcore,
    push_blob,
    push_manifest,
    tar,
)
from tests.backends.daemon import START_SECONDS, run, wait_until
from tests.backends.registry import Asked, Registry
from tests.backends.webserver import BEFORE, Fault, WebServer

DATA = os.urandom(300_000)
USERS = {"reader": "s3cret:with colon"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """An open one."""
    with Registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


class Got:
    """An answer to a plain request on a connection of its own; `body` is what came, `whole` unless it broke off."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, *, ca: Path | None = None) -> None:
        split = urlsplit(url)
        connection = (
            http.client.HTTPSConnection(
                split.netloc, timeout=START_SECONDS, context=ssl.create_default_context(cafile=ca)
            )
            if split.scheme == "https"
            else http.client.HTTPConnection(split.netloc, timeout=START_SECONDS)
        )
        try:
            connection.request(
                "GET", split.path + (f"?{split.query}" if split.query else ""), headers=dict(headers or {})
            )
            response = connection.getresponse()
            self.status, self.headers = response.status, response.headers
            try:
                self.body, self.whole = response.read(), True
            except http.client.IncompleteRead as broken:
                self.body, self.whole = broken.partial, False
        finally:
            connection.close()


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def skopeo(*words: str) -> bytes:
    return run(["skopeo", "--insecure-policy", *words])


def copied(registry: Registry, image: str, where: Path, *words: str) -> dict[str, bytes]:
    """What skopeo copies, by the names of its files."""
    verify = f"--src-tls-verify={'true' if registry.ca else 'false'}"
    skopeo("copy", "-q", verify, *words, f"docker://{registry.host}/{image}", f"dir:{where}")
    return {file.name: file.read_bytes() for file in where.iterdir()}


@pytest.mark.parametrize(("packing", "docker"), [("gzip", False), ("zstd", False), ("", False), ("gzip", True)])
def test_skopeo_reads_container_disks(registry: Registry, tmp_path: Path, packing: Packing, docker: bool) -> None:
    file = tmp_path / "disk.qcow2"
    file.write_bytes(DATA)
    layers: list[Layer] = [disk(file, "disk.qcow2"), tar([])]
    repository = f"disk-{packing}-{docker}".lower()
    digest = container_disk(registry, repository, "1", layers=layers, packing=packing, docker=docker, labels={"a": "b"})
    told = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{registry.host}/{repository}:1"))
    assert (told["Digest"], told["Architecture"], told["Os"], told["Labels"]) == (digest, "amd64", "linux", {"a": "b"})

    files = copied(registry, f"{repository}@{digest}", tmp_path / "copy", "--preserve-digests")
    assert digest_of(files["manifest.json"]) == digest
    made = json.loads(files["manifest.json"])
    assert made["mediaType"] == (DOCKER_MANIFEST if docker else OCI_MANIFEST)
    layer = files[made["layers"][0]["digest"].removeprefix("sha256:")]
    if packing == "zstd":
        layer = run(["zstd", "-dc"], stdin=layer)
    elif packing == "gzip":
        layer = gzip.decompress(layer)
    config = json.loads(files[made["config"]["digest"].removeprefix("sha256:")])
    assert config["rootfs"]["diff_ids"][0] == digest_of(layer)
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        assert archive.getnames() == ["disk", "disk/disk.qcow2"]
        member = archive.getmember("disk/disk.qcow2")
        assert (member.uid, member.gid, member.mode) == (107, 107, 0o440)
        taken = archive.extractfile(member)
        assert taken is not None
        assert taken.read() == DATA


@pytest.mark.parametrize("generation", ["onmetal", "legacy", "current"])
def test_skopeo_copies_ironcores_artifacts(registry: Registry, tmp_path: Path, generation: Generation) -> None:
    types = dict(TYPES[generation])
    parts: dict[str, bytes | Path] = {part: f"{generation}'s {part}".encode() for part in types if part != "config"}
    parts["rootfs"] = tmp_path / "rootfs"
    (tmp_path / "rootfs").write_bytes(DATA)
    digest = ironcore(registry, generation, "1", parts=parts, generation=generation, command_line="console=ttyS0")
    files = copied(registry, f"{generation}:1", tmp_path / "copy", "--preserve-digests")
    assert digest_of(files["manifest.json"]) == digest
    made = json.loads(files["manifest.json"])
    assert made["config"]["mediaType"] == types["config"]
    config = json.loads(files[made["config"]["digest"].removeprefix("sha256:")])
    assert config == {"commandLine": "console=ttyS0"}
    assert [layer["mediaType"] for layer in made["layers"]] == [types[part] for part in parts]
    for layer, data in zip(made["layers"], parts.values(), strict=True):
        data = data.read_bytes() if isinstance(data, Path) else data
        assert files[layer["digest"].removeprefix("sha256:")] == data
        assert layer["size"] == len(data)


@pytest.mark.parametrize("docker", [False, True])
def test_skopeo_chooses_from_an_index(registry: Registry, docker: bool) -> None:
    listed = []
    for architecture in ("amd64", "arm64"):
        digest = container_disk(
            registry, "listed", "", layers=[disk(DATA)], docker=docker, architecture=architecture, packing=""
        )
        listed.append(Listed(digest, None, {"os": "linux", "architecture": architecture}, {"for": architecture}))
    of_all = index(registry, "listed", "1", listed, docker=docker)
    image = f"docker://{registry.host}/listed:1"
    raw = skopeo("inspect", "--raw", "--tls-verify=false", image)
    assert digest_of(raw) == of_all
    assert json.loads(raw)["mediaType"] == (DOCKER_LIST if docker else OCI_INDEX)
    assert {each["mediaType"] for each in json.loads(raw)["manifests"]} == {DOCKER_MANIFEST if docker else OCI_MANIFEST}
    for each in listed:
        words = ["--override-arch", each.platform["architecture"], "inspect", "--config", "--tls-verify=false"]
        assert json.loads(skopeo(*words, image))["architecture"] == each.platform["architecture"]


def test_what_is_pushed_by_hand_is_taken_away_again(registry: Registry) -> None:
    blob = push_blob(registry, "by-hand", Blob("text/plain", DATA, {"a": "b"}))
    assert push_blob(registry, "by-hand", Blob("text/plain", DATA, {"a": "b"})) == blob
    url = f"{registry.url}/v2/by-hand"
    assert Got(f"{url}/blobs/{blob['digest']}").body == DATA
    made = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {**blob, "size": 1}, "layers": []})
    digest = push_manifest(registry, "by-hand", "1", made.encode(), OCI_MANIFEST)
    accept = {"Accept": ", ".join(MANIFESTS)}
    assert Got(f"{url}/manifests/1", accept).body == made.encode()
    registry.forget("by-hand", "1")
    assert Got(f"{url}/manifests/1", accept).status == 404
    assert Got(f"{url}/manifests/{digest}", accept).headers["Docker-Content-Digest"] == digest
    registry.blob(blob["digest"]).write_bytes(b"other")
    assert Got(f"{url}/blobs/{blob['digest']}").body == b"other"
    registry.blob(blob["digest"]).unlink()
    assert Got(f"{url}/blobs/{blob['digest']}", {"User-Agent": 'a "b"'}).status == 404
    wait_until(lambda: registry.requests()[-1].status == 404 and registry.requests()[-1].agent, "it is logged")
    logged = registry.requests()[-1]
    assert (logged.method, logged.path, logged.agent) == ("GET", f"/v2/by-hand/blobs/{blob['digest']}", 'a \\"b\\"')


def test_a_registry_comes_back_where_it_was(registry: Registry) -> None:
    digest = ironcore(registry, "back", "1", parts={"disk": DATA})
    registry.daemon.freeze()
    with socket.create_connection((registry.address, registry.port)) as connection:
        connection.settimeout(0.2)
        connection.sendall(b"GET /v2/ HTTP/1.0\r\n\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)
    registry.daemon.kill()
    with pytest.raises(ConnectionRefusedError):
        Got(f"{registry.url}/v2/")
    registry.start()
    got = Got(f"{registry.url}/v2/back/manifests/{digest}", {"Accept": OCI_MANIFEST})
    assert digest_of(got.body) == digest


def test_who_has_no_password_is_not_let_in(tmp_path: Path) -> None:
    with Registry(tmp_path, users=USERS) as registry:
        digest = ironcore(registry, "a/b", "1", parts={"disk": DATA})
        assert registry.login is not None
        url = f"{registry.url}/v2/a/b/manifests/1"
        refused = Got(url)
        assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, 'Basic realm="a test"')
        assert Got(url, basic("reader", "other")).status == 401
        got = Got(url, {**basic(*registry.login), "Accept": OCI_MANIFEST})
        assert (got.status, digest_of(got.body)) == (200, digest)
        registry.let_in("reader", "other")
        assert Got(url, {**basic("reader", "other"), "Accept": OCI_MANIFEST}).status == 200


def test_tokens_are_given_for_passwords(tmp_path: Path) -> None:
    with Registry(tmp_path, users={"reader": "secret"}, tokens=True) as registry:
        assert registry.tokens is not None
        digest = ironcore(registry, "a/b", "1", parts={"disk": DATA})
        url = f"{registry.url}/v2/a/b/manifests/1"
        refused = Got(url)
        assert refused.status == 401
        challenge = dict(re.findall(r'(\w+)="([^"]*)"', refused.headers["WWW-Authenticate"]))
        assert challenge["scope"] == "repository:a/b:pull"
        asked = f"{challenge['realm']}?{urlencode({'service': challenge['service'], 'scope': challenge['scope']})}"
        del registry.tokens.asked[:]
        assert Got(asked).status == 401
        assert Got(asked, basic("reader", "other")).status == 401
        told = Got(asked, basic("reader", "secret"))
        assert [(each.user, each.status) for each in registry.tokens.asked] == [
            ("", 401),
            ("reader", 401),
            ("reader", 200),
        ]
        assert registry.tokens.asked[2] == Asked(challenge["service"], (challenge["scope"],), "reader", 200)

        shown = {"Authorization": f"Bearer {json.loads(told.body)['token']}", "Accept": OCI_MANIFEST}
        assert digest_of(Got(url, shown).body) == digest
        assert Got(f"{registry.url}/v2/other/manifests/1", shown).status == 401
        registry.tokens.lifetime = -1
        late = {"Authorization": f"Bearer {json.loads(Got(asked, basic('reader', 'secret')).body)['token']}"}
        assert 'error="invalid_token"' in Got(url, late).headers["WWW-Authenticate"]
        registry.tokens.lifetime = 300
        words = ["inspect", "--raw", "--tls-verify=false", "--creds", "reader:secret"]
        assert digest_of(skopeo(*words, f"docker://{registry.host}/a/b:1")) == digest


def test_tokens_for_everybody_by_https_alone(tmp_path: Path) -> None:
    pki = tmp_path / "tls"
    with Registry(tmp_path, tokens=True, tls=pki) as registry:
        assert registry.tokens is not None
        digest = container_disk(registry, "a", "1", layers=[disk(DATA)])
        with pytest.raises(ssl.SSLCertVerificationError):
            Got(f"{registry.url}/v2/")
        refused = Got(f"{registry.url}/v2/", ca=registry.ca)
        assert (refused.status, registry.tokens.url[:8]) == (401, "https://")
        assert registry.tokens.url in refused.headers["WWW-Authenticate"]
        words = ["inspect", "--raw", "--tls-verify=true"]
        with pytest.raises(AssertionError, match="certificate"):
            skopeo(*words, f"docker://{registry.host}/a:1")
        (tmp_path / "trusted").mkdir()
        shutil.copy(pki / "ca-cert.pem", tmp_path / "trusted/ca.crt")
        found = skopeo(*words, "--cert-dir", str(tmp_path / "trusted"), f"docker://{registry.host}/a:1")
        assert digest_of(found) == digest
        assert registry.tokens.asked[-1].user == ""
        with WebServer(proxy=registry, tls=pki, address=registry.address) as front:
            assert (
                Got(f"{front.url}/v2/", ca=registry.ca).headers["WWW-Authenticate"]
                == refused.headers["WWW-Authenticate"]
            )


RANGES = [
    ("bytes=0-0", 0, 1),
    ("bytes=1000-1999", 1000, 2000),
    ("bytes=299000-", 299_000, 300_000),
    ("bytes=-10", 299_990, 300_000),
    ("bytes=299999-400000", 299_999, 300_000),
]


@pytest.mark.parametrize("of", ["registry", "file", "proxy"])
def test_ranges_are_honoured(registry: Registry, tmp_path: Path, of: str) -> None:
    blob = push_blob(registry, "ranges", Blob("text/plain", DATA))
    path = f"/v2/ranges/blobs/{blob['digest']}"
    (tmp_path / "file").write_bytes(DATA)
    files: dict[str, bytes | Path] = {path: tmp_path / "file"} if of == "file" else {}
    with WebServer(files, proxy=registry) as server:
        url = (registry.url if of == "registry" else server.url) + path
        for asked, start, end in RANGES:
            got = Got(url, {"Range": asked})
            assert (got.status, got.headers["Content-Range"]) == (206, f"bytes {start}-{end - 1}/300000")
            assert got.body == DATA[start:end]
        assert Got(url, {"Range": "bytes=300000-"}).status == 416
        tag = Got(url).headers["ETag"]
        assert Got(url, {"Range": "bytes=5-", "If-Range": tag}).status == 206
        assert Got(url, {"Range": "bytes=5-", "If-Range": '"other"'}).body == DATA
        if of != "registry":
            server.misbehave("/*", Fault(ignore_range=True))
            assert (Got(url, {"Range": "bytes=5-"}).status, Got(url, {"Range": "bytes=5-"}).body) == (200, DATA)


@pytest.mark.parametrize("of", ["file", "proxy", "https"])
def test_a_connection_is_dropped_where_it_is_said(registry: Registry, tmp_path: Path, of: str) -> None:
    blob = push_blob(registry, "dropped", Blob("text/plain", DATA))
    path = f"/v2/dropped/blobs/{blob['digest']}"
    tls = tmp_path / "tls" if of == "https" else None
    with WebServer({path: DATA} if of == "file" else {}, proxy=registry, tls=tls) as server:
        url = server.url + path
        server.misbehave("/v2/*/blobs/*", Fault(drop_after=123_456), times=1)
        server.misbehave("/v2/*/blobs/*", Fault(drop_after=10), times=1)
        server.misbehave("/v2/*/blobs/*", Fault(drop_after=BEFORE), times=1)
        got = Got(url, ca=server.ca)
        assert (got.whole, got.body) == (False, DATA[:123_456])
        got = Got(url, {"Range": "bytes=123456-"}, ca=server.ca)
        assert (got.status, got.whole, got.body) == (206, False, DATA[123_456:123_466])
        with pytest.raises(http.client.RemoteDisconnected):
            Got(url, ca=server.ca)
        got = Got(url, {"Range": "bytes=123466-"}, ca=server.ca)
        assert (got.whole, got.body) == (True, DATA[123_466:])
        assert [(r.status, r.sent) for r in server.requests] == [
            (200, 123_456),
            (206, 10),
            (0, 0),
            (206, 300_000 - 123_466),
        ]
        server.misbehave("*", Fault(drop_after=10, reset=True))
        if tls:  # what lay in the socket is read with the reset behind it, or not at all
            with suppress(ConnectionResetError):
                assert not Got(url, ca=server.ca).whole
        else:
            with pytest.raises(ConnectionResetError):
                Got(url)


def test_answers_that_are_wrong() -> None:
    with WebServer({"/file": DATA}) as server:
        url = f"{server.url}/file"
        assert Got(f"{server.url}/other").status == 404
        server.misbehave("/file", Fault(status=503, headers={"Retry-After": "1"}), times=2)
        got = [Got(url) for _ in range(3)]
        assert [(each.status, each.headers.get("Retry-After")) for each in got] == [(503, "1"), (503, "1"), (200, None)]
        server.misbehave("/file", Fault(flip=299_000), times=2)
        assert sum(a != b for a, b in zip(Got(url).body, DATA, strict=True)) == 1
        assert Got(url, {"Range": "bytes=299000-"}).body == bytes([DATA[299_000] ^ 0xFF]) + DATA[299_001:]
        server.misbehave("/file", Fault(headers={"Content-Length": "300001"}), times=1)
        got = [Got(url)]
        assert (got[0].whole, got[0].body) == (False, DATA)
        server.misbehave("/file", Fault(headers={"content-length": "10"}), times=1)
        assert Got(url).body == DATA[:10]
        server.misbehave("/file", Fault(headers={"Content-Length": ""}), times=1)
        got = [Got(url)]
        assert (got[0].headers["Content-Length"], got[0].body) == (None, DATA)
        server.misbehave("/file", Fault(content=b"x"), times=1)
        assert Got(url).body == b"x"
        server.misbehave("/file", Fault(bytes_per_second=1_000_000))
        start = time.monotonic()
        assert Got(url).body == DATA
        assert time.monotonic() - start >= 0.28


def test_a_redirect_away_from_a_registry(registry: Registry) -> None:
    blob = push_blob(registry, "away", Blob("text/plain", DATA))
    away = WebServer({f"/{blob['digest']}": registry.blob(blob["digest"])})
    with WebServer(proxy=registry) as server, away:
        server.misbehave("/v2/*/blobs/*", Fault(redirect=f"{away.url}/{{name}}"), method="")
        url = f"{server.url}/v2/away/blobs/{blob['digest']}"
        got = Got(url, {"Authorization": "Bearer x"})
        assert got.status == 307
        assert Got(got.headers["Location"]).body == DATA
        assert [r.headers["Authorization"] for r in (*server.requests, *away.requests)] == ["Bearer x", None]
        server.behave()
        server.misbehave("*", Fault(redirect=f"{away.url}{{path}}", status=301))
        got = Got(f"{server.url}/x/y?z=1")
        assert (got.status, got.headers["Location"]) == (301, f"{away.url}/x/y")
    with pytest.raises(ConnectionRefusedError):
        Got(url)


@pytest.mark.parametrize("after", [BEFORE, 0, 1000])
def test_what_hangs_goes_on_when_it_is_released(after: int) -> None:
    with WebServer({"/file": DATA}) as server:
        server.misbehave("/file", Fault(hang_after=after))
        got: list[Got] = []
        thread = threading.Thread(target=lambda: got.append(Got(f"{server.url}/file")))
        thread.start()
        wait_until(lambda: server.asked("/file") and server.requests[0].sent == max(after, 0), "it hangs")
        thread.join(0.1)
        assert thread.is_alive()
        assert (server.requests[0].status, server.requests[0].sent) == (200 if after >= 0 else 0, max(after, 0))
        server.release()
        thread.join(10)
        assert got[0].body == DATA


def test_a_server_that_closes_drops_who_hangs() -> None:
    with WebServer({"/file": DATA}) as server:
        server.misbehave("/file", Fault(hang_after=10))
        got: list[Got] = []
        thread = threading.Thread(target=lambda: got.append(Got(f"{server.url}/file")))
        with socket.create_connection((server.address, server.port), 10) as idle:
            thread.start()
            wait_until(lambda: server.requests and server.requests[0].sent == 10, "it hangs")
            server.close()
            thread.join(10)
            assert not got[0].whole
            assert idle.recv(1) == b""
        server.start()
        server.behave()
        assert Got(f"{server.url}/file").body == DATA


def test_skopeo_through_a_web_server(registry: Registry) -> None:
    digest = container_disk(registry, "through", "1", layers=[disk(DATA)])
    with WebServer(proxy=registry) as server:
        words = ["inspect", "--raw", "--tls-verify=false"]
        assert digest_of(skopeo(*words, f"docker://{server.host}/through:1")) == digest
        registry.daemon.kill()
        assert Got(f"{server.url}/v2/").status == 502
        registry.start()
