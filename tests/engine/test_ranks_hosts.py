"""Training on two machines: network namespaces with a name, a loopback and an end of a cable each, and one disk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from engine import events
from engine.store import Run
from tests.engine import hosts
from tests.engine.commandline import Call, subprocess_of
from tests.engine.hosts import NIC, Host
from tests.engine.ranking import MINUTE, STEPS, run_to_be, said, stand_in_tools, wait_for

pytestmark = pytest.mark.slow

Two = tuple[Host, Host]
Ranks = tuple[subprocess.Popen[str], subprocess.Popen[str]]
Cut = Callable[[Two], None]
DROP = ["tc", "qdisc", "add", "dev", NIC, "root", "blackhole"]


@pytest.fixture
def two(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Two]:
    """Two hosts; gloo is not told which network interface to use."""
    if problem := hosts.missing():
        pytest.skip(problem)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    with hosts.two_hosts(tmp_path) as made:
        yield made


@contextlib.contextmanager
def both(two: Two, name: str, *options: str, **environment: str) -> Iterator[Ranks]:
    """`train NAME` on both hosts, which meet on host1; whatever still runs at the end is killed."""
    meeting = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "host1", "MASTER_PORT": "29517", **environment}
    command = [sys.executable, "-m", "engine", "train", name, "--json", *options]
    started = [host.start(*command, RANK=str(number), **meeting) for number, host in enumerate(two)]
    try:
        yield started[0], started[1]
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def train(two: Two, name: str, *options: str) -> None:
    """Train to the end."""
    with both(two, name, *options) as ranks:
        for process in ranks:
            out, _ = process.communicate(timeout=2 * MINUTE)
            assert process.returncode == 0, out


def wait_for_checkpoint(run: Run, ranks: Ranks) -> None:
    wait_for(lambda: said(run, events.Saved) or any(rank.poll() is not None for rank in ranks))
    assert [rank.poll() for rank in ranks] == [None, None], [rank.communicate() for rank in ranks]


def losses(run: Run) -> dict[int, float]:
    """By step, as the run has it in the end."""
    return {event.step: event.loss for event in said(run, events.Step)}


def check_lost(run: Run, cut_at: float) -> None:
    """Rank 0 has said, within a minute, that rank 1 is lost and what to do."""
    (failed,) = said(run, events.Failed)
    assert failed.t - cut_at < MINUTE and run.state().state == "failed"
    assert failed.problem.startswith("rank 1 is lost: nothing was heard of it for ")
    assert "`loraworkbench train demo --resume 1`" in failed.remedy


def pull_the_cable_of(number: int) -> Cut:
    return lambda two: two[number].set("ip", "link", "set", NIC, "down")


def drop_packets_silently(two: Two) -> None:
    if shutil.which("tc") is None:
        pytest.skip("needs tc")
    for host in two:
        host.set(*DROP)


def mend(two: Two) -> None:
    for host in two:
        host.set("ip", "link", "set", NIC, "up")
        with contextlib.suppress(subprocess.CalledProcessError):  # none was added
            host.set("tc", "qdisc", "delete", "dev", NIC, "root")


CUTS = {
    "the other host": pull_the_cable_of(1),
    "the leading host": pull_the_cable_of(0),
    "packets are dropped": drop_packets_silently,
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_host_that_is_cut_off_ends_the_run_within_a_minute_and_it_goes_on_as_if_nothing_had_been(
    two: Two, base_of: Callable[..., Path], cut: Cut
) -> None:
    run, whole = (run_to_be(name, base_of("llama"), processes=1, machines=2) for name in ("demo", "whole"))
    with both(two, "demo") as ranks:
        wait_for_checkpoint(run, ranks)
        cut(two)
        begun = time.time()
        told = [rank.communicate(timeout=2 * MINUTE)[0] for rank in ranks]
        assert time.time() - begun < MINUTE
        assert [rank.returncode for rank in ranks] == [1, 1]
    check_lost(run, begun)
    assert "rank 0 is lost, or the store at which the ranks meet: no answer for " in told[1]
    assert "`loraworkbench train demo --resume 1`" in told[1]
    mend(two)
    newest = max(event.step for event in said(run, events.Saved))
    train(two, "demo", "--resume", "1")
    train(two, "whole")
    assert said(run, events.Started)[-1].resumed_from_step == newest < STEPS
    assert losses(run) == losses(whole) and len(losses(run)) == STEPS
    weights = [each.adapter / "adapter_model.safetensors" for each in (run, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_cable_that_is_out_for_ten_seconds_ends_nothing(two: Two, base_of: Callable[..., Path]) -> None:
    run = run_to_be("demo", base_of("llama"), processes=1, machines=2)
    with both(two, "demo") as ranks:
        wait_for_checkpoint(run, ranks)
        pull_the_cable_of(1)(two)
        time.sleep(10)
        mend(two)
        for rank in ranks:
            out, _ = rank.communicate(timeout=2 * MINUTE)
            assert rank.returncode == 0, out
    assert run.state().state == "done" and len(losses(run)) == STEPS


def test_ranks_that_cannot_connect_say_so(two: Two, base_of: Callable[..., Path]) -> None:
    """They meet, but over loopback, as they are told, they do not reach each other."""
    run_to_be("demo", base_of("llama"), processes=1, machines=2)
    with both(two, "demo", GLOO_SOCKET_IFNAME="lo") as ranks:
        told = [rank.communicate(timeout=2 * MINUTE)[0] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [1, 1]
    for text in told:
        assert "the ranks cannot connect: " in text or "rank 0 is lost" in text
    assert "GLOO_SOCKET_IFNAME names the network interface" in "".join(told)


def rank_under(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """The training process that torchrun, started by `launcher`, has started and that has not ended."""
    children = psutil.Process(launcher.pid).children(recursive=True)
    alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if child.cmdline()[1:3] == ["-u", "-m"] and "engine" in child.cmdline()]


def test_the_batch_file_trains_on_two_hosts_until_one_is_cut_off(
    two: Two, base_of: Callable[..., Path], tmp_path: Path
) -> None:
    """As Slurm would run it, whose `srun` and `scontrol` have stand-ins. Of torchrun only that of host1 ends soon."""
    run = run_to_be("demo", base_of("llama"), processes=1, machines=2)
    made, _ = subprocess_of("launch-script", "demo", "--slurm", "--json").communicate()
    stand_in_tools(tmp_path / "tools", "host1", "host2")
    given = {"SLURM_JOB_ID": "9517", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "host[1-2]"}
    given["PATH"] = f"{tmp_path / 'tools'}:{os.environ['PATH']}"
    started = [host.start("bash", json.loads(made)["file"], **given) for host in two]
    try:
        wait_for_checkpoint(run, (started[0], started[1]))
        assert [len(rank_under(launcher)) for launcher in started] == [1, 1]
        pull_the_cable_of(1)(two)
        begun = time.time()
        started[0].communicate(timeout=2 * MINUTE)
        wait_for(lambda: not rank_under(started[1]))
        assert time.time() - begun < MINUTE and started[0].returncode == 1
    finally:
        for launcher in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in [*psutil.Process(launcher.pid).children(recursive=True), launcher]:
                    process.kill()
            launcher.communicate()
    check_lost(run, begun)
