"""Where the socket of a run's or a session's process is: a folder of this user's, a name made from the job's folder.

Whoever knows the folder (`store`) knows the socket, so that nothing has to be registered, and a socket whose process is
gone is found by nobody. No torch.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from engine.errors import WorkFailed


def runtime_folder() -> Path:
    """The folder of this user's sockets, made with mode 0700 where it is not there.

    Raises:
        WorkFailed: it cannot be made, or is somebody else's, or open to others.
    """
    given = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(given) / "loraworkbench" if given else Path(tempfile.gettempdir()) / f"loraworkbench-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise WorkFailed(f"cannot make the folder of sockets: {error.strerror}", where=str(folder)) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        remedy = "remove it, or set XDG_RUNTIME_DIR to a folder of your own"
        raise WorkFailed("the folder of sockets is not yours alone", where=str(folder), remedy=remedy)
    return folder


def socket_of(folder: Path) -> Path:
    """The socket of the process that works in a run's or job's folder.

    Raises:
        WorkFailed: see `runtime_folder`.
    """
    return (
        runtime_folder()
        / f"{hashlib.sha256(str(folder.resolve()).encode('utf-8', 'surrogateescape')).hexdigest()[:24]}"
    )
