"""Plan a sweep: its cells, their stacks and statuses, and the devices to train on."""

import contextlib
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradbench.config.compose import GROUPS, LAUNCHER, Configs, Experiment
from gradbench.config.hashing import canonical, digest
from gradbench.config.identity import WEIGHTS, foreign_targets
from gradbench.config.instantiate import describe_data, instantiate_group, load_once
from gradbench.config.overrides import Overrides, literal, one_line
from gradbench.data import Data, Description
from gradbench.errors import ExitError, UsageError, exits_as_errors, nearest
from gradbench.grid.cell import RUNTIME, Cell
from gradbench.grid.expand import expand
from gradbench.grid.stacks import Stack, group_by_program, split_into_stacks
from gradbench.launchers import Launcher
from gradbench.launchers.forkserver import call_here
from gradbench.storage.plans import plan_id, read_ids, regroup
from gradbench.storage.results import FINISHED, Results
from gradbench.storage.sanitize import escape_controls
from gradbench.sweep.questions import check_experiment, note_stopwatch
from gradbench.sweep.shards import Shard
from gradbench.trackers import check_installed

if TYPE_CHECKING:
    from torch import Tensor

    from gradbench.models import Task

RESULTS = Path("results")
"""Default parent of results folders, relative to the working directory."""

PATIENCE_SECONDS = 5.0
"""Seconds after which a line says which code of the user's own is being tried out."""

MAX_NAME_LENGTH = 80
"""Number of characters of the overrides that are kept in a folder's name."""


