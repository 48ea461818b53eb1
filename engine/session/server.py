"""The sockets of a session: a thread that reads requests and writes replies, and never makes the model wait.

A client that reads slowly gets its text in larger pieces, what waits for it being merged by column, and of progress the
newest only; a client for which more than `MOST_WAITING` bytes wait is dropped. Requests become tickets; `take` gets
them, from this thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from engine import protocol
from engine.errors import WorkFailed
from engine.protocol import AnyRequest, Reply

MOST_WAITING = 16 * 2**20
PIECE = 65536


@dataclass(eq=False)
class Ticket:
    """A request that waits for, or is being carried out by, the model's thread."""

    client: Client
    request: AnyRequest
    cancelled: threading.Event = field(default_factory=threading.Event)

    def reply(self, message: Reply) -> None:
        """Send a reply; from any thread, at once, whatever the client does."""
        self.client.post(message)

    def end(self, message: Reply) -> None:
        """Send the reply that ends the request."""
        self.client.tickets.pop(self.request.id, None)
        self.reply(message)


class Client:
    """One connection."""

    def __init__(self, server: Server, writer: asyncio.StreamWriter) -> None:
        self.server, self.writer = server, writer
        self.tickets: dict[int, Ticket] = {}
        self._waiting: list[Reply] = []
        self._size, self._wake = 0, asyncio.Event()
        self.gone = False

    def post(self, message: Reply) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody is there any more
            self.server.loop.call_soon_threadsafe(self._put, message)

    def _put(self, message: Reply) -> None:
        if self.gone:
            return
        if isinstance(message, protocol.Text):
            for waiting in reversed(self._waiting):
                if isinstance(waiting, protocol.Text) and (waiting.id, waiting.column) == (message.id, message.column):
                    waiting.text += message.text
                    waiting.tokens += message.tokens
                    break
            else:
                self._waiting.append(message)
            self._size += len(message.text) + 48 * len(message.tokens)
        else:
            if isinstance(message, protocol.Progress):
                old = len(self._waiting)
                self._waiting = [
                    m for m in self._waiting if not (isinstance(m, protocol.Progress) and m.id == message.id)
                ]
                self._size -= 256 * (old - len(self._waiting))
            self._waiting.append(message)
            self._size += 256
        if self._size > MOST_WAITING:
            self.writer.transport.abort()
            self.gone = True
        self._wake.set()

    async def write(self) -> None:
        """Write what waits, for as long as the connection lasts."""
        while not self.gone:
            await self._wake.wait()
            self._wake.clear()
            waiting, self._waiting, self._size = self._waiting, [], 0
            for message in waiting:
                self.writer.write(protocol.encode(message))
                await self.writer.drain()

    async def read(self, reader: asyncio.StreamReader) -> None:
        """Take requests until the connection ends."""
        line, skipping = bytearray(), False
        while data := await reader.read(PIECE):
            *ends, rest = data.split(b"\n")
            for end in ends:
                line += end
                if not skipping and line.strip():
                    self._request(bytes(line))
                line, skipping = bytearray(), False
            line += rest
            if len(line) > protocol.LONGEST_LINE:
                if not skipping:
                    problem = f"the request is longer than {protocol.LONGEST_LINE:,} bytes"
                    self._put(protocol.Refused(protocol.id_of(bytes(line)), problem))
                line, skipping = bytearray(), True

    def _request(self, line: bytes) -> None:
        if len(line) > protocol.LONGEST_LINE:
            self._put(protocol.Refused(-1, f"the request is longer than {protocol.LONGEST_LINE:,} bytes"))
            return
        try:
            request = protocol.decode_request(line)
        except ValueError as error:
            self._put(protocol.Refused(protocol.id_of(line), str(error)))
            return
        if request.id in self.tickets:
            self._put(protocol.Refused(request.id, f"request {request.id} is still going on"))
            return
        if isinstance(request, protocol.Cancel):
            target = self.tickets.get(request.target)
            if target is None:
                self._put(protocol.Refused(request.id, f"there is no request {request.target} going on"))
            else:
                target.cancelled.set()
                self._put(protocol.Done(request.id))
            return
        ticket = Ticket(self, request)
        self.tickets[request.id] = ticket
        self.server.take(ticket)


class Server:
    """Listens on a Unix socket from `start` to `close`.

    Args:
        path: of the socket; mode 0600. What is there is replaced: the job's lock says that nobody else listens.
        take: gets each ticket, on the server's thread; it must not wait.
    """

    def __init__(self, path: Path, take: Callable[[Ticket], None]) -> None:
        self.path, self.take = path, take
        self.loop = asyncio.new_event_loop()
        self.clients: set[Client] = set()
        self._thread = threading.Thread(target=self._run, name="session-server", daemon=True)
        self._over: asyncio.Event | None = None

    def start(self) -> None:
        """Listen.

        Raises:
            WorkFailed: the socket cannot be made.
        """
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
            listening.bind(str(self.path))
            listening.listen(16)
        except OSError as error:
            listening.close()
            raise WorkFailed(f"cannot listen: {error.strerror or error}", where=str(self.path)) from error
        finally:
            os.umask(before)
        self._listening = listening
        self._thread.start()

    def close(self) -> None:
        """End all connections, after what waits has been written where that is quick."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(lambda: self._over and self._over.set())
        self._thread.join(timeout=5)
        self.path.unlink(missing_ok=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._serve())
        self.loop.close()

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        server = await asyncio.start_unix_server(self._connected, sock=self._listening)
        await self._over.wait()
        server.close()
        await asyncio.sleep(0.05)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if _user_of(writer.get_extra_info("socket")) != os.getuid():
            writer.close()
            return
        client = Client(self, writer)
        self.clients.add(client)
        writing = asyncio.create_task(client.write())
        try:
            await client.read(reader)
        except (OSError, asyncio.CancelledError):  # gone, or the session ends (asyncio would complain of the task)
            pass
        finally:
            client.gone = True
            self.clients.discard(client)
            for ticket in client.tickets.values():
                ticket.cancelled.set()
            writing.cancel()
            writer.close()


def _user_of(connection: socket.socket) -> int:
    """The user id of the process at the other end."""
    if hasattr(socket, "SO_PEERCRED"):
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return struct.unpack("3i", raw)[1]
    return os.getuid()  # elsewhere the modes of folder and socket are what keeps others out
