"""Bind the cells of one stack to tensors with a leading axis K, and make its first state.

K cells, P parameters of a player, U different seeds.
"""

import math
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

from gradbench.config.hashing import canonical
from gradbench.data import Data
from gradbench.functional.devices import bring
from gradbench.functional.flat_params import Layout, Network, Tensors, Weights
from gradbench.functional.noise import CounterNoise
from gradbench.functional.seeding import all_seeded, derive
from gradbench.functional.sequential_vmap import sequential_vmap
from gradbench.functional.torch_internals import tree_map
from gradbench.grid.cell import Cell
from gradbench.models import INTERACTION, Networks, Task
from gradbench.tracing.cache import traced
from gradbench.training.divergence import Divergence, init_divergence_state
from gradbench.training.draws import stack_draws
from gradbench.training.execution import Execution, StackProgram
from gradbench.training.interaction import build_interact
from gradbench.training.program import Program
from gradbench.training.regularize import group_by_regularizer
from gradbench.training.state import StackContext, State
from gradbench.training.traced_network import TracedNetwork
from gradbench.training.update import build_player_step
from gradbench.training.weights import apply_weights, initial_weights


def bind_stack(
    stack: Sequence[Cell],
    cell_indices: list[int],
    program: Program,
    execution: Execution,
    data: Data,
) -> StackContext:
    """Bind a stack's cells to a device.

    Args:
        stack: the cells.
        cell_indices: indices of those that are trained, ascending.
        program: what they share.
        execution: how the stack is run, and where.
        data: what they train on.
    """
    cells = [stack[index] for index in cell_indices]
    config, device, dtype = cells[0].config, execution.device, program.dtype
    groups = group_by_regularizer(cells, program.model)
    layouts = layouts_of(program, execution, execution.fused)
    shared = StackProgram(
        cells[0].program, program, layouts, groups, execution, Divergence(**config["divergence"])
    )
    seeds = sorted({cell.seed for cell in cells})
    seed_of_cell = torch.tensor([seeds.index(cell.seed) for cell in cells]).to(device)
    tensors = bring_data(data, device, dtype)
    draws = evaluation_draws(program, seeds, seed_of_cell, data)
    evaluate, sample = build_evaluation(cells, program, execution, tensors, draws)
    interact, purposes = None, [player.name for player in program.model.players]
    if program.model.interacts:
        key = (str(device), shared.key, len(cells))
        interact = build_interact(program.model, layouts, execution, len(cells), key)
        purposes.append(INTERACTION)
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
        weights=initial_weights(cells[0]),
        groups=groups,
        seeds=seeds,
        seed_of_cell=seed_of_cell,
        strength=stack_strengths(cells, dtype).to(device),
        lr=torch.tensor([[cell.lr] for cell in cells], dtype=dtype).to(device),
        schedule={
            key: torch.tensor(
                [[cell.schedule_numbers[key]] for cell in cells], dtype=torch.float64, device=device
            )
            for key in cells[0].schedule_numbers
        },
        data=tensors,
        arrays=data.arrays,
        dtype=dtype,
        noise_keys={purpose: noise_keys(cells, purpose, device) for purpose in purposes},
        is_traced=execution.traces and execution.traces_networks,
        interact=interact,
        evaluate=evaluate,
        sample=sample,
    )


def stack_strengths(cells: Sequence[Cell], dtype: torch.dtype) -> Tensor:
    """Return each cell's strengths, [K, S]; NaN where its regularizer has fewer than another's."""
    S = max(len(cell.strengths) for cell in cells)
    rows = [[*cell.strengths, *[math.nan] * (S - len(cell.strengths))] for cell in cells]
    return torch.tensor(rows, dtype=dtype)


def noise_keys(cells: Sequence[Cell], purpose: str, device: torch.device) -> Tensor:
    """Return what each cell's noise inside modules is drawn from for one purpose, [K], int64."""
    return torch.tensor([derive(cell.seed, "noise", purpose) for cell in cells]).to(device)


