"""Image references: every form that people write, and what looks like one and is none."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt.images.reference import Reference, WebFile, parse

HEX = "0123456789abcdef" * 4
SHA = f"sha256:{HEX}"

ARTIFACTS = [
    ("ghcr.io/org/image:v1", Reference("ghcr.io", "org/image", "v1")),
    ("ghcr.io/org/image", Reference("ghcr.io", "org/image", "latest")),
    ("oci://ghcr.io/org/image:v1", Reference("ghcr.io", "org/image", "v1")),
    ("OCI://ghcr.io/org/image:v1", Reference("ghcr.io", "org/image", "v1")),
    ("localhost/image", Reference("localhost", "image", "latest")),
    ("localhost:5000/a/b/c/d:1", Reference("localhost:5000", "a/b/c/d", "1")),
    ("10.0.0.1:5000/image:1.0_x-Y", Reference("10.0.0.1:5000", "image", "1.0_x-Y")),
    ("[::1]:5000/image", Reference("[::1]:5000", "image", "latest")),
    ("[fd00::1]/image", Reference("[fd00::1]", "image", "latest")),
    ("Registry.Example.ORG/image", Reference("Registry.Example.ORG", "image", "latest")),
    (f"ghcr.io/org/image@{SHA}", Reference("ghcr.io", "org/image", "", SHA)),
    (f"ghcr.io/org/image:v1@{SHA}", Reference("ghcr.io", "org/image", "v1", SHA)),
    ("docker.io/library/debian", Reference("docker.io", "library/debian", "latest")),
    ("a.b/a.b_c__d-e--f/9", Reference("a.b", "a.b_c__d-e--f/9", "latest")),
    (f"a.b/x:{'t' * 128}", Reference("a.b", "x", "t" * 128)),
    (f"a.b/{'x' * 255}", Reference("a.b", "x" * 255, "latest")),
]

FILES = [
    ("https://example.org/disk.qcow2", WebFile("https://example.org/disk.qcow2")),
    ("http://example.org:8080/a/b.raw.xz", WebFile("http://example.org:8080/a/b.raw.xz")),
    ("HTTPS://Example.org/Disk", WebFile("HTTPS://Example.org/Disk")),
    ("https://[fd00::1]:8443/disk", WebFile("https://[fd00::1]:8443/disk")),
    ("https://example.org/a?b=/../c&d=e@f", WebFile("https://example.org/a?b=/../c&d=e@f")),
    ("https://example.org/a%20b/..c/d..", WebFile("https://example.org/a%20b/..c/d..")),
    (f"https://example.org/a#sha256={HEX}", WebFile("https://example.org/a", SHA)),
    (f"https://example.org/{'x' * 2028}", WebFile(f"https://example.org/{'x' * 2028}")),
]

NONE = [
    ("", "no path, URL or registry"),
    ("debian", "write docker.io/library/debian if Docker Hub is meant"),
    ("debian:12", "write docker.io/library/debian:12 if Docker Hub is meant"),
    ("org/image:v1", "write docker.io/org/image:v1 if Docker Hub is meant"),
    ("Org/Image", "no path, URL or registry"),
    ("/srv/disk.raw", "no path, URL or registry"),
    ("file:///srv/disk.raw", "not the host of a registry"),
    ("ghcr.io", "no path, URL or registry|no default one"),
    ("ghcr.io/", "its repository"),
    ("ghcr.io//image", "its repository"),
    ("ghcr.io/org/", "its repository"),
    ("ghcr.io/Org/image", "its repository"),
    ("ghcr.io/org/.image", "its repository"),
    ("ghcr.io/org/../image", "its repository"),
    ("ghcr.io/org/a___b", "its repository"),
    ("ghcr.io/org/a..b", "its repository"),
    ("ghcr.io/org/a%2fb", "its repository"),
    ("ghcr.io/org/image:", "its tag"),
    ("ghcr.io/org/image:a/b", "its tag"),
    ("ghcr.io/org/image:-a", "its tag"),
    (f"a.b/x:{'t' * 129}", "its tag"),
    (f"a.b/{'x' * 256}", "its repository"),
    ("ghcr.io/org/image@sha256:abc", "its digest"),
    (f"ghcr.io/org/image@{SHA.upper()}", "its digest"),
    (f"ghcr.io/org/image@sha512:{HEX}{HEX}", "its digest"),
    (f"ghcr.io/org/image@{SHA}@{SHA}", "its digest"),
    ("ghcr.io/org/image v1", "its repository"),
    ("ghcr.io/org/image\n", "its repository"),
    ("ghcr.io/org/imäge", "its repository"),
    ("user@ghcr.io/org/image", "digest"),
    ("ghcr.io:/image", "host of a registry"),
    ("ghcr.io:port/image", "host of a registry"),
    ("ghcr..io/image", "host of a registry"),
    ("-ghcr.io/image", "host of a registry"),
    ("[::1/image", "host of a registry"),
    ("oci://", "no path, URL or registry"),
    ("oci://https://ghcr.io/a", "host of a registry"),
    ("ftp://example.org/a", "host of a registry"),
    ("https://", "names no file of a host"),
    ("https://example.org", "names no file of a host"),
    ("https://example.org/", "names no file of a host"),
    ("https:///disk", "names no file of a host"),
    ("https://exa_mple.org/disk", "names no file of a host"),
    ("https://[::1/disk", "Invalid IPv6 URL"),
    ("https://user@example.org/disk", "credentials belong into the file of --registry-auth"),
    ("https://user:secret@example.org/disk", "credentials belong into the file of --registry-auth"),
    ("https://:@example.org/disk", "credentials belong into"),
    ("https://example.org\\@evil.org/disk", "names no file of a host|holds a user"),
    ("https://example.org/a b", "visible ASCII"),
    ("https://example.org/a\nb", "visible ASCII"),
    ("https://example.org/ä", "visible ASCII"),
    (f"https://example.org/{'x' * 2029}", "at most 2048"),
    ("https://example.org/a/../b", "servers read as they like"),
    ("https://example.org/a/..", "servers read as they like"),
    ("https://example.org/./a", "servers read as they like"),
    ("https://example.org/%2e%2E/a", "servers read as they like"),
    ("https://example.org/a%2fb", "servers read as they like"),
    ("https://example.org/a%2Fb", "servers read as they like"),
    ("https://example.org/a\\b", "servers read as they like"),
    ("https://example.org/a%5cb", "servers read as they like"),
    ("https://example.org/a#", "what follows its #"),
    ("https://example.org/a#sha256=abc", "what follows its #"),
    (f"https://example.org/a#{SHA}", "what follows its #"),
    (f"https://example.org/a#sha256={HEX}#", "what follows its #"),
]


@pytest.mark.parametrize(("image", "meant"), [*ARTIFACTS, *FILES])
def test_what_people_write_is_read(image: str, meant: Reference | WebFile) -> None:
    assert parse(image) == meant
    shown = parse(str(meant))
    assert str(shown) == str(meant)
    assert shown == (replace(meant, tag="") if isinstance(meant, Reference) and meant.digest else meant)


@pytest.mark.parametrize(("image", "words"), NONE)
def test_what_is_none_is_told_why_in_a_sentence(image: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse(image)
    assert str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("image", "meant"), [*ARTIFACTS, *FILES])
def test_by_its_content_it_is_a_reference_too(image: str, meant: Reference | WebFile) -> None:
    other = f"sha256:{'f' * 64}"
    named = parse(meant.at(other))
    assert named.digest == other
    assert str(named) == meant.at(other)


def test_a_digest_goes_before_the_tag_and_is_what_a_registry_is_asked_for() -> None:
    both = parse(f"ghcr.io/org/image:v1@{SHA}")
    assert isinstance(both, Reference)
    assert (both.version, both.name, str(both)) == (SHA, "ghcr.io/org/image", f"ghcr.io/org/image@{SHA}")
    tagged = parse("ghcr.io/org/image:v1")
    assert isinstance(tagged, Reference)
    assert tagged.version == "v1"


def test_the_host_of_a_file_has_the_port_that_is_named() -> None:
    assert [parse(f"https://{host}/disk").host for host in ("a.b", "a.b:1", "[::1]:2")] == ["a.b", "a.b:1", "[::1]:2"]  # type: ignore[union-attr]


ALPHABET = st.sampled_from("abzAZ09._-/:@#%?[]\\ \n\0äoci")


@given(st.text(ALPHABET, max_size=40).map(lambda text: text.replace("oci", "oci://")))
def test_any_text_is_one_of_both_or_told_why(text: str) -> None:
    for image in (text, f"a.b/{text}", f"https://{text}", f"https://a.b/{text}", f"a.b/c@sha256:{text}"):
        try:
            found = parse(image)
        except ValueError as error:
            words = str(error)
            assert words
            continue
        assert str(parse(str(found))) == str(found)
        if isinstance(found, Reference):
            assert re.fullmatch(r"[\w.\[\]:-]+", found.registry)
            assert not re.search(r"[A-Z%?#\\ \n\0]|\.\.|^/|/$|//", found.repository)
        else:
            assert re.fullmatch(r"[!-~]+", found.url)
            assert "@" not in found.host


@given(
    st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){1,3}(:[1-9][0-9]{0,4})?", fullmatch=True),
    st.from_regex(r"[a-z0-9]{1,5}([._-][a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,5}){0,3}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    st.booleans(),
)
def test_parts_that_are_right_make_a_reference_of_these_parts(
    registry: str, repository: str, tag: str, named: bool
) -> None:
    found = parse(f"{registry}/{repository}:{tag}" + (f"@{SHA}" if named else ""))
    assert found == Reference(registry, repository, tag, SHA if named else "")
