"""Try out a step of networks that gradbench does not know, before anything trains, and choose how they are run.

A step is tried on torch's ``meta`` device, where tensors have shapes and no values; or on the CPU with one batch, where
a network needs values. What cannot be stacked by ``vmap`` runs one network at a time; what cannot be traced, too, and
operation by operation.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gradbench.config.hashing import canonical
from gradbench.config.identity import foreign_targets
from gradbench.config.overrides import one_line
from gradbench.data import Data
from gradbench.errors import UsageError
from gradbench.functional.flat_params import Layout, Network, Tensors
from gradbench.functional.network_checks import has_once_differentiable, refuse_unregistered, refuse_unseeded
from gradbench.functional.noise import CounterNoise
from gradbench.functional.torch_internals import DispatchMode, storage_key, tree_leaves, tree_map
from gradbench.grid.cell import Cell
from gradbench.models import INTERACTION, Player
from gradbench.tracing.aliasing import writes
from gradbench.tracing.cache import dropped_afterwards
from gradbench.training.bind import bind_stack, bring_data, init_state, seeded_networks, to_device
from gradbench.training.draws import draw_chunk
from gradbench.training.execution import Execution
from gradbench.training.interaction import interact_one
from gradbench.training.points import chosen
from gradbench.training.program import Program, build_regularizer
from gradbench.training.step import EagerStepper
from gradbench.user_errors import place_of

META, CPU = torch.device("meta"), torch.device("cpu")

TRIED: dict[str, Execution] = {}
"""Program, kind of device and penalty -> how it is run; of this process."""

HEAVY, HEAVY_RECURRENT = 2**16, 2**12
"""Mean elements per operation of one network's step from which a CPU runs networks one after another.

Measured on two networks of each kind (perceptrons, convolutions, attention, recurrent ones) on both sides. Torch's
recurrent kernels, which only run one network at a time and have one derivative, are quicker from smaller sizes on.
"""


def adapt(execution: Execution, program: Program, cell: Cell, data: Data) -> Execution:
    """Return how a stack is run, after a trial of a cell where its model's code is the user's, or asks for one.

    Raises:
        UsageError: where it cannot be trained in any way.
    """
    is_known = next(foreign_targets({"model": cell.config["model"]}), None) is None
    if is_known and not program.model.needs_trial:
        return execution
    key = canonical([cell.program, cell.regularizer_program, execution.kind])
    if key not in TRIED:
        TRIED[key] = try_out(execution, program, cell, data)
    tried = TRIED[key]
    return replace(
        tried, device=execution.device, traces=execution.traces, with_telemetry=execution.with_telemetry
    )


def try_out(execution: Execution, program: Program, cell: Cell, data: Data) -> Execution:
    """Try out a cell, and return the fastest way to run it of those that work."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training repeats what a network warns of
        return fastest(execution, Trial(program, cell, data))


def fastest(execution: Execution, trial: "Trial") -> Execution:
    """Return the fastest way to run a trial's cell; raises as :func:`adapt`."""
    try:
        return trial.choose(execution, META)
    except UsageError:
        raise
    except Exception:  # a network that needs values, or an operation that ``meta`` does not have
        pass
    try:
        return trial.choose(execution, CPU)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{name_of(trial.cell)}: {trial.explain_failure(error)}") from error


@dataclass(frozen=True)
class Found:
    """What a pass of one network showed.

    Attributes:
        device: device that it ran on.
        shared: player -> names of buffers that are the same for all seeds and were not written to.
        size: mean number of elements of an operation's result.
        recurrent: whether torch's own recurrent kernels can be used.
        notes: lines for the user.
    """

    device: torch.device
    shared: dict[str, frozenset[str]]
    size: float
    recurrent: bool
    notes: tuple[str, ...]