@dataclass(frozen=True)
class Plan:
    """The plan of a sweep.

    Attributes:
        experiment: question and grid.
        folder: the results folder.
        cells: all cells of the grid.
        stacks: the same cells grouped into stacks; stacks with unfinished cells are trained.
        statuses: cell id -> status, for the cells that have a row in the results folder.
        devices: names of the devices to train on.
        notes: lines for the user on what was made of their data, and how networks of their own are trained.
        shard: the share of the stacks that is trained here; ``None`` for all.
    """

    experiment: Experiment
    folder: Path
    cells: list[Cell]
    stacks: list[Stack]
    statuses: dict[str, str]
    devices: list[str]
    notes: list[str] = field(default_factory=list)
    shard: Shard | None = None

    @cached_property
    def id(self) -> str:
        """Name of the plan in the results folder."""
        return plan_id(self.cells, self.devices[0].partition(":")[0])

    @cached_property
    def own_stacks(self) -> list[Stack]:
        """The stacks that are trained here."""
        return self.shard.take(self.stacks, expected_cost) if self.shard else self.stacks

    @cached_property
    def launcher(self) -> Launcher:
        """What trains the stacks."""
        return make_launcher(self.cells[0].runtime[LAUNCHER])

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Id of each cell -> number of its stack."""
        return {cell.id: number for number, stack in enumerate(self.stacks) for cell in stack.cells}

    def todo(self) -> list[tuple[Cell, ...]]:
        """Return the unfinished cells of each stack that is trained here, the most expensive stack first."""
        left = [
            tuple(cell for cell in stack.cells if not self.is_finished(cell)) for stack in self.own_stacks
        ]
        return sorted(filter(None, left), key=lambda cells: -expected_cost(cells))

    def is_finished(self, cell: Cell) -> bool:
        """Return whether a cell has completed or diverged, and need not be trained."""
        return self.statuses.get(cell.id) in FINISHED

    def count_left(self) -> int:
        """Return how many cells of the whole plan are not finished now, whoever trains them."""
        now = replace(self, statuses=Results(self.folder).statuses())
        return sum(not now.is_finished(cell) for cell in now.cells)

    def counts(self) -> Counter[str]:
        """Count the cells of the grid by status; cells without one count as ``to run``."""
        return Counter(self.statuses.get(cell.id, "to run") for cell in self.cells)


COSTS = {
    "actor_critic": 60.0,
    "resnet": 12.0,
    "image_gan": 12.0,
    "transformer": 12.0,
    "translation": 12.0,
    "lstm": 8.0,
    "sequence_transformer": 7.0,
    "sequence": 6.0,
    "cnn": 4.0,
    "a2c": 4.0,
    "wgan": 3.0,
}
"""Model -> duration of a step, about, as a multiple of that of ``mlp``."""


def expected_cost(cells: Sequence[Cell]) -> float:
    """Estimate the relative duration of a stack, without unit, so that long stacks can start first."""
    config = cells[0].config
    model = COSTS.get(config["model"]["name"], 1.0)
    regularizer = 2.5 if config["regularizer"]["family"] == "penalty" else 1.0
    return len(cells) * int(config["steps"]) * int(config["accumulate"]) * model * regularizer


def make_plan(
    experiment_name: str | None,
    words: list[str],
    results: Path | None = None,
    config_dir: Path | None = None,
    call: Callable[..., Any] = call_here,
    shard: Shard | None = None,
) -> Plan:
    """Plan the sweep of a command line.

    Args:
        experiment_name: name or path of an experiment; ``None`` for a grid made of overrides alone.
        words: overrides in Hydra's grammar.
        results: the results folder; by default one below ``results/``, named after experiment and overrides.
        config_dir: the user's own config folder.
        call: calls a function that needs torch, in this process or in another one.
        shard: the share of the stacks to train here.

    Raises:
        UsageError: for every mistake in the arguments, the configs or the results folder.
    """
    configs = Configs(config_dir)
    experiment = Experiment("sweep") if experiment_name is None else configs.experiment(experiment_name)
    typed = configs.parse(words)
    parsed = experiment.apply_scale(typed)
    descriptions: dict[str, Description] = {}

    def fingerprint(config: Mapping[str, Any]) -> str:
        key = canonical(config["data"])
        if key not in descriptions:
            try:
                descriptions[key] = call(describe_data, key)
            except ExitError as error:
                raise UsageError(f"data={config['data']['name']} {error}") from error
        return descriptions[key].fingerprint

    cells = expand(configs, experiment, parsed, fingerprint)
    check_experiment(configs, experiment, cells)
    device = only_value("device", [cell.runtime["device"] for cell in cells])
    launcher = make_launcher(cells[0].runtime[LAUNCHER])
    check_installed(cells[0].runtime["tracker"])
    stored = Results(results or RESULTS / folder_name(experiment, typed))
    stored.check()
    statuses = stored.statuses()
    groups = group_by_program(cells)
    try:
        devices, counts, notes = call(
            *(fit_to_devices, groups, device, descriptions),
            *(launcher.declared_device(), launcher.device_bytes()),
        )
    except ExitError as error:
        raise UsageError(f"{own_code(cells) or 'planning'} {error}") from error
    notes = [
        *dict.fromkeys(note for one in descriptions.values() for note in one.notes),
        *notes,
        *note_stopwatch(experiment),
        *note_schedules(cells),
    ]
    grouped = [
        stack
        for members, count in zip(groups, counts, strict=True)
        for stack in split_into_stacks(members, count)
    ]
    plan = Plan(experiment, stored.folder, cells, grouped, statuses, devices, notes, shard)
    return replace(plan, stacks=regroup(grouped, read_ids(stored.folder, plan.id)))


def make_launcher(node: Mapping[str, Any]) -> Launcher:
    """Return the launcher of a config.

    Raises:
        UsageError: if its class cannot be imported, or refuses its keys.
    """
    launcher: Launcher = instantiate_group({LAUNCHER: node}, LAUNCHER)
    return launcher


def note_schedules(cells: Sequence[Cell]) -> list[str]:
    """Return a line on each number of a schedule that comes after the last step, which a sweep over steps may have."""
    late: dict[str, None] = {}
    for cell in cells:
        steps, schedule = int(cell.config["steps"]), cell.config["schedule"]
        for key, numbers in (("milestones", schedule.get("milestones")), ("every", [schedule.get("every")])):
            after = [one for one in numbers or () if isinstance(one, int) and one >= steps]
            if after:
                which = ",".join(map(str, after))
                late[
                    f"schedule.{key}={literal(schedule[key])}: training ends after {steps} steps, so that nothing "
                    f"happens at {which}; give a smaller number, or more steps"
                ] = None
    return list(late)


def fit_to_devices(
    groups: Sequence[Sequence[Cell]],
    device: str,
    descriptions: Mapping[str, Description],
    declared: str | None = None,
    memory: int | None = None,
) -> tuple[list[str], list[int], list[str]]:
    """Resolve the device, validate the cells, and count the stacks that fit; the part of a plan that needs torch.

    Args:
        groups: cells grouped by their program.
        device: value of the config key ``device``.
        descriptions: data config as JSON -> description of its data.
        declared: kind of device of the machines that train, where this one does not.
        memory: bytes of such a device, if they are known.

    Returns:
        The names of the devices, the number of stacks for each group, and lines for the user.

    Raises:
        UsageError: if there is no such device, or a model, regularizer or optimizer cannot be built.
    """
    import torch

    from gradbench.functional.devices import resolve
    from gradbench.memory.stack_width import count_stacks

    known = {key: description.blank() for key, description in descriptions.items()}

    def blank_of(cell: Cell) -> Data:
        return known[canonical(cell.config["data"])]

    devices = [torch.device(declared)] if declared else resolve(device)
    if declared and device not in ("auto", declared):
        raise UsageError(
            f"device={device} names one of this machine's, and the launcher trains on {declared} elsewhere; leave it "
            "out, or say launcher.device="
        )
    cells = [cell for members in groups for cell in members]
    notes = validate(cells, blank_of, devices[0].type)
    # of a CPU's stacks networks decide, of a GPU's memory does, which data take as well
    read = blank_of if devices[0].type == "cpu" else data_of
    counts = [count_stacks(members, read(members[0]), devices[0], memory) for members in groups]
    return list(map(str, devices)), counts, notes


def data_of(cell: Cell) -> Data:
    """Load the data that a cell trains on; cached."""
    return load_once(canonical(cell.config["data"]))


def own_code(cells: Iterable[Cell]) -> str:
    """Return the code of the user's own that cells use, as it is typed; an empty text without any."""
    named: dict[str, None] = {}
    for cell in cells:
        for node, target in foreign_targets(cell.config):
            named[f"{node}={cell.config[node]['name'] if node in GROUPS else target}"] = None
    return ", ".join(named)


