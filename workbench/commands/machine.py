"""Which GPU the status bar shows."""

from __future__ import annotations

from workbench.commands import Commands


class MachineCommands(Commands):
    def may_machine_gpu(self) -> bool:
        return len(self.app.gauges.machine.gpus) > 1

    def act_machine_gpu(self) -> None:
        """The next card, round and round."""
        machine = self.app.gauges.machine
        place = (machine.chosen + 1) % len(machine.gpus)
        self.app.gauges.choose(place)
        gpu = machine.gpus[place]
        self.app.notify(f"The status bar shows {gpu.label}: {gpu.name}", timeout=3, markup=False)