class Trial:
    """The trial of a cell."""

    def __init__(self, program: Program, cell: Cell, data: Data) -> None:
        self.program, self.cell, self.data = program, cell, data
        self.is_penalised = bool(build_regularizer(cell.config).penalties)

    def choose(self, execution: Execution, device: torch.device) -> Execution:
        """Return the fastest way to run the cell that works on a device; raises whatever the last one raises."""
        found = self.passes_on(device)
        alone = replace(
            execution,
            device=device,
            shared=found.shared,
            writes_out=self.is_penalised,
            one_by_one=True,
            notes=found.notes,
        )
        stacked = replace(alone, one_by_one=False, writes_out=True)
        heavy = execution.kind == "cpu" and found.size > (HEAVY_RECURRENT if found.recurrent else HEAVY)
        candidates = {"one network at a time": alone}
        if not heavy:
            candidates = {"": stacked} | candidates
        if device == CPU:  # what is run operation by operation may need values
            candidates["one network and one operation at a time"] = replace(alone, traces_networks=False)
        errors: list[Exception] = []
        for how, candidate in candidates.items():
            try:
                self.step(candidate)
            except UsageError:
                raise
            except Exception as error:  # torch raises a dozen types
                errors.append(error)
            else:
                slower = [
                    f"{name_of(self.cell)} trains {how}, which is slower: {explain(one)}"
                    for one in errors[-1:]
                ]
                return replace(candidate, notes=(*found.notes, *slower))
        raise errors[-1]

    def passes_on(self, device: torch.device) -> Found:
        """Run each player's pass on a device."""
        model, dtype = self.program.model, self.program.dtype
        networks, again = seeded_networks(model, 0), seeded_networks(model, 1)
        for name, net in seeded_networks(model, 0).items():
            try:
                refuse_unseeded(networks[name], net)
                refuse_unregistered(net, again[name])
            except UsageError as error:
                raise UsageError(f"{name_of(self.cell)}: {error}") from None
        varying = {name: differing_buffers(net, again[name]) for name, net in networks.items()}
        data = bring_data(self.data, device, dtype)
        watch = Watch()
        for player in model.players:
            varying[player.name] |= self.pass_of(player, networks, data, device, watch)
        shared = {
            name: frozenset(key for key, _ in net.named_buffers()) - varying[name]
            for name, net in networks.items()
        }
        layers = [module for net in networks.values() for module in net.modules()]
        recurrent = not self.is_penalised and any(isinstance(layer, nn.RNNBase) for layer in layers)
        penalised = [networks[player.name] for player in model.players if player.regularized]
        coupled = sorted(
            {type(layer).__name__ for net in penalised for layer in net.modules() if is_coupling(layer)}
        )
        notes = []
        if self.is_penalised and coupled:
            notes.append(
                f"{name_of(self.cell)} has {', '.join(coupled)}: examples of a batch depend on each other, so under "
                f"regularizer={self.cell.config['regularizer']['name']} an input's gradient is of all of their losses"
            )
        return Found(device, shared, watch.elements / max(watch.operations, 1), recurrent, tuple(notes))

    def explain_failure(self, error: Exception) -> str:
        """Return one line on why a plain pass failed."""
        line = explain(error)
        if "derivative for" in line and "is not implemented" in line:
            choice = self.cell.config["regularizer"]["name"]
            return f"regularizer={choice} needs second derivatives, and torch has none here ({line})"
        return line

    def pass_of(
        self,
        player: Player,
        nets: Mapping[str, nn.Module],
        data: Tensors,
        device: torch.device,
        watch: "Watch",
    ) -> set[str]:
        """Run a player's loss, penalty and gradient; return the names of buffers that the loss writes to."""
        model, dtype = self.program.model, self.program.dtype
        drawn = model.draw(player.name, 0, 0, 1, self.data.arrays)
        draw = {name: to_device(tensor[0], device, dtype) for name, tensor in drawn.items()}
        carry = {name: to_device(tensor, device, dtype) for name, tensor in model.carry().items()}
        regularizer = build_regularizer(self.cell.config, player)
        strength = to_device(torch.tensor(self.cell.strengths), device, dtype)
        layouts = {name: Layout(net) for name, net in nets.items()}
        weights = {
            name: tree_map(lambda one: to_device(one, device, dtype), layout.weights_of(layout.module))
            for name, layout in layouts.items()
        }
        own = weights[player.name]._replace(parameters=weights[player.name].parameters.requires_grad_())
        weights = weights | {player.name: own}

        def bound() -> dict[str, Network]:
            return {name: layouts[name].bind(*one) for name, one in weights.items()}

        execution = Execution(device, device.type, writes_out=bool(regularizer.penalties))
        with CounterNoise(torch.zeros((), dtype=torch.int64, device=device)), execution.kernels():
            with torch.no_grad():
                if model.interacts:
                    drawn = model.draw(INTERACTION, 0, 0, 1, self.data.arrays)
                    rows = {name: to_device(tensor[0], device, dtype) for name, tensor in drawn.items()}
                    transitions, carry = interact_one(model, bound(), carry, rows)
                    data = data | transitions
                batch = model.batch(player.name, bound(), dict(data), draw)
            used = bound()
            before = dict(used[player.name].buffers)
            with watch:
                loss, _ = model.loss(player.name, used, batch, carry)
                if not loss.requires_grad:
                    raise UsageError(
                        f"{name_of(self.cell)}: the loss of its {player.name} does not depend on the parameters; "
                        "is there a torch.no_grad() or a .detach() in forward?"
                    )
                total = loss
                for index, part in regularizer.penalties:
                    probe = model.probe(player.name, bound(), batch, carry)
                    assert part.penalty is not None
                    total = total + part.penalty(*chosen(model, probe, part.points), strength[index])
                    if has_once_differentiable(total):
                        raise UsageError(
                            f"{name_of(self.cell)}: regularizer={self.cell.config['regularizer']['name']} needs second "
                            "derivatives, and a function of its own is marked as once_differentiable"
                        )
                torch.autograd.grad(total, own.parameters, allow_unused=True)
        after = used[player.name].buffers
        return {name for name, one in after.items() if one is not before[name] or watch.has_written(one)}

    def step(self, execution: Execution) -> None:
        """Take a step of two cells of different seeds, and evaluate them; raises whatever the step raises."""
        config = dict(self.cell.config) | {"seed": self.cell.seed + 1}
        cells = [self.cell, replace(self.cell, config=config)]
        context = bind_stack(cells, [0, 1], self.program, execution, self.data)
        stepper, state = EagerStepper(context), init_state(context)
        with warnings.catch_warnings(), dropped_afterwards():
            warnings.filterwarnings(
                "error", "There is a performance drop"
            )  # vmap loops over such an operation
            stepper.step(state, draw_chunk(context, 0), compares=True)
            stepper.evaluate(state)