def bring_data(data: Data, device: torch.device, dtype: torch.dtype) -> Tensors:
    """Return the data's arrays as tensors on a device: fractions in the given type, all else as int64.

    They are contiguous: of an array that lies otherwise each gathering of a batch would copy the whole.
    """
    dtypes = {name: dtype if array.dtype.kind == "f" else torch.int64 for name, array in data.arrays.items()}
    if device.type == "meta":  # only shapes matter, and of data that a plan describes there is nothing else
        blank = {
            name: torch.zeros((), dtype=dtypes[name]).expand(one.shape) for name, one in data.arrays.items()
        }
        return {name: tensor.to(device) for name, tensor in blank.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing writes to data
        return {
            name: bring(torch.as_tensor(np.asarray(array, order="C")), device, dtypes[name])
            for name, array in data.arrays.items()
        }


def evaluation_draws(program: Program, seeds: Sequence[int], seed_of_cell: Tensor, data: Data) -> Tensors:
    """Return each cell's random numbers for its evaluations, [K, ...]: the same for all of them."""
    drawn = [program.model.draw("evaluation", seed, 0, 1, data.arrays) for seed in seeds]
    stacked = stack_draws(drawn, seed_of_cell.device, program.dtype)
    return {name: draw_U[seed_of_cell, 0] for name, draw_U in stacked.items()}


Evaluation = Callable[[dict[str, Weights], Tensors], Tensors]
"""``(weights of every player, carry) -> metrics`` [K] and arrays [K, ...]."""


def build_evaluation(
    cells: Sequence[Cell],
    program: Program,
    execution: Execution,
    data: Tensors,
    draws: Tensors,
) -> tuple[Evaluation, Evaluation]:
    """Return functions that evaluate the networks of a stack, and that let them make what a report shows.

    Networks are in evaluation mode. Noise inside modules is the same in each evaluation.

    Args:
        cells: those that are trained.
        program: theirs.
        execution: how the stack is run.
        data: on the device.
        draws: random numbers of the evaluations, [K, ...].
    """
    # an evaluation's batches are long: on a CPU one network's fit the cache, those of many do not
    on_cpu = execution.kind == "cpu"
    one_by_one = on_cpu or execution.one_by_one
    layouts = layouts_of(program, execution, fused=on_cpu)
    for layout in layouts.values():
        layout.module.eval()
    keys = noise_keys(cells, "evaluation", execution.device)
    model = program.model
    config = {name: cells[0].config[name] for name in ("model", "data", "precision")}
    key = ("evaluation", canonical([config, cells[0].data_sha256]), str(execution.device))
    traces = execution.traces and execution.traces_networks and one_by_one
    replays: dict[Hashable, Callable[..., Any]] = {}

    def run(net: Network, noise_key: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with CounterNoise(noise_key), execution.kernels():
            return net(*args, **kwargs)

    def for_stack(method: Callable[[Networks, Tensors, Tensors], Tensors], at_once: bool) -> Evaluation:
        def call(weights: dict[str, Weights], draw: Tensors, experience: Tensors, data: Tensors) -> Tensors:
            nets = {name: layouts[name].bind(*own) for name, own in weights.items()}
            return method(nets, data | experience, draw)

        def call_with_noise(
            weights: dict[str, Weights], draw: Tensors, experience: Tensors, data: Tensors, noise_key: Tensor
        ) -> Tensors:
            with CounterNoise(noise_key), execution.kernels():
                return call(weights, draw, experience, data)

        def call_by_call(
            weights: dict[str, Weights], draw: Tensors, experience: Tensors, data: Tensors, noise_key: Tensor
        ) -> Tensors:
            nets = {name: layouts[name].bind(*own) for name, own in weights.items()}
            made = {
                name: TracedNetwork(
                    **vars(net), run=run, noise_key=noise_key, key=(name, *key), replays=replays
                )
                for name, net in nets.items()
            }
            return method(made, data | experience, draw)

        call_one = call_with_noise
        if traces and not at_once:
            call_one = call_by_call
        elif traces and not model.fuses:  # a fused kernel takes nearly all of the time
            call_one = traced(call_with_noise, key)

        def call_cell(
            weights: dict[str, Weights], draw: Tensors, experience: Tensors, noise_key: Tensor
        ) -> Tensors:
            return call_one(weights, draw, experience, data, noise_key)

        def call_stack(
            weights: dict[str, Weights], draws: Tensors, experience: Tensors, noise_keys: Tensor
        ) -> Tensors:
            with CounterNoise(noise_keys), execution.kernels():
                of_cells = vmap(call, in_dims=(0, 0, 0, None), randomness="different")
                return of_cells(weights, draws, experience, data)

        call_all = sequential_vmap(call_cell, len(cells)) if one_by_one else call_stack

        def for_all(weights: dict[str, Weights], carry: Tensors) -> Tensors:
            with torch.no_grad():
                # traces run in inference mode; an evaluation may need autograd, which accepts a copy
                weights, experience = tree_map(torch.clone, (weights, experienced(weights, carry)))
                return call_all(weights, draws, experience, keys)

        return for_all

    interact = build_interact(model, layouts, execution, len(cells), (*key, len(cells)))

    def experienced(weights: dict[str, Weights], carry: Tensors) -> Tensors:
        """Return what training carries, and the transitions of new interactions, of a model that interacts."""
        if not model.interacts:
            return {}
        first = stack_carry(model.evaluation_carry(), len(cells), execution.device, program.dtype)
        return carry | interact(weights, first, draws, keys)[0]

    # a state is carried through all of a text, and the trace of that would be as long
    evaluate = for_stack(model.evaluate, at_once=not model.carry())
    if type(model).sample is Task.sample:
        return evaluate, lambda *_: {}
    return evaluate, for_stack(model.sample, at_once=False)


def layouts_of(program: Program, execution: Execution, fused: bool) -> dict[str, Layout]:
    """Return the layout of each player's network."""
    return {
        name: Layout(
            net,
            {
                key: to_device(one, execution.device, program.dtype)
                for key, one in net.named_buffers()
                if key in execution.shared.get(name, ())
            },
        )
        for name, net in program.model.networks(fused).items()
    }


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a tensor on a device, fractions in the given type."""
    return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)


def init_state(context: StackContext) -> State:
    """Return the state before the first step; each cell's weights come from its own seed alone."""
    networks = [seeded_networks(context.model, seed, context.weights) for seed in context.seeds]
    parameters, buffers = {}, {}
    for name, layout in context.layouts.items():
        weights = [layout.weights_of(nets[name]) for nets in networks]
        stacked = tree_map(lambda *one: stack_seeds(context, one), *weights)
        parameters[name], buffers[name] = stacked
    K = len(context.seed_of_cell)
    optimizer_state = {
        name: context.optimizer.init(vectors, context.layouts[name]) for name, vectors in parameters.items()
    }
    regularizer_state = {
        name: [
            vmap(lambda p, init=group.by_player[name].init, layout=layout: init(p, layout))(
                parameters[name][group.cells]
            )
            for group in context.groups
        ]
        for name, layout in context.layouts.items()
    }
    return State(
        step=0,
        parameters=parameters,
        buffers=buffers,
        # copied, since updates write over parameters and optimizer state: what ``init`` returns may be one of them
        optimizer_state=tree_map(torch.clone, optimizer_state),
        regularizer_state=tree_map(torch.clone, regularizer_state),
        carry=stack_carry(context.model.carry(), K, context.device, context.dtype),
        divergence_state=init_divergence_state(K, context.device),
        loss_limit=torch.full((K,), -torch.inf, dtype=context.dtype, device=context.device),
    )


def stack_carry(carry: Tensors, K: int, device: torch.device, dtype: torch.dtype) -> Tensors:
    """Return what each of K cells begins with, on a device. Shapes: [...] -> [K, ...]."""
    return {name: tensor.to(device, dtype).expand(K, *tensor.shape) for name, tensor in carry.items()}


def seeded_networks(
    model: Task, seed: int, weights: Mapping[str, Tensor] | None = None
) -> dict[str, nn.Module]:
    """Return new networks, one per player, as a cell of this seed begins with them.

    Args:
        model: builds them.
        seed: the cell's.
        weights: that it starts from, where they are given.
    """
    with all_seeded(seed, "weights"):
        networks = model.networks()
    apply_weights(networks, weights)
    return networks


def stack_seeds(context: StackContext, tensors: Sequence[Tensor]) -> Tensor:
    """Stack one tensor of each seed, and give every cell its own. Shapes: U times [...] -> [K, ...]."""
    return to_device(torch.stack(list(tensors)), context.device, context.dtype)[context.seed_of_cell]
