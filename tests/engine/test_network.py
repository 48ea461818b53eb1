"""The Hub is asked once, for a moment; where it does not answer, its libraries use their cache alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import network

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # put back afterwards, whatever `settle` makes of it
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(network, "_asked", [])


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = network.settle()
    assert "refused" in problem and network.is_offline()
    monkeypatch.setattr(network, "ask", lambda seconds: pytest.fail("asked again"))
    assert network.settle() == problem


def test_a_hub_that_answers_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "ask", lambda seconds: "")
    assert network.settle() == "" and not network.is_offline()


def test_nobody_is_asked_where_the_project_or_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "ask", lambda seconds: pytest.fail("asked"))
    assert network.settle(offline=True) == "launch.offline is set" and network.is_offline()
    assert network.settle() == "launch.offline is set"
    monkeypatch.setattr(network, "_asked", [])
    assert network.settle() == "HF_HUB_OFFLINE is set"


def test_the_libraries_hear_of_it_also_after_they_were_imported() -> None:
    script = """
import datasets, huggingface_hub, huggingface_hub.constants
from engine import network
assert not huggingface_hub.constants.is_offline_mode() and not datasets.config.HF_HUB_OFFLINE
network.settle(offline=True)
assert huggingface_hub.constants.is_offline_mode() and datasets.config.HF_HUB_OFFLINE
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_a_look_up_that_hangs_costs_no_more_than_was_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_request", lambda url, seconds: time.sleep(5) or "")
    begun = time.monotonic()
    assert network.ask(0.1) == "no answer within 0.1 s" and time.monotonic() - begun < 2
