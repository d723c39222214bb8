"""Bind the cells of one stack to tensors with a leading axis K, and make its first state.

K cells, P parameters of a player, U different seeds.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

from gradbench.config.hashing import canonical
from gradbench.data import Data
from gradbench.functional.devices import bring
from gradbench.functional.flat_params import Layout, Tensors, flatten
from gradbench.functional.loop import looped
from gradbench.functional.seeding import derive
from gradbench.grid.cell import Cell
from gradbench.tracing.cache import traced
from gradbench.training.divergence import Divergence, newborn
from gradbench.training.draws import stack_draws
from gradbench.training.execution import execution_of
from gradbench.training.program import build
from gradbench.training.regularize import spans_of
from gradbench.training.state import Setup, State
from gradbench.training.update import stack_player


def prepare(
    stack: Sequence[Cell],
    data: Data,
    device: torch.device,
    places: Sequence[int] | None = None,
    traces: bool = True,
    kind: str | None = None,
    measures: bool = True,
) -> Setup:
    """Bind a stack's cells to a device.

    Args:
        stack: the cells.
        data: what they train on.
        device: where.
        places: bind only those at these ascending places.
        traces: whether a step's functions are traced at their first call, and replayed.
        kind: of device that the stack is made for, by default the device's own.
        measures: whether there is anything to record.
    """
    kind = kind or device.type
    places = range(len(stack)) if places is None else places
    cells = [stack[place] for place in places]
    config = cells[0].config
    program = build(config, data)
    model, dtype = program.model, program.dtype
    spans = spans_of(cells)
    execution = execution_of(program, spans, device, kind, traces, measures)
    layouts = layouts_of(model.networks(execution.fused), device, dtype)
    divergence = Divergence(**config["divergence"])
    seeds = sorted({cell.seed for cell in cells})
    seed_of_cell = torch.tensor([seeds.index(cell.seed) for cell in cells]).to(device)
    tensors = {
        name: bring(
            torch.as_tensor(np.asarray(array)), device, dtype if array.dtype.kind == "f" else torch.int64
        )
        for name, array in data.arrays.items()
    }
    evaluation = stack_draws(
        [model.draw("evaluation", seed, 0, 1, data.arrays) for seed in seeds], device, dtype
    )
    once = {name: draw_U[seed_of_cell, 0] for name, draw_U in evaluation.items()}

    # an evaluation's batches are long: on a CPU one network's fit the cache, those of many do not
    one_by_one = kind == "cpu"
    readers = layouts_of(model.networks(fused=one_by_one), device, dtype)

    def evaluate_network(parameters: Tensors, draw: Tensors, data: Tensors) -> Tensors:
        return model.evaluate(
            {name: readers[name].bind(vector) for name, vector in parameters.items()}, data, draw
        )

    evaluate_one = evaluate_network
    if traces and one_by_one and not model.fuses:  # a fused kernel takes nearly all of a model's time
        what = canonical([{key: config[key] for key in ("model", "data", "precision")}, cells[0].data_sha256])
        evaluate_one = traced(evaluate_network, ("evaluation", what, str(device)))

    def evaluate_cell(parameters: Tensors, draw: Tensors) -> Tensors:
        return evaluate_one(parameters, draw, tensors)

    evaluate_all = looped(evaluate_cell, len(cells)) if one_by_one else vmap(evaluate_cell)

    def evaluate(parameters: Tensors) -> Tensors:
        with torch.no_grad():
            # what a trace made was made in inference mode; an evaluation may need autograd, which takes a copy
            return evaluate_all({name: vectors.clone() for name, vectors in parameters.items()}, once)

    return Setup(
        cells=stack,
        places=list(places),
        steps=config["steps"],
        eval_every=config["eval_every"],
        record_every=config["record_every"],
        divergence=divergence,
        model=model,
        optimizer=program.optimizer,
        players=[
            stack_player(player, program, layouts, spans, execution, divergence, cells[0].program)
            for player in model.players
        ],
        layouts=layouts,
        spans=spans,
        seeds=seeds,
        seed_of_cell=seed_of_cell,
        strength=torch.tensor([cell.strength for cell in cells], dtype=dtype).to(device),
        lr=torch.tensor([[cell.lr] for cell in cells], dtype=dtype).to(device),
        data=tensors,
        arrays=data.arrays,
        dtype=dtype,
        evaluate=evaluate,
    )


def layouts_of(
    networks: Mapping[str, nn.Module], device: torch.device, dtype: torch.dtype
) -> dict[str, Layout]:
    """Return the layout of each player's network, buffers included on the device."""
    return {name: Layout(net.to(device, dtype)) for name, net in networks.items()}


def begin(setup: Setup) -> State:
    """Return the state before the first step: each cell's weights come from its own seed alone."""
    weights: dict[str, list[Tensor]] = {name: [] for name in setup.layouts}
    for seed in setup.seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "weights"))
            for name, net in setup.model.networks().items():
                weights[name].append(flatten(net))
    parameters = {
        name: bring(torch.stack(vectors), setup.device, setup.dtype)[setup.seed_of_cell]
        for name, vectors in weights.items()
    }
    K = len(setup.seed_of_cell)
    regularized = next(player.name for player in setup.players if player.regularized)
    memory = [
        vmap(lambda p, init=span.regularizer.init: init(p, setup.layouts[regularized]))(
            parameters[regularized][span.cells]
        )
        for span in setup.spans
    ]
    return State(
        step=0,
        parameters=parameters,
        moments={name: setup.optimizer.init(vectors) for name, vectors in parameters.items()},
        memory=memory,
        carry={
            name: tensor.to(setup.device, setup.dtype).expand(K, *tensor.shape)
            for name, tensor in setup.model.carry().items()
        },
        life=newborn(K, setup.device),
        ceiling=torch.full((K,), -torch.inf, dtype=setup.dtype, device=setup.device),
    )


KEEP_FROM = 0.75
"""Share of cells alive above which the diverged ones stay: leaving them out costs a new trace."""


LOOK_EVERY = 10
"""Steps between looks for cells to leave out: those that diverge together need one new trace, not several."""


def has_thinned(setup: Setup, state: State) -> bool:
    """Return whether cells have diverged that cost enough arithmetic for the others to go on without them.

    On a CPU only: there to look costs nothing, the others keep their bits, and time goes with the number of cells.
    """
    if setup.device.type != "cpu" or state.step % LOOK_EVERY:
        return False
    alive = int(state.alive.sum())
    return alive <= KEEP_FROM * len(state.alive)


def without_diverged(setup: Setup, state: State, data: Data) -> tuple[Setup, State]:
    """Return a stack that :func:`has_thinned`, and its state, without the cells that have diverged."""
    kept = torch.nonzero(state.alive).flatten().tolist()
    places = [setup.places[k] for k in kept]
    return prepare(setup.cells, data, setup.device, places), state.pick(kept, setup.spans)
