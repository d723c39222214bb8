"""Choose what is timed after a sweep: the programs that it trained and whose cost is not in its tables yet."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gradbench.claims.schema import parse_claims
from gradbench.grid.cell import Cell
from gradbench.profiling.cases import NONE
from gradbench.storage.costs import read_costs
from gradbench.storage.results import FINISHED, Results
from gradbench.sweep.plan import Plan

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SettingMeasurement:
    """Time the programs of one setting side by side; a worker is sent this, and calls it.

    Attributes:
        cells: a cell of each program; they differ in their regularizers, and ``none`` comes first where there is one.
        width: cells per stack.
        wanted: whether a claim is decided by it: then it may take long.
    """

    cells: tuple[Cell, ...]
    width: int
    wanted: bool = False

    @property
    def title(self) -> str:
        """The model, and what its programs are of."""
        names = ", ".join(str(cell.config["regularizer"]["name"]) for cell in self.cells)
        return f"{self.cells[0].config['model']['name']} · {names}"

    def __call__(self, folder: Path, device: "torch.device", stop: Callable[[], bool]) -> None:
        """Time the programs that have a finished cell, and write their rows.

        Args:
            folder: the results folder.
            device: device that they are timed on.
            stop: returns whether to leave now.

        Raises:
            UsageError: if they are not timed, and why.
            StoppedError: if ``stop`` says so.
        """
        from gradbench.profiling.rounds import measure_setting

        known = finished_programs(folder, device.type)
        kept = [cell for cell in self.cells if cell.step_program in known]
        if not all(map(is_control, kept)):
            measure_setting(kept, self.width, folder, device, stop, limited=not self.wanted)


def list_measurements(plan: Plan) -> list[SettingMeasurement]:
    """List what is to be timed after a sweep: of each setting the treatments that lack a cost, beside ``none``.

    Only cells whose rows name their program count, those that are trained now included. A program that was timed on
    this type of device, beside ``none`` where there is one, or whose cells were trained on another type needs nothing.
    """
    kind = plan.devices[0].partition(":")[0]
    todo = {cell.id for cells in plan.todo() for cell in cells}
    known = finished_programs(plan.folder, kind)
    timed = timed_programs(plan.folder, kind)
    settings: dict[str, dict[str, Cell]] = {}
    for members in by_program(plan.cells).values():
        first = members[0]
        if first.step_program in known or any(cell.id in todo for cell in members):
            settings.setdefault(first.setting_id, {})[first.step_program] = first
    widths = widest_stacks(plan)
    wanted = any(claim.reads_costs for claim in parse_claims(plan.experiment.source, plan.experiment.name))
    found = []
    for programs in settings.values():
        control = [cell for cell in programs.values() if is_control(cell)]
        missing = [
            cell
            for program, cell in programs.items()
            if not is_control(cell) and not (timed.get(program, False) if control else program in timed)
        ]
        if missing:
            cells = [*control, *missing]
            found.append(SettingMeasurement(tuple(cells), choose_width(cells, widths, kind), wanted))
    return found


def is_control(cell: Cell) -> bool:
    """Return whether a cell is one that others are compared with."""
    return bool(cell.config["regularizer"]["name"] == NONE)


def by_program(cells: Sequence[Cell]) -> dict[tuple[str, str], list[Cell]]:
    """Group cells by what their steps run; the hash of that is computed for one of each group alone."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.program, cell.regularizer_program), []).append(cell)
    return found


def widest_stacks(plan: Plan) -> dict[str, int]:
    """Return program -> cells of its widest stack in a sweep."""
    widths: dict[str, int] = {}
    for stack in plan.stacks:
        program = stack.cells[0].program
        widths[program] = max(len(stack.cells), widths.get(program, 0))
    return widths


def choose_width(cells: Sequence[Cell], widths: Mapping[str, int], kind: str) -> int:
    """Return the width at which programs are timed: the same for all, and one that the sweep trains.

    It is the narrowest of those that have stacks of their own, so that a worker that has trained one has its trace. All
    lie in a device's memory at once, so a GPU's share it.
    """
    apart = [cell for cell in cells if not cell.shares_pass] or cells
    width = min(widths[cell.program] for cell in apart)
    return width if kind == "cpu" else max(width // len(cells), 1)


def finished_programs(folder: Path, kind: str) -> set[str]:
    """Return the programs that have a finished cell, trained on this type of device."""
    columns = ["cell", "status", "step_program", "device"]
    cells = Results(folder).cells(columns)
    if not set(columns) <= set(cells):
        return set()
    return set(cells.loc[cells["status"].isin(FINISHED) & (cells["device"] == kind), "step_program"])


def timed_programs(folder: Path, kind: str) -> dict[str, bool]:
    """Return program -> whether it was timed beside ``none``, of those that were timed on this type of device."""
    columns = ["step_program", "device", "step_ratio"]
    costs, _ = read_costs(folder, columns)
    if not set(columns) <= set(costs):
        return {}
    own = costs[costs["device"] == kind]
    beside = own["step_ratio"].notna().groupby(own["step_program"]).any()
    return {str(program): bool(value) for program, value in beside.items()}
