"""A client of a session: connects to its socket, sends requests, and hands on replies as they come. No torch.

Comes from: the folder of a running run or session (`addresses.socket_of`). Goes to: the workbench's threads, tests.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

from engine import protocol
from engine.addresses import socket_of
from engine.errors import WorkFailed
from engine.protocol import AnyReply, Request


class Client:
    """One connection. `send` from one thread, `replies` in another.

    Raises:
        WorkFailed: no session listens for this folder.
    """

    def __init__(self, folder: Path, timeout: float | None = None) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._ids = itertools.count(1)
        try:
            self._socket.connect(str(socket_of(folder)))
        except OSError as error:
            self._socket.close()
            raise WorkFailed("no session answers here", where=str(folder), remedy="start it again") from error
        self._socket.settimeout(timeout)

    def next_id(self) -> int:
        return next(self._ids)

    def send(self, request: Request) -> None:
        """Send a request.

        Raises:
            WorkFailed: the session has ended.
        """
        try:
            self._socket.sendall(protocol.encode(request))
        except OSError as error:
            raise WorkFailed("the session has ended") from error

    def replies(self) -> Iterator[AnyReply]:
        """Replies as they come, until the connection ends; kinds that this version does not know are left out."""
        rest = b""
        with contextlib.suppress(OSError):
            while data := self._socket.recv(65536):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    if (reply := protocol.decode_reply(line)) is not None:
                        yield reply

    def ask(self, request: Request) -> list[AnyReply]:
        """Send a request and wait for all of its replies. Not while another thread reads `replies`.

        Raises:
            WorkFailed: the session has ended before the last one.
        """
        self.send(request)
        found: list[AnyReply] = []
        for reply in self.replies():
            if reply.id == request.id:
                found.append(reply)
                if isinstance(reply, protocol.ENDS):
                    return found
        raise WorkFailed("the session has ended")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