@contextlib.contextmanager
def trying_out(cell: Cell) -> Iterator[None]:
    """Say which code is tried out in the block: on stderr, if it takes long; in the error, if it exits.

    Raises:
        UsageError: if the code would end this process.
    """
    named = own_code([cell])
    line = f"trying out {named} …; Ctrl-C stops"
    timer = threading.Timer(
        PATIENCE_SECONDS, lambda: print(escape_controls(line), file=sys.stderr, flush=True)
    )
    timer.daemon = True
    if named:
        timer.start()
    try:
        with exits_as_errors():
            yield
    except ExitError as error:
        raise UsageError(f"{named or 'planning'} {error}") from error
    finally:
        timer.cancel()


def only_value(key: str, values: Sequence[str]) -> str:
    """Return the value of a runtime key, which must be the same for all cells.

    Raises:
        UsageError: if the values differ.
    """
    different = sorted(set(values))
    if len(different) > 1:
        raise UsageError(f"{key} cannot be swept, got {', '.join(different)}; run the sweep once per {key}")
    return different[0]


def folder_name(experiment: Experiment, words: Overrides) -> str:
    """Return a name that the same words always give, and other words do not: nothing is mixed or overwritten."""
    axes = [axis for axis in words.axes if axis.key.split(".")[0] not in RUNTIME]
    if not axes and not words.verbatim:
        return experiment.name
    named = "-".join("+".join(axis.values) for axis in axes if axis.key in ("model", "regularizer", "scale"))
    meant = sorted([axis.key, sorted(map(canonical, axis.values))] for axis in axes)
    parts = [experiment.name, named[:MAX_NAME_LENGTH], digest([meant, sorted(words.verbatim)])[:6]]
    return re.sub(r"[^\w+.-]", "_", "-".join(filter(None, parts)))


