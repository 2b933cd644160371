"""What comes out can do nothing where it is printed, and documents lose nothing by it."""

from __future__ import annotations

import json
import re
import unicodedata

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from lxml import etree
from prometheus_client.parser import text_string_to_metric_families

from sri_libvirt import printable

ISSUE = [
    *range(0x20),
    *range(0x7F, 0xA0),
    *(0x061C, 0x200B, 0x200E, 0x200F, 0x2028, 0x2029),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    *(0xFEFF, 0xD800, 0xDFFF),
]
ALL = [code for first, last in printable.RANGES for code in range(first, last + 1)]

anything = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from([chr(code) for code in ALL]),
        st.sampled_from("->\"'\\&<:#"),
    ),
    max_size=30,
)
in_utf8 = anything.map(lambda text: "".join(each for each in text if not 0xD800 <= ord(each) <= 0xDFFF))


def unfit(text: str, but: str = "\n") -> str:
    """What of a text may not be printed, worked out without the module under test."""
    return "".join(each for each in text if each not in but and ord(each) in set(ALL))


@pytest.mark.parametrize("code", ISSUE)
def test_the_list_has_what_draws_reorders_and_hides(code: int) -> None:
    assert printable.line(f"a{chr(code)}b") == "a\ufffdb"


def test_the_list_has_every_control_character_and_separator_and_no_letter() -> None:
    for code in range(0x110000):
        category = unicodedata.category(chr(code))
        if category in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(chr(code)) in ("LRE", "RLE", "LRO", "RLO",
                                                                                            "PDF", "LRI", "RLI", "FSI",
                                                                                            "PDI"):  # fmt: skip
            assert printable.UNFIT.match(chr(code)), hex(code)
        if category[0] in "LMNPS" and code not in ALL:
            assert not printable.UNFIT.match(chr(code)), hex(code)
    assert not printable.UNFIT.search("aü ω 漢 👩\u200d🚀 می\u200cخواهم")


def test_quoted_text_is_short_and_escaped() -> None:
    assert printable.quote('a"\n\u202e') == '"a\\"\\n\\u202e"'
    assert len(printable.quote("x" * 10_000)) < 80


@given(anything)
def test_a_line_is_one_line(text: str) -> None:
    assert unfit(printable.line(text), but="") == ""
    assert len(printable.line(text)) == len(text)
    assert unfit(printable.lines(text)) == ""
    assert printable.lines(text).count("\n") == text.count("\n")
    assert unfit(printable.quote(text), but="") == ""
    assert len(printable.quote("\x00" * 10_000)) < 400


values = st.recursive(
    st.one_of(anything, st.none(), st.booleans(), st.integers()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(anything, inner, max_size=4)),
    max_leaves=8,
)


@given(values)
@example({"\u202e": ["\x85", "a\u2028b", "\ud800", "\U000e0041", "x\ny: z", "\ufeff", "'", "---"]})
def test_documents_read_back_as_what_they_were_made_of(value: object) -> None:
    as_json, as_yaml = printable.json_text(value, indent=2), printable.yaml_text(value)
    assert json.loads(as_json) == value
    assert yaml.safe_load(as_yaml) == value
    assert unfit(as_json) == unfit(as_yaml) == ""
    as_json.encode()
    as_yaml.encode()


@given(in_utf8)
@example("\x7f\x85\x9b\u202e\ufeff\U000e0041")
def test_xml_reads_back_as_what_it_was_made_of(text: str) -> None:
    text = re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)  # XML has no word for it
    root = etree.Element("a", b=text)
    root.text = text
    document = printable.xml_text(etree.tostring(root, encoding="unicode"))
    assert unfit(document, but="\t\n\r") == ""
    again = etree.fromstring(document)
    assert (again.text or "", again.get("b")) == (text, text)


@given(st.lists(anything, max_size=3))
@example(["--->", "-", "a--"])
@example(["<!-- ", "\ud800"])
def test_no_note_ends_its_comment(notes: list[str]) -> None:
    comment = printable.xml_comment(*notes)
    root = etree.fromstring(f"<a>{comment}<b/></a>")
    assert [child.tag for child in root] == [etree.Comment, "b"]
    assert unfit(comment) == ""
    assert comment.count("\n") == max(len(notes), 1) + 1


@given(anything)
def test_labels_are_read_by_prometheus(text: str) -> None:
    told = printable.label(text)
    assert unfit(told, but="") == ""
    (family,) = text_string_to_metric_families(f'# TYPE m gauge\nm{{x="{told}"}} 1\n')
    assert family.samples[0].labels == {"x": printable.lines(text)}
