"""Opening tabs about the project in front."""

from __future__ import annotations

from workbench.commands import Commands


class OpeningCommands(Commands):
    def act_project_open(self) -> None:
        self.app.open(f"project:{self.project}")

    def act_data_open(self) -> None:
        self.app.open(f"data:{self.project}")

    def act_run_open(self) -> None:
        runs = self.app.snapshot.projects[self.project].runs
        if not runs:
            raise LookupError(f"project {self.project} has no runs yet: F5 starts one")
        self.app.open(f"run:{runs[-1].label}")

    def act_run_compare(self) -> None:
        self.app.open(f"runs:{self.project}")

    def act_eval_open(self) -> None:
        self.app.open(f"eval:{self.project}")

    def act_adapters_open(self) -> None:
        self.app.open(f"adapters:{self.project}")

    def act_compare_open(self) -> None:
        self.app.open(f"compare:{self.project}")

    def act_learn_open(self) -> None:
        self.app.open("learn:low-rank")