def validate(
    cells: Sequence[Cell], data_of: Callable[[Cell], Data] = data_of, kind: str = "cpu"
) -> list[str]:
    """Build what each program is made of, so that mistakes show before training starts.

    A step of each network or task that is not gradbench's own is tried out.

    Args:
        cells: cells of any number of programs.
        data_of: returns the data of a cell; only its sizes, types and shapes are used.
        kind: type of the device to train on.

    Returns:
        Lines for the user, on how networks are trained.

    Raises:
        UsageError: if a model, regularizer, optimizer or schedule cannot be built, or not be trained.
    """
    import torch

    from gradbench.training.execution import choose_execution
    from gradbench.training.program import build, build_regularizers
    from gradbench.training.trial import adapt
    from gradbench.training.weights import initial_weights

    def try_out(cell: Cell) -> list[str]:
        program = build(cell.config, data_of(cell))
        regularizers = build_regularizers(cell.config, program.model)
        penalised = any(regularizer.penalties for regularizer in regularizers.values())
        notes: list[str] = []
        try:
            names = try_networks(program.model, initial_weights(cell), penalised, notes.append)
        except UsageError as error:
            raise UsageError(f"model={cell.config['model']['name']}: {error}") from error
        except Exception as error:  # a user's own model may raise anything
            raise UsageError(f"model={cell.config['model']['name']}: {one_line(error)}") from error
        check_metric(cell, names)
        execution = choose_execution(program, cell, torch.device(kind), kind)
        return [*notes, *adapt(execution, program, cell, data_of(cell)).notes]

    programs = {(cell.program, cell.regularizer_program): cell for cell in cells}
    notes: dict[str, None] = {}
    for cell in programs.values():
        with trying_out(cell):
            notes |= dict.fromkeys(try_out(cell))
    return list(notes)


def try_networks(
    model: "Task",
    weights: Mapping[str, "Tensor"] | None = None,
    penalised: bool = False,
    tell: Callable[[str], None] = lambda _line: None,
) -> frozenset[str] | None:
    """Build a model's networks, let it check them, and return the names of its metrics, if they are known.

    Args:
        model: the model.
        weights: initial weights from a file, by name.
        penalised: whether a penalty acts on it.
        tell: called with a line for the user.

    Raises:
        Exception: whatever the networks raise, or ``UsageError`` if they do not fit.
    """
    import torch

    from gradbench.functional.devices import shapes_alone
    from gradbench.training.weights import apply_weights, listed

    # a plan allocates nothing, unless there is code that must be called
    with torch.random.fork_rng(devices=[]) if model.has_own_code else shapes_alone():
        networks = model.networks()
        if drawn := apply_weights(networks, weights):
            tell(
                f"{WEIGHTS} lacks {len(drawn)} of the network's tensors, which each seed draws: {listed(drawn)}"
            )
        model.check_networks(networks, penalised)
        return model.metric_names(networks) if names_its_metrics(model) else None


def names_its_metrics(model: "Task") -> bool:
    """Return whether the names that a model gives cover all that it reports: a subclass may report more."""
    for kind in type(model).__mro__:
        if "metric_names" in vars(kind):
            return True
        if {"evaluate", "summarize"} & vars(kind).keys():
            return False
    return False


def check_metric(cell: Cell, known: frozenset[str] | None) -> None:
    """Raise ``UsageError`` unless a model reports the metric that is compared, where it is known what it reports."""
    metric = str(cell.config["model"]["metric"])
    if known is not None and metric not in known:
        raise UsageError(
            f"model={cell.config['model']['name']} reports no model.metric={metric}{nearest(metric, known)} "
            f"(model.metric is one of: {', '.join(sorted(known))})"
        )
