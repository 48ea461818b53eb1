"""The command line: `loraworkbench VERB`, also `python -m engine VERB`.

Only what a verb takes is written here; what it does is in `engine.verbs`, imported when the verb is called, so that
`--help` and the light verbs never wait for torch. Exit codes: 0 done, 1 the work failed, 2 bad input, 130 stopped.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from engine import __version__, libraries
from engine.verbs import working

if TYPE_CHECKING:
    from engine.store import Workspace

app = typer.Typer(
    name="loraworkbench",
    help="Fine-tune language models with LoRA: train on a 4-bit base, measure, compare, merge.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ProjectName = Annotated[str, typer.Argument(metavar="PROJECT", help="A project's name, or its folder.")]
AnyProject = Annotated[str | None, typer.Argument(metavar="[PROJECT]", help="Only this project.")]
Root = Annotated[Path | None, typer.Option("--workspace", metavar="PATH", help="Use this workspace, not the one here.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else, on stdout.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Print the events as JSON lines, and nothing else, on stdout.")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override a key of the project file; repeatable.")
]
Detach = Annotated[bool, typer.Option("--detach", help="Do it in the background; survives this terminal.")]
JobNumber = Annotated[int | None, typer.Option("--job", hidden=True, help="The job folder that --detach made.")]
Adapters = Annotated[
    list[str],
    typer.Option("--adapter", metavar="RUN", help='A run ("3", "starter/3") or an adapter\'s folder; repeatable.'),
]


@app.callback(invoke_without_command=True)
def loraworkbench(
    context: typer.Context,
    workspace: Root = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    context.obj = workspace
    if version:
        print(f"loraworkbench {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print(context.get_help())


def _workspace(context: typer.Context, given: Path | None) -> Workspace:
    from engine.store import Workspace

    return Workspace.find(given or context.obj)


@app.command()
def quickstart(context: typer.Context, workspace: Root = None, as_json: Json = False) -> None:
    """Take the starter through everything, on any machine.

    Check, load in 4 bits, measure, train, measure again, compare answers, merge, verify. No GPU and no network needed.
    """
    with working(json_document=as_json) as console:
        from engine.verbs import quickstart as verb

        given = workspace or context.obj
        console.document(verb.run(_workspace(context, given) if given else None, console))


@app.command()
def new(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new project's name.")],
    base: Annotated[str | None, typer.Option(help='Base model: a Hub id, a folder, or "starter".')] = None,
    data: Annotated[str | None, typer.Option(help='Training rows: a file, a folder, or "hub:NAME".')] = None,
    test: Annotated[str | None, typer.Option(help="Unseen rows, in the same forms.")] = None,
    fraction: Annotated[
        float | None,
        typer.Option(min=0.001, max=0.999, help="Keep this share of the rows unseen instead; 0.1 if not given."),
    ] = None,
    prompt_column: Annotated[str | None, typer.Option(help="Column of the prompt, where it is not detected.")] = None,
    completion_column: Annotated[str | None, typer.Option(help="Column of the completion, likewise.")] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only say what would be, with the first rows.")] = False,
    workspace: Root = None,
    as_json: Json = False,
) -> None:
    """Write a project file that explains itself."""
    with working(json_document=as_json) as console:
        from engine.verbs import new as verb

        root = workspace or context.obj
        columns = {"prompt_column": prompt_column, "completion_column": completion_column}
        found = verb.run(root, name, base, data, test, console, fraction=fraction, columns=columns, dry=dry)
        console.document(found)


@app.command()
def check(
    context: typer.Context,
    project: ProjectName,
    no_model: Annotated[bool, typer.Option("--no-model", help="Leave the base alone, also its tokenizer.")] = False,
    overrides: Overrides = [],  # noqa: B006  (typer copies it)
    workspace: Root = None,
    as_json: Json = False,
) -> None:
    """Find what is wrong before anything is trained.

    Looks at the project file, the data, the tokenizer and the lengths; lists all mistakes at once.
    """
    with working(json_document=as_json) as console:
        from engine.verbs import check as verb

        found = verb.run(_workspace(context, workspace), project, overrides, no_model, console)
        console.document(found)
        if not found["ok"]:
            sys.exit(2)


@app.command()
def rows(
    context: typer.Context,
    project: ProjectName,
    split: Annotated[Literal["train", "test"] | None, typer.Option(help="The side that --row counts in.")] = None,
    row: Annotated[int | None, typer.Option(min=1, help="Show row N of the source, as the model will see it.")] = None,
    where: Annotated[str | None, typer.Option(metavar="FILE:LINE", help="Show the row at this place.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show this many rows from there on.")] = 1,
    everything: Annotated[bool, typer.Option("--all", help="List all refused rows, not the first 20.")] = False,
    tokens: Annotated[bool, typer.Option("--tokens", help="List the tokens of the rows shown, with weights.")] = False,
    overrides: Overrides = [],  # noqa: B006
    workspace: Root = None,
    as_json: Json = False,
) -> None:
    """Show what became of every row, and rows as seen.

    Prints the ledger of the data, refused rows with place and reason, and any row as the model will see it.
    """
    with working(json_document=as_json) as console:
        from engine.verbs import rows as verb

        wanted = verb.Wanted(split, row, where, limit, tokens)
        console.document(verb.run(_workspace(context, workspace), project, overrides, wanted, everything, console))


@app.command(hidden=True)
def browse(context: typer.Context, project: ProjectName, workspace: Root = None) -> None:
    """Answer a program's questions about a project's data, as JSON lines on stdin and stdout."""
    with working():
        from engine.verbs import browse as verb

        verb.run(_workspace(context, workspace), project)


@app.command()
def train(
    context: typer.Context,
    project: ProjectName,
    resume: Annotated[int | None, typer.Option(metavar="RUN", min=1, help="Go on with run number RUN.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Train in the background; survives this terminal.")] = False,
    overrides: Overrides = [],  # noqa: B006
    workspace: Root = None,
    as_json: JsonLines = False,
) -> None:
    """Train an adapter. Ctrl+C finishes the step and writes a checkpoint; a second one stops at once.

    With --detach, --json prints one document (job, path, pid) instead of events; `watch` has those.
    """
    with working(json_document=as_json and detach, json_lines=as_json and not detach) as console:
        from engine.verbs import train as verb

        verb.run(_workspace(context, workspace), project, overrides, resume, detach, console)


@app.command("launch-script")
def launch_script(
    context: typer.Context,
    project: ProjectName,
    slurm: Annotated[bool, typer.Option("--slurm", help="A file for sbatch.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it here, not into the project.")] = None,
    overrides: Overrides = [],  # noqa: B006
    workspace: Root = None,
    as_json: Json = False,
) -> None:
    """Write a batch file that trains on several machines.

    [launch] says how many, and how many processes each.
    """
    with working(json_document=as_json) as console:
        from engine.verbs import launch_script as verb

        console.document(verb.run(_workspace(context, workspace), project, overrides, slurm, out, console))


@app.command("eval")
def evaluate(
    context: typer.Context,
    project: ProjectName,
    adapters: Adapters = [],  # noqa: B006
    splits: Annotated[list[str], typer.Option("--split", help="train or test; repeatable; both if not given.")] = [],  # noqa: B006
    base: Annotated[bool, typer.Option(help="Measure the base, too.")] = True,
    base_only: Annotated[bool, typer.Option("--base-only", help="Measure no adapter.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the document here.")] = None,
    detach: Detach = False,
    job: JobNumber = None,
    overrides: Overrides = [],  # noqa: B006
    workspace: Root = None,
    as_json: Json = False,
) -> None:
    """Measure base and adapters on the same rows.

    Perplexity and exact match on training and unseen rows, with intervals and paired tests.
    """
    with working(json_document=as_json) as console:
        from engine.verbs import eval as verb

        found, how = _workspace(context, workspace), {"detach": detach, "number": job, "base_only": base_only}
        console.document(verb.run(found, project, overrides, adapters, splits, base, out, console, **how))


@app.command()
def generate(
    context: typer.Context,
    project: ProjectName,
    prompts: Annotated[
        list[str], typer.Option("--prompt", metavar="TEXT", help='A prompt; repeatable; "-": a line of stdin each.')
    ] = [],  # noqa: B006
    adapters: Adapters = [],  # noqa: B006
    base: Annotated[bool, typer.Option(help="Let the base answer, too.")] = True,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    overrides: Overrides = [],  # noqa: B006
    workspace: Root = None,
    as_json: Json = False,
) -> None:
    """Let base and adapters answer side by side."""
    with working(json_document=as_json) as console:
        from engine.verbs import generate as verb

        more = [] if max_new_tokens is None else [f"generate.max_new_tokens={max_new_tokens}"]
        found = _workspace(context, workspace)
        console.document(verb.run(found, project, [*overrides, *more], prompts, adapters, base, console))


@app.command()
def session(
    context: typer.Context,
    project: ProjectName,
    adapters: Adapters = [],  # noqa: B006
    idle: Annotated[
        float, typer.Option(metavar="MINUTES", min=0, help="End after so long without a request; 0: never.")
    ] = 30,
    detach: Detach = False,
    job: JobNumber = None,
    overrides: Overrides = [],  # noqa: B006
    workspace: Root = None,
    as_json: Json = False,
) -> None:
    """Hold the base in memory and answer prompts of the workbench.

    A training answers prompts by itself; this is for when nothing trains.
    """
    with working(json_document=as_json) as console:
        from engine.verbs import session as verb

        found, how = _workspace(context, workspace), {"detach": detach, "number": job}
        console.document(verb.run(found, project, overrides, adapters, idle, console, **how))


@app.command()
def merge(
    context: typer.Context,
    project: ProjectName,
    adapters: Adapters = [],  # noqa: B006
    weights: Annotated[list[float], typer.Option("--weight", help="Weight of each adapter, in their order.")] = [],  # noqa: B006
    method: Annotated[str, typer.Option(help="How several adapters are combined.")] = "linear",
    density: Annotated[
        float | None, typer.Option(help="Share of the values that ties, dare and magnitude_prune keep.")
    ] = None,
    majority_sign: Annotated[
        Literal["total", "frequency"], typer.Option(help="How ties elects a sign: by the values' sum or their number.")
    ] = "total",
    base_weights: Annotated[
        Literal["original", "nf4"],
        typer.Option(help="Merge into the full-precision original, or into the NF4-rounded base that was trained on."),
    ] = "original",
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where the model is written.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the folder if it exists.")] = False,
    verify: Annotated[bool, typer.Option(help="Compare the result with base + adapter.")] = True,
    detach: Detach = False,
    job: JobNumber = None,
    overrides: Overrides = [],  # noqa: B006
    workspace: Root = None,
    as_json: Json = False,
) -> None:
    """Write base and adapter as one model, and prove it."""
    with working(json_document=as_json) as console:
        from engine.verbs import merge as verb

        found = _workspace(context, workspace)
        into = (method, base_weights, out, replace, verify)
        how = {"density": density, "majority_sign": majority_sign, "detach": detach, "number": job}
        console.document(verb.run(found, project, overrides, adapters, weights, *into, console, **how))


@app.command()
def adapters(context: typer.Context, project: AnyProject = None, workspace: Root = None, as_json: Json = False) -> None:
    """List the adapters of all runs."""
    with working(json_document=as_json) as console:
        from engine.verbs import adapters as verb

        console.document(verb.run(_workspace(context, workspace), project, console))


@app.command()
def runs(
    context: typer.Context,
    project: AnyProject = None,
    jobs: Annotated[bool, typer.Option("--jobs", help="List the detached evaluations and merges instead.")] = False,
    workspace: Root = None,
    as_json: Json = False,
) -> None:
    """List the runs, how far they are, and how to go on."""
    with working(json_document=as_json) as console:
        from engine.verbs import runs as verb

        list_them = verb.jobs if jobs else verb.run
        console.document(list_them(_workspace(context, workspace), project, console))


@app.command()
def watch(
    context: typer.Context,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help='"PROJECT/7", "PROJECT/jobs/7", a project (newest run), a folder.')
    ],
    workspace: Root = None,
    as_json: JsonLines = False,
) -> None:
    """Follow a run from its beginning to its end. Ctrl+C leaves the run alone."""
    with working(json_lines=as_json) as console:
        from engine.verbs import watch as verb

        sys.exit(verb.run(_workspace(context, workspace), run, console))


@app.command()
def doctor(context: typer.Context, workspace: Root = None, as_json: Json = False) -> None:
    """Look at this machine, and try what matters.

    Devices, 4-bit kernels, memory, disk, network, versions, terminal.
    """
    with working(json_document=as_json) as console:
        from engine.verbs import doctor as verb

        found = verb.run(workspace or context.obj, console)
        console.document(found)
        if not found["ok"]:
            sys.exit(1)


# What typer raises for a command line it does not understand (some versions bring their own click).
_UsageError: Any = typer.BadParameter.__mro__[2]


def main(arguments: list[str] | None = None) -> None:
    """Run a command line (default: this process's) and exit with its code."""
    given = sys.argv[1:] if arguments is None else arguments
    libraries.prepare()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 still shows something
    try:
        code = typer.main.get_command(app).main(given, prog_name="loraworkbench", standalone_mode=False)
    except _UsageError as error:
        error.show()
        code = error.exit_code
        if "--json" in given:
            print(json.dumps({"error": {"problem": error.format_message(), "where": None, "remedy": "see --help"}}))
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