class Watch(DispatchMode):
    """Count operations and the elements of their results, and remember the memory that is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.elements, self.written = 0, 0, set[int]()
        self.kept: list[Tensor] = []  # a storage's key may be used again once it is freed

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation."""
        for tensor in writes(operation, args, kwargs or {}):
            self.kept.append(tensor)
            self.written.add(storage_key(tensor.untyped_storage()))
        result = operation(*args, **(kwargs or {}))
        self.operations += 1
        self.elements += sum(one.numel() for one in tree_leaves(result) if isinstance(one, Tensor))
        return result

    def has_written(self, tensor: Tensor) -> bool:
        """Return whether an operation wrote to the memory of a tensor."""
        return storage_key(tensor.untyped_storage()) in self.written


def differing_buffers(net: nn.Module, again: nn.Module) -> set[str]:
    """Return the names of buffers that differ between networks of two seeds."""
    other = dict(again.named_buffers())
    return {name for name, one in net.named_buffers() if not torch.equal(one, other[name])}


def name_of(cell: Cell) -> str:
    """Return how a cell's network was chosen, as it is typed."""
    network = cell.config["model"].get("network")
    named = network.get("_target_") if isinstance(network, Mapping) else None
    return f"model.network={named}" if named else f"model={cell.config['model']['name']}"


def is_coupling(layer: nn.Module) -> bool:
    """Return whether a layer lets the examples of a batch depend on each other."""
    return isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training


def explain(error: Exception) -> str:
    """Return one line about an error of a trial: its first sentence, and where in the user's code it was raised."""
    line = one_line(error).split(". ")[0].split("; ")[0].rstrip(".")
    values = ("data-dependent control flow", ".item()", "reads a tensor's value")
    if any(part in line for part in values):
        return f"its course depends on the values of tensors ({line})"
    place = place_of(error)
    return f"{type(error).__name__}: {line}{place}" if place else line
