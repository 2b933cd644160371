"""`python -m tests.terminal.relay SOCKET`: lets tests reach servers of a network namespace that this process is in.

A client of the unix socket says `HOST PORT` and a line break first; from then on bytes are carried both ways, and
either's end is the other's.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    host, port = (await reader.readline()).decode().split()
    with suppress(OSError):
        other_reader, other_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(_carry(reader, other_writer), _carry(other_reader, writer))
        other_writer.close()
    writer.close()


async def main() -> None:
    server = await asyncio.start_unix_server(_relay, sys.argv[1])
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
