"""Two machines on this one: network namespaces joined by a cable (veth) that can be cut. Needs root and Linux's `ip`."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.engine.commandline import ROOT

NIC = "cable0"
"""What each host calls its end of the cable."""
ADDRESSES = {"host1": "10.77.0.1", "host2": "10.77.0.2"}
LIFE_SECONDS = 900
"""Namespaces live as long as a process in them; this ends those of a test that was killed."""


@dataclass(frozen=True)
class Host:
    """A machine with a name, a loopback and one end of the cable; its disk is that of all."""

    holder: int
    name: str

    def inside(self, *command: str | Path) -> list[str]:
        """The command line that runs `command` on this host."""
        return ["nsenter", f"--target={self.holder}", "--net", "--uts", "--mount", *map(str, command)]

    def set(self, *command: str | Path) -> None:
        subprocess.run(self.inside(*command), check=True, capture_output=True, text=True)

    def start(self, *command: str | Path, **environment: str) -> subprocess.Popen[str]:
        """Run `command` here, in a process group of its own and in this folder."""
        given = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        return subprocess.Popen(
            self.inside("env", "-C", Path.cwd(), *command),
            env=given, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            process_group=0,
        )  # fmt: skip


def missing() -> str:
    """Why there can be no two hosts here; "" where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "two hosts need Linux and root"
    if absent := [tool for tool in ("ip", "unshare", "nsenter", "mount") if shutil.which(tool) is None]:
        return f"two hosts need {', '.join(absent)}"
    try:
        with two_hosts(Path("/tmp")):
            return ""
    except (subprocess.CalledProcessError, OSError) as error:
        return f"two hosts cannot be made here: {getattr(error, 'stderr', None) or error}"


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """While in the block there are host1 and host2, which reach each other and nobody else.

    As on Debian, each knows its own name as an address of loopback.

    Args:
        folder: for files that they need.
    """
    spaces = ["--net", "--uts", "--mount"]
    holders = [subprocess.Popen(["unshare", *spaces, "sleep", str(LIFE_SECONDS)]) for _ in ADDRESSES]
    try:
        for holder in holders:
            _wait_until_unshared(holder)
        hosts = [Host(holder.pid, name) for name, holder in zip(ADDRESSES, holders, strict=True)]
        ends = [f"{NIC} netns {host.holder}".split() for host in hosts]
        subprocess.run(
            ["ip", "link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1]],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        for host in hosts:
            known = {"localhost": "127.0.0.1", **ADDRESSES, host.name: "127.0.1.1"}
            names = folder / f"hosts-{host.name}"
            names.write_text("".join(f"{address} {name}\n" for name, address in known.items()))
            host.set("mount", "--bind", names, "/etc/hosts")
            host.set("hostname", host.name)
            host.set("ip", "link", "set", "lo", "up")
            host.set("ip", "address", "add", f"{ADDRESSES[host.name]}/24", "dev", NIC)
            host.set("ip", "link", "set", NIC, "up")
        yield hosts[0], hosts[1]
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


def _wait_until_unshared(holder: subprocess.Popen[bytes]) -> None:
    """`unshare` makes all namespaces at once."""
    own, deadline = os.readlink("/proc/self/ns/net"), time.monotonic() + 10
    while holder.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{holder.pid}/ns/net") != own:
                return
        time.sleep(0.01)
    raise OSError("`unshare` makes no namespaces")
