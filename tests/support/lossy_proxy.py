"""A proxy before a server's socket that can lose an answer after the request was carried out, or cut everything off."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path


class LossyProxy:
    """``url`` leads to the server at ``target`` for as long as the proxy is open."""

    def __init__(self, path: Path, target: Path) -> None:
        self._path = path
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.lose = 0
        """How many of the next answers to scripts are lost; the connection that waits for one ends."""
        self.lost = 0
        self.is_cut = False
        """Whether nothing goes through in either direction; connections stay open, as when packets vanish."""

    @property
    def url(self) -> str:
        return f"unix://{self._path}"

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self._path))

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._writers):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to = await asyncio.open_unix_connection(str(self._target))
        self._writers |= {writer, to}
        asked = asyncio.Event()
        tasks = [
            asyncio.create_task(self._pass(reader, to, asked)),
            asyncio.create_task(self._answer(there, writer, asked)),
        ]
        try:
            with suppress(asyncio.CancelledError):
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for end in (writer, to):
                self._writers.discard(end)
                end.close()
                with suppress(OSError):
                    await end.wait_closed()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if b"EVALSHA" in data:
                asked.set()
            else:
                asked.clear()
            if not self.is_cut:
                writer.write(data)
                await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if self.lose and asked.is_set():
                self.lose -= 1
                self.lost += 1
                return
            if not self.is_cut:
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def lossy_proxy(target: Path) -> AsyncIterator[LossyProxy]:
    proxy = LossyProxy(target.with_name("p"), target)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()
