"""The network interface over which the ranks of a training speak: that on which they meet.

    MASTER_ADDR -> the address from which this machine reaches it -> the interface that has this address

Comes from: the environment of a rank, and what the others say at their meeting. Goes to: GLOO_SOCKET_IFNAME, where the
user has not set it. By itself gloo takes the address of this machine's own name, which is loopback on many machines.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence

VARIABLE = "GLOO_SOCKET_IFNAME"


def settle(gather: Callable[[str], Sequence[str]]) -> None:
    """Set the variable; what cannot be found out is left to gloo. Called by all ranks, or by none.

    Args:
        gather: gives what every rank says here, to every rank.
    """
    own, master = way_to(os.environ["MASTER_ADDR"])
    others = [tuple(json.loads(each)) for each in gather(json.dumps([own, master]))]
    if os.environ.get(VARIABLE) or sys.platform != "linux":
        return
    if name := _choose(own, others):
        os.environ[VARIABLE] = name


def way_to(host: str) -> tuple[str, str]:
    """(this machine's address on the way to `host`, the address of `host`); ("", "") where there is no way."""
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM):
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(address)  # sends nothing
                return probe.getsockname()[0], str(address[0])
    except OSError:
        pass
    return "", ""


def _choose(own: str, ways: Sequence[tuple[str, str]]) -> str | None:
    """The interface; where the meeting point is on this machine under a loopback address, that at which others find it."""
    if own and not _is_loopback(own):
        return _interface_of([own])
    return _interface_of([master for other, master in ways if not _is_loopback(other)] or [own])


def _is_loopback(address: str) -> bool:
    return bool(address) and ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _interface_of(wanted: Sequence[str]) -> str | None:
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] in wanted for each in addresses):
            return name
    return None
