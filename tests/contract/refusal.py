"""Expecting that a call is refused, with a code and with words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest


@dataclass
class Refusal:
    """What a call was answered, once it was."""

    message: str = ""


@asynccontextmanager
async def refused(code: grpc.StatusCode, words: str = "") -> AsyncIterator[Refusal]:
    """The calls within must end with this code, in a message that holds these words."""
    refusal = Refusal()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield refusal
    refusal.message = caught.value.details() or ""
    assert caught.value.code() is code, refusal.message
    assert words in refusal.message
