"""Expecting that a call is refused, with a code and with words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest


@asynccontextmanager
async def refused(code: grpc.StatusCode, words: str = "") -> AsyncIterator[None]:
    """The calls within must end with this code, in a message that holds these words."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    assert caught.value.code() is code, caught.value.details()
    assert words in (caught.value.details() or "")
