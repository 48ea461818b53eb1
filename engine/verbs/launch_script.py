"""`loraworkbench launch-script`: a batch file that trains a project on several machines. No torch."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from engine.console import Console, shown_path
from engine.errors import InputError
from engine.files import write_atomic
from engine.store import ProjectFolder, Workspace
from engine.tables import LaunchTable

NAME = "train.sbatch"
FIRST_PORT, PORTS = 20000, 10000
"""Where the ranks meet: a port below those that Linux gives out by itself, another for each job."""


def run(
    workspace: Workspace, project_name: str, overrides: list[str], slurm: bool, out: Path | None, console: Console
) -> dict[str, Any]:
    """Write the batch file of a project.

    Args:
        overrides: of the project file; the script trains with them.
        out: where to; None: into the project's folder.

    Returns:
        {project, file, processes, machines, submit}, the document for --json.

    Raises:
        InputError: the project file has mistakes, or no kind of script was asked for.
    """
    if not slurm:
        raise InputError("for which system?", remedy="add --slurm; it is the only one there is yet")
    folder = workspace.project(project_name)
    launch = folder.load(overrides).launch
    file = (out or folder.path / NAME).absolute()
    write_atomic(file, sbatch(workspace, folder, launch, overrides))
    console.say(f"written: {shown_path(file)}  ({launch.machines} x {launch.processes} processes)")
    submit = shlex.join(["sbatch", str(file)])
    console.say(f"next:  {submit}\n       {submit} --resume RUN")
    return {
        "project": folder.name,
        "file": str(file),
        "processes": launch.processes,
        "machines": launch.machines,
        "submit": submit,
    }


def sbatch(workspace: Workspace, folder: ProjectFolder, launch: LaunchTable, overrides: list[str]) -> str:
    """The text of a file for `sbatch`: one torchrun a machine, which all meet on the first one."""
    train = ["-m", "engine", "--workspace", str(workspace.root), "train", str(folder.path)]
    new = shlex.join(part for each in overrides for part in ("--set", each))
    asked = [
        f"--job-name=lora-{folder.name}",
        f"--nodes={launch.machines}",
        "--ntasks-per-node=1",
        *([f"--gpus-per-node={launch.processes}"] if launch.device != "cpu" else []),
        *([f"--cpus-per-task={launch.processes * launch.threads}"] if launch.threads else []),
        f"--chdir={shlex.quote(str(workspace.root))}",
        "--output=lora-%j.log",
    ]
    lines = [
        "#!/bin/bash",
        f"# Trains the project {folder.name} on {launch.machines} x {launch.processes} processes; written by",
        f"# `loraworkbench launch-script {folder.name} --slurm`. Every machine needs this Python, this workspace and the",
        "# base's files at these paths. Arguments go to `train`: `sbatch THIS_FILE --resume RUN` goes on with a run.",
        *(f"#SBATCH {each}" for each in asked),
        "# What your cluster wants besides (take one # away):",
        "##SBATCH --partition=",
        "##SBATCH --account=",
        "##SBATCH --time=",
        "",
        "set -euo pipefail",
        *([f"[ $# -gt 0 ] || set -- {new}"] if new else []),
        'nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")',
        "head_node=${nodes%%$'\\n'*}",
        f"port=$(({FIRST_PORT} + SLURM_JOB_ID % {PORTS}))",
        "",
        "# torchrun on a machine that is cut off waits for minutes; the others' failure ends it.",
        f"srun --kill-on-bad-exit=1 {shlex.quote(sys.executable)} -m torch.distributed.run \\",
        f'    --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node={launch.processes} --max-restarts=0 \\',
        '    --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="$head_node:$port" \\',
        f'    {shlex.join(train)} "$@"',
    ]
    return "\n".join(lines) + "\n"
