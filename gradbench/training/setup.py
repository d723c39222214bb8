"""Bind the cells of one stack to tensors with a leading axis K, and make its first state.

K cells, P parameters of a player, U different seeds.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

from gradbench.config.hashing import canonical
from gradbench.data import Data
from gradbench.functional.devices import bring
from gradbench.functional.flat_params import Layout, Tensors, Weights
from gradbench.functional.noise import CounterNoise
from gradbench.functional.seeding import derive
from gradbench.functional.sequential_vmap import sequential_vmap
from gradbench.functional.torch_internals import tree_map
from gradbench.grid.cell import Cell
from gradbench.models import Model
from gradbench.tracing.cache import traced
from gradbench.training.divergence import Divergence, init_divergence_state
from gradbench.training.draws import stack_draws
from gradbench.training.execution import Execution, StackProgram, choose_execution
from gradbench.training.program import Program, build
from gradbench.training.regularize import group_by_regularizer
from gradbench.training.state import StackContext, State
from gradbench.training.update import build_player_step


def build_stack(
    stack: Sequence[Cell],
    data: Data,
    device: torch.device,
    cell_indices: Sequence[int] | None = None,
    traces: bool = True,
    kind: str | None = None,
    with_telemetry: bool = True,
) -> StackContext:
    """Bind a stack's cells to a device.

    Args:
        stack: the cells.
        data: what they train on.
        device: device the stack trains on.
        cell_indices: train only the cells at these ascending indices; by default all.
        traces: trace a step's functions at their first call, and replay them.
        kind: type of the device that the stack is built for; by default the device's own.
        with_telemetry: record series (False only in ``gradbench cost``).
    """
    kind = kind or device.type
    cell_indices = list(range(len(stack)) if cell_indices is None else cell_indices)
    cells = [stack[index] for index in cell_indices]
    config = cells[0].config
    program = build(config, data)
    dtype = program.dtype
    groups = group_by_regularizer(cells)
    execution = choose_execution(program, groups, device, kind, traces, with_telemetry)
    layouts = layouts_of(program.model.networks(execution.fused), device, dtype)
    shared = StackProgram(
        cells[0].program, program, layouts, groups, execution, Divergence(**config["divergence"])
    )
    seeds = sorted({cell.seed for cell in cells})
    seed_of_cell = torch.tensor([seeds.index(cell.seed) for cell in cells]).to(device)
    tensors = bring_data(data, device, dtype)
    return StackContext(
        cells=stack,
        cell_indices=cell_indices,
        steps=config["steps"],
        eval_every=config["eval_every"],
        record_every=config["record_every"],
        divergence=shared.divergence,
        model=program.model,
        optimizer=program.optimizer,
        players=[build_player_step(player, shared) for player in program.model.players],
        layouts=layouts,
        groups=groups,
        seeds=seeds,
        seed_of_cell=seed_of_cell,
        strength=torch.tensor([cell.strength for cell in cells], dtype=dtype).to(device),
        lr=torch.tensor([[cell.lr] for cell in cells], dtype=dtype).to(device),
        data=tensors,
        arrays=data.arrays,
        dtype=dtype,
        noise_keys={
            player.name: torch.tensor(
                [derive(cell.seed, "noise", player.name) for cell in cells], device=device
            )
            for player in program.model.players
        },
        evaluate=build_evaluation(
            cells, program, execution, kind, tensors, evaluation_draws(program, seeds, seed_of_cell, data)
        ),
    )


def bring_data(data: Data, device: torch.device, dtype: torch.dtype) -> Tensors:
    """Return the data's arrays as tensors on a device: fractions in the given type, all else as int64."""
    return {
        name: bring(
            torch.as_tensor(np.asarray(array)), device, dtype if array.dtype.kind == "f" else torch.int64
        )
        for name, array in data.arrays.items()
    }


def evaluation_draws(program: Program, seeds: Sequence[int], seed_of_cell: Tensor, data: Data) -> Tensors:
    """Return each cell's random numbers for its evaluations, [K, ...]: the same for all of them."""
    drawn = [program.model.draw("evaluation", seed, 0, 1, data.arrays) for seed in seeds]
    stacked = stack_draws(drawn, seed_of_cell.device, program.dtype)
    return {name: draw_U[seed_of_cell, 0] for name, draw_U in stacked.items()}


