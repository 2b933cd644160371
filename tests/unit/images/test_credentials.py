"""Passwords for registries: all forms of the file, which entry counts, and that nothing of it is ever shown."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt.errors import NotReady
from sri_libvirt.images.credentials import find
from sri_libvirt.images.reference import parse

SECRET = "s3cret:with colon"


def auth(user: str, password: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "auth.json"


def write(file: Path, auths: dict[str, Any], **more: object) -> Path:
    file.write_text(json.dumps({"auths": auths, **more}))
    return file


def test_without_a_file_one_is_nobody() -> None:
    assert find(None, parse("ghcr.io/org/image")) == ("", "")


@pytest.mark.parametrize(
    "entry",
    [
        auth("user"),
        {"username": "user", "password": SECRET},
        {**auth("user"), "username": "other", "password": "other", "email": "a@b"},
        auth("user", f"{SECRET}\0\0"),
    ],
    ids=["auth", "pair", "both", "padded"],
)
def test_every_form_of_an_entry_is_read(file: Path, entry: dict[str, str]) -> None:
    assert find(write(file, {"ghcr.io": entry}), parse("ghcr.io/org/image")) == ("user", SECRET)


def test_of_several_entries_the_longest_that_fits_counts(file: Path) -> None:
    hosts = ["ghcr.io", "ghcr.io/org", "ghcr.io/org/sub", "ghcr.io/organ", "ghcr.io:443", "io", "other.example.org"]
    write(file, {host: {"username": host, "password": SECRET} for host in hosts})
    for image, entry in (
        ("ghcr.io/image", "ghcr.io"),
        ("ghcr.io/org", "ghcr.io/org"),
        ("ghcr.io/org/image:v1", "ghcr.io/org"),
        ("ghcr.io/org/sub", "ghcr.io/org/sub"),
        ("ghcr.io/org/sub/image", "ghcr.io/org/sub"),
        ("ghcr.io/org/subimage", "ghcr.io/org"),
        ("ghcr.io:443/org/image", "ghcr.io:443"),
        ("https://ghcr.io/org/disk", "ghcr.io"),
        ("https://ghcr.io:443/org/disk", "ghcr.io:443"),
    ):
        assert find(file, parse(image)) == (entry, SECRET), image
    for image in ("quay.io/org/image", "example.org/image", "ghcr.io:5000/image", "https://io.example.org/disk"):
        assert find(file, parse(image)) == ("", ""), image


@pytest.mark.parametrize(
    ("key", "image"),
    [
        ("https://index.docker.io/v1/", "docker.io/library/debian"),
        ("docker.io", "docker.io/library/debian"),
        ("https://ghcr.io", "ghcr.io/org/image"),
        ("https://ghcr.io/", "ghcr.io/org/image"),
        ("http://10.0.0.1:5000", "10.0.0.1:5000/image"),
        ("docker.io/library", "docker.io/library/debian"),
    ],
)
def test_keys_are_those_that_programs_write(file: Path, key: str, image: str) -> None:
    assert find(write(file, {key: auth("user"), "other.example.org": {}}), parse(image)) == ("user", SECRET)


def test_it_is_read_each_time(file: Path) -> None:
    wanted = parse("ghcr.io/org/image")
    assert find(write(file, {}), wanted) == ("", "")
    assert find(write(file, {"ghcr.io": auth("one")}), wanted) == ("one", SECRET)
    assert find(write(file, {"ghcr.io": auth("two")}), wanted) == ("two", SECRET)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        None,
        [],
        SECRET,
        {"auth": SECRET},
        {"auth": None},
        {"auth": base64.b64encode(b"\xff\xfe:\xff").decode()},
        {"auth": base64.b64encode(SECRET.replace(":", "").encode()).decode()},
        {"username": "user"},
        {"username": "user", "password": 7},
        {"identitytoken": SECRET},
    ],
)
def test_an_entry_that_cannot_be_used_is_told_of_where_it_would_count(file: Path, entry: Any) -> None:
    write(file, {"ghcr.io": entry, "quay.io": auth("user")}, credHelpers={"ghcr.io": "false"}, credsStore="false")
    assert find(file, parse("quay.io/org/image")) == ("user", SECRET)
    with pytest.raises(NotReady, match=f"--registry-auth {file} cannot be used: .*ghcr.io") as caught:
        find(file, parse("ghcr.io/org/image"))
    discreet(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f'{{"auths": {{"ghcr.io": {{"auth": "{SECRET}"', "it is not JSON"),
        (SECRET, "it is not JSON"),
        ("", "it is not JSON"),
        (f'["{SECRET}"]', "it is not {"),
        (f'{{"auths": ["{SECRET}"]}}', "it is not {"),
        (f'{{"auths": "{SECRET}"}}', "it is not {"),
        ("\udcff", "it is not JSON"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_of_without_its_words(file: Path, text: str, words: str) -> None:
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(NotReady, match=f"--registry-auth {file} cannot be used: {words}") as caught:
        find(file, parse("ghcr.io/org/image"))
    discreet(caught.value)


def test_a_file_that_is_not_there_is_told_of(file: Path, tmp_path: Path) -> None:
    for path, words in ((file, "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(NotReady, match=f"--registry-auth {path} cannot be used: {words}"):
            find(path, parse("ghcr.io/org/image"))


def test_a_file_without_passwords_has_none(file: Path) -> None:
    file.write_text("{}")
    assert find(file, parse("ghcr.io/org/image")) == ("", "")


@given(st.text(min_size=1).filter(lambda text: ":" not in text), st.text().filter(lambda text: not text.endswith("\0")))
def test_any_user_and_password_come_through(tmp_path_factory: pytest.TempPathFactory, user: str, password: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.json"
    write(file, {"ghcr.io": auth(user, password)})
    assert find(file, parse("ghcr.io/org/image")) == (user, password)
    write(file, {"ghcr.io": {"username": user, "password": password}})
    assert find(file, parse("ghcr.io/org/image")) == (user, password)


@given(st.recursive(st.none() | st.text() | st.integers(), lambda it: st.lists(it) | st.dictionaries(st.text(), it)))
def test_of_any_file_one_gets_a_password_or_hears_why_not(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "odd.json"
    for whole in (data, {"auths": data}, {"auths": {"ghcr.io": data}}):
        file.write_text(json.dumps(whole))
        try:
            user, password = find(file, parse("ghcr.io/org/image"))
        except NotReady as error:
            words = str(error)
            assert str(file) in words
        else:
            assert isinstance(user, str)
            assert isinstance(password, str)


def discreet(error: NotReady) -> None:
    said = f"{error} {error.advice} {error.__cause__!r} {error.__suppress_context__ or error.__context__!r}"
    for form in (SECRET, "s3cret", base64.b64encode(SECRET.encode()).decode()):
        assert form not in said
