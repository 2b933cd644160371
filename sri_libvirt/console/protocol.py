"""What the protocols of console clients share: what a client can say in any of them, and the error of one that does not
keep to its own.

A dialogue is sans-IO: `receive` takes bytes of the client and says what they mean, `take` gives the bytes to be sent.
Of the guest it knows nothing; `session.py` joins the two.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol

MOST_QUEUED = 256 * 1024
"""Answers that wait because the peer does not read what it asks for."""


class ProtocolError(Exception):
    """The peer has said what its protocol does not allow. `str(error)` says what, without any of its bytes."""


class Output:
    """What is to be sent to the peer, until it is taken."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def __bool__(self) -> bool:
        return bool(self._bytes)

    def __iadd__(self, data: bytes) -> Output:
        self._bytes += data
        return self

    def check(self) -> None:
        """Raise ProtocolError when answers to what the peer asks have heaped up."""
        if len(self._bytes) > MOST_QUEUED:
            raise ProtocolError("more is asked than the answers are read")

    def take(self) -> bytes:
        data = bytes(self._bytes)
        self._bytes.clear()
        return data


@dataclass(frozen=True, slots=True)
class Typed:
    """Bytes for the guest. `consumed` has to be told of them."""

    data: bytes


@dataclass(frozen=True, slots=True)
class InputEnded:
    """Nothing more will be typed; what the guest prints is still wanted."""


@dataclass(frozen=True, slots=True)
class Left:
    """The client is going, and reads nothing more."""


Said = Typed | InputEnded | Left
"""What a client says that concerns the guest. Anything else that it says is a sign of life."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a session ended, as Kubernetes tells it: a `metav1.Status`. `problem` is "" for success."""

    problem: str = ""

    def as_json(self) -> bytes:
        """For version 4 of remotecommand and later."""
        status: dict[str, object] = {"metadata": {}, "status": "Failure" if self.problem else "Success"}
        if self.problem:
            status |= {"message": self.problem, "reason": "InternalError", "code": 500}
        return json.dumps(status, separators=(",", ":")).encode()

    def as_text(self) -> bytes:
        """For those before: empty means success."""
        return self.problem.encode()


class Dialogue(Protocol):
    """One client's side of a session."""

    @property
    def leaves(self) -> bool:
        """Whether the client goes by itself when it has heard how it ended; one that is cut off before, because it was
        still opening what it wants to have, does not tell its user."""

    @property
    def ready(self) -> bool:
        """Whether the client has all that it needs for what the guest prints."""

    @property
    def waiting(self) -> int:
        """Bytes that the client's flow control holds back; while there are any, no more should be shown."""

    @property
    def has_output(self) -> bool:
        """Whether `take` would give anything."""

    def receive(self, data: bytes) -> list[Said]:
        """What these bytes say. Raises ProtocolError; what `take` gives then says so to the client."""

    def show(self, data: bytes) -> None:
        """What the guest printed."""

    def consumed(self, count: int) -> None:
        """So many bytes of what was typed have gone to the guest."""

    def ping(self) -> None:
        """Ask for a sign of life."""

    def finish(self, outcome: Outcome) -> None:
        """No more is shown; say how it ended."""

    def close(self) -> None:
        """The last words, once nothing waits."""

    def take(self) -> bytes:
        """What is to be sent."""