def build_evaluation(
    cells: Sequence[Cell],
    program: Program,
    execution: Execution,
    kind: str,
    data: Tensors,
    draws: Tensors,
) -> Callable[[dict[str, Weights]], Tensors]:
    """Return ``weights of every player -> metrics`` [K] and arrays [K, ...].

    Networks are in evaluation mode. Noise inside modules is the same in each evaluation.

    Args:
        cells: those that are trained.
        program: theirs.
        execution: how the stack is run.
        kind: type of the device that it is built for.
        data: on the device.
        draws: random numbers of the evaluations, [K, ...].
    """
    # an evaluation's batches are long: on a CPU one network's fit the cache, those of many do not
    one_by_one = kind == "cpu"
    layouts = layouts_of(program.model.networks(fused=one_by_one), execution.device, program.dtype)
    for layout in layouts.values():
        layout.module.eval()
    noise_keys = torch.tensor([derive(cell.seed, "noise", "evaluation") for cell in cells]).to(execution.device)

    def evaluate_networks(weights: dict[str, Weights], draw: Tensors, data: Tensors) -> Tensors:
        nets = {name: layouts[name].bind(*own) for name, own in weights.items()}
        return program.model.evaluate(nets, data, draw)

    def evaluate_with_noise(
        weights: dict[str, Weights], draw: Tensors, data: Tensors, noise_key: Tensor
    ) -> Tensors:
        with CounterNoise(noise_key):
            return evaluate_networks(weights, draw, data)

    evaluate_one = evaluate_with_noise
    if (
        execution.traces and one_by_one and not program.model.fuses
    ):  # a fused kernel takes nearly all of the time
        config = {name: cells[0].config[name] for name in ("model", "data", "precision")}
        key = canonical([config, cells[0].data_sha256])
        evaluate_one = traced(evaluate_with_noise, ("evaluation", key, str(execution.device)))

    def evaluate_cell(weights: dict[str, Weights], draw: Tensors, noise_key: Tensor) -> Tensors:
        return evaluate_one(weights, draw, data, noise_key)

    def evaluate_stack(weights: dict[str, Weights], draws: Tensors, noise_keys: Tensor) -> Tensors:
        with CounterNoise(noise_keys):
            return vmap(evaluate_networks, in_dims=(0, 0, None), randomness="different")(weights, draws, data)

    evaluate_all = sequential_vmap(evaluate_cell, len(cells)) if one_by_one else evaluate_stack

    def evaluate(weights: dict[str, Weights]) -> Tensors:
        with torch.no_grad():
            # traces run in inference mode; an evaluation may need autograd, which accepts a copy
            return evaluate_all(tree_map(torch.clone, weights), draws, noise_keys)

    return evaluate


def layouts_of(
    networks: Mapping[str, nn.Module], device: torch.device, dtype: torch.dtype
) -> dict[str, Layout]:
    """Return the layout of each player's network, whose buffers are moved to the device."""
    return {name: Layout(net.to(device, dtype)) for name, net in networks.items()}


def init_state(context: StackContext) -> State:
    """Return the state before the first step; each cell's weights come from its own seed alone."""
    networks = [seeded_networks(context.model, seed) for seed in context.seeds]
    parameters, buffers = {}, {}
    for name, layout in context.layouts.items():
        weights = [layout.weights_of(nets[name]) for nets in networks]
        stacked = tree_map(lambda *one: stack_seeds(context, one), *weights)
        parameters[name], buffers[name] = stacked
    K = len(context.seed_of_cell)
    optimizer_state = {name: context.optimizer.init(vectors) for name, vectors in parameters.items()}
    regularized = next(player.name for player in context.players if player.regularized)
    regularizer_state = [
        vmap(lambda p, init=group.regularizer.init: init(p, context.layouts[regularized]))(
            parameters[regularized][group.cells]
        )
        for group in context.groups
    ]
    return State(
        step=0,
        parameters=parameters,
        buffers=buffers,
        # copied, since updates write over parameters and optimizer state: what ``init`` returns may be one of them
        optimizer_state=tree_map(torch.clone, optimizer_state),
        regularizer_state=tree_map(torch.clone, regularizer_state),
        carry={
            name: tensor.to(context.device, context.dtype).expand(K, *tensor.shape)
            for name, tensor in context.model.carry().items()
        },
        divergence_state=init_divergence_state(K, context.device),
        loss_limit=torch.full((K,), -torch.inf, dtype=context.dtype, device=context.device),
    )


def seeded_networks(model: Model, seed: int) -> dict[str, nn.Module]:
    """Return new networks, one per player, as a cell of this seed begins with them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        return model.networks()


def stack_seeds(context: StackContext, tensors: Sequence[Tensor]) -> Tensor:
    """Stack one tensor of each seed, and give every cell its own. Shapes: U times [...] -> [K, ...]."""
    stacked = torch.stack(list(tensors))
    dtype = context.dtype if stacked.is_floating_point() else stacked.dtype
    return bring(stacked, context.device, dtype)[context.seed_of_cell]


COMPACT_BELOW = 0.75
"""Share of active cells up to which the others are left out, which costs a new trace."""

LOOK_EVERY = 10
"""Steps between looks for cells to leave out: those that diverge together need one new trace, not several."""


def should_compact(context: StackContext, state: State) -> bool:
    """Return whether so many cells have diverged that the others should go on without them.

    On a CPU only: there a look costs nothing, the others keep their bits, and time grows with the number of cells.
    """
    if context.device.type != "cpu" or state.step % LOOK_EVERY:
        return False
    return int(state.active.sum()) <= COMPACT_BELOW * len(state.active)


def compact(context: StackContext, state: State, data: Data) -> tuple[StackContext, State]:
    """Return a stack and its state without the cells that have diverged."""
    kept = torch.nonzero(state.active).flatten().tolist()
    cell_indices = [context.cell_indices[k] for k in kept]
    return build_stack(context.cells, data, context.device, cell_indices), state.pick(kept, context.groups)
