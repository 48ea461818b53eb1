"""The peers: what each is called, its variants, and the environment it gets, made once in a cache folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("LORAWORKBENCH_PEERS", "~/.cache/loraworkbench-peers")).expanduser()
FORBIDDEN = ("nvidia-", "cuda-", "triton")  # gigabytes that a machine without a GPU has no use for


@dataclass(frozen=True)
class Peer:
    """A peer, and the packages of its environment; none: it runs in ours, with the versions that ours has.

    Attributes:
        broken: packages that are removed once all is installed, because they do not load beside a torch for CPUs.
        stubs: empty modules in their place, where something imports them at its top.
    """

    name: str
    variants: tuple[str, ...]
    packages: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    stubs: tuple[str, ...] = ()

    @property
    def script(self) -> Path:
        return HERE / f"with_{self.name}.py"

    def python(self) -> Path:
        """Its interpreter, installed where it is not there yet.

        Raises:
            NotInstalled: pip could not, or would bring CUDA.
        """
        if not self.packages:
            return Path(sys.executable)
        folder = CACHE / self.name
        python, done = folder / "bin" / "python", folder / "installed.json"
        wanted = list(self.packages)
        if not done.exists() or json.loads(done.read_text()) != wanted:
            print(f"{self.name}: installing {' '.join(wanted)} into {folder}", file=sys.stderr, flush=True)
            _call([sys.executable, "-m", "venv", "--clear", folder])
            _refuse_cuda(python, wanted)
            _call([python, "-m", "pip", "install", "--quiet", *wanted])
            self.repair(folder)
            done.write_text(json.dumps(wanted))
        return python

    def repair(self, folder: Path) -> None:
        """Take out what does not load."""
        if self.broken:
            _call([folder / "bin" / "python", "-m", "pip", "uninstall", "--quiet", "--yes", *self.broken])
        for stub in self.stubs:
            site = next((folder / "lib").glob("python*/site-packages"))
            (site / f"{stub}.py").write_text("")


class NotInstalled(Exception):  # noqa: N818
    """A peer's environment could not be made."""


TORCH = "torch==2.13.0"
PEERS = {
    peer.name: peer
    for peer in (
        Peer("ours", ("default",)),
        Peer("trainer", ("default", "grouped")),
        Peer(
            "trl",
            ("default", "grouped", "packing", "packing-wrapped", "padding-free"),
            (TORCH, "trl==1.16.0", "transformers==5.23.0", "peft==0.21.2", "bitsandbytes==0.50.2"),
        ),
        Peer(
            "llamafactory",
            ("default", "grouped", "neat-packing"),
            (TORCH, "llamafactory==0.9.5", "bitsandbytes==0.50.2"),
            broken=("torchvision", "torchaudio"),
            stubs=("torchaudio",),
        ),
        Peer("torchtune", ("default", "packed"), (TORCH, "torchtune==0.6.1", "torchao==0.13.0", "torchdata==0.11.0")),
        Peer(
            "litgpt",
            ("default", "batched"),
            (TORCH, "litgpt==0.5.13", "bitsandbytes==0.50.2", "requests"),  # it imports requests without saying so
        ),
    )
}


def _refuse_cuda(python: Path, packages: list[str]) -> None:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        _call([python, "-m", "pip", "install", "--quiet", "--dry-run", "--report", file.name, *packages])
        names = [item["metadata"]["name"].lower() for item in json.loads(Path(file.name).read_text())["install"]]
    if found := [name for name in names if name.startswith(FORBIDDEN)]:
        raise NotInstalled(
            f"pip would install {', '.join(found[:3])}{' and more' * (len(found) > 3)}: give it an index with torch for CPUs"
        )


def _call(command: list[str | Path]) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotInstalled(next(iter(reversed(done.stderr.strip().splitlines())), f"exit code {done.returncode}"))
