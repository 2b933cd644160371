"""What a terminal, a log, a message and a document may be given: the one list, and its one form for each of them.

Names, labels and messages come from tenants, guests and hosts. A control character draws on a terminal, a mark of
direction makes text read as another, an invisible one hides in it. A terminal and a log for people get U+FFFD in its
place; a document (JSON, YAML, XML, a JSON log) loses nothing: it holds the character's escape. What is printed does not
belong here, nor what a request may hold (that is `server/validate.py`).
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

RANGES = (
    (0x00, 0x1F),  # C0: escape sequences, line breaks
    (0x7F, 0x9F),  # DEL and C1: escape sequences of one character
    (0x061C, 0x061C),  # Arabic letter mark
    (0x180E, 0x180E),  # Mongolian vowel separator: no width
    (0x200B, 0x200B),  # zero width space; the joiners after it are letters of real languages
    (0x200E, 0x200F),  # left-to-right and right-to-left marks
    (0x2028, 0x202E),  # line and paragraph separators; embeddings and overrides of direction
    (0x2060, 0x206F),  # no width: joiner, operators, isolates, old format characters
    (0xD800, 0xDFFF),  # surrogates: no characters; Python's for bytes that are no UTF-8
    (0xFEFF, 0xFEFF),  # byte order mark, no width
    (0xFFF9, 0xFFFB),  # interlinear annotation
    (0xFFFE, 0xFFFF),  # no characters; XML has no word for them
    (0xE0000, 0xE007F),  # tags: text that nobody sees
)
"""The code points, first and last, that are never given as they are (Unicode's UTS 39 and UAX 9, ECMA-48)."""

INSTEAD = "\N{REPLACEMENT CHARACTER}"

SHOWN = 64
"""Characters of a value that a message quotes."""


UNFIT = re.compile(f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in RANGES)}]")
"""Any of them."""

_UNFIT_IN_LINES = re.compile(f"(?!\n){UNFIT.pattern}")
_LABEL_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_UNFIT_IN_XML = re.compile(f"(?![\t\n\r]){UNFIT.pattern}")


def line(text: str) -> str:
    """One line for a terminal: nothing in it can draw, break, reorder or hide."""
    return UNFIT.sub(INSTEAD, text)


def lines(text: str) -> str:
    """The same for text of several lines, whose breaks are ours."""
    return _UNFIT_IN_LINES.sub(INSTEAD, text)


def quote(text: str) -> str:
    """Somebody's string in a message: quoted, escaped, cut short."""
    return json_text(text if len(text) <= SHOWN else text[:SHOWN] + "…")


def json_text(value: Any, **options: Any) -> str:
    """A JSON document (`options` as of json.dumps) that reads back as the same value."""
    return _UNFIT_IN_LINES.sub(_json_escape, json.dumps(value, **options, ensure_ascii=False))


def yaml_text(value: Any) -> str:
    """A YAML document that reads back as the same value."""
    import yaml  # slow to import, and seldom wanted

    dumped: str = yaml.dump(value, Dumper=_dumper(), sort_keys=False, allow_unicode=True)
    return _UNFIT_IN_LINES.sub(lambda found: f"\\U{ord(found.group()):08X}", dumped)


def xml_text(document: str) -> str:
    """An XML document with these characters as references, which say the same in text and attributes."""
    return _UNFIT_IN_XML.sub(lambda found: f"&#x{ord(found.group()):X};", document)


def xml_comment(*notes: str) -> str:
    """An XML comment of one line for each note; no note can end it (XML 1.0, 2.5: no two hyphens in a row)."""
    inside = "\n".join(f"  {re.sub('-(?=-)', '- ', line(note))}" for note in notes)
    return f"<!--\n{inside}\n-->"


def label(value: str) -> str:
    """A label's value in Prometheus' text format, which has escapes for these three alone."""
    return lines(value).translate(_LABEL_ESCAPES)


def _json_escape(found: re.Match[str]) -> str:
    return json.dumps(found.group())[1:-1]  # as UTF-16, in which JSON's escapes are


@cache
def _dumper() -> Any:
    """A YAML writer that puts every string with such a character in double quotes, where it can be escaped."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def string(dumper: Dumper, text: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if UNFIT.search(text) else None)

    Dumper.add_representer(str, string)
    return Dumper
