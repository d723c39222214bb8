"""One cell in ordinary PyTorch, from top to bottom: this is what gradbench computes.

Everything else in the package makes K of these at once give the same numbers, and
``tests/training/test_reference.py`` holds it to them. Nothing here is stacked, recorded or differentiated by hand:
modules, ``backward`` and ``torch.optim``.

P parameters of a player. A WGAN has two players, critic and generator; any other model has one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from gradbench.data import Data
from gradbench.functional.flat_params import Layout, Network, flatten
from gradbench.functional.noise import CounterNoise, subkey
from gradbench.functional.seeding import all_seeded, derive
from gradbench.functional.written_out import written_out
from gradbench.grid.cell import Cell
from gradbench.models import INTERACTION, Player, Task
from gradbench.training.draws import CHUNK
from gradbench.training.interaction import stack_transitions
from gradbench.training.points import AROUND, MOVES, chosen, move
from gradbench.training.program import build, build_parts
from gradbench.training.reference_optimizers import make_optimizer, make_scheduler
from gradbench.training.update import batch_key
from gradbench.training.weights import apply_weights, initial_weights


@dataclass(frozen=True)
class Update:
    """One update of one player.

    Attributes:
        step: training step, counted from 1.
        player: name of the player.
        series: loss, penalty, gradient norms and what else the table of curves has, by name.
        networks: every player's network, by name. They go on training: copy what is to be kept.
        carry: what is carried on, such as a recurrent state.
    """

    step: int
    player: str
    series: dict[str, float]
    networks: dict[str, nn.Module]
    carry: dict[str, Tensor]


def train_one(cell: Cell, data: Data) -> Iterator[Update]:
    """Train one cell on the CPU, and yield after every update of a player.

    Seeds torch's global generator. Leaves out bfloat16's autocast (it trains in float32) and divergence: a stack
    gives these numbers until the cell has diverged.

    Raises:
        UsageError: for an optimizer or a schedule that is not one of gradbench's own.
    """
    program = build(cell.config, data)
    model, dtype, several = program.model, program.dtype, program.accumulate  # batches per update
    examples = {name: as_tensor(array, dtype) for name, array in data.arrays.items()}
    strengths = torch.tensor(cell.strengths, dtype=dtype)  # threshold or lambda of each

    with all_seeded(cell.seed, "weights"):
        networks = model.networks()
    apply_weights(networks, initial_weights(cell))  # of a file, where one is given
    networks = {name: network.to(dtype) for name, network in networks.items()}
    optimizers = {name: make_optimizer(cell, network) for name, network in networks.items()}
    schedulers = [make_scheduler(cell, optimizer) for optimizer in optimizers.values()]
    # what acts on each player: one regularizer, or several in order, with states of their own
    regularizers = {player.name: build_parts(cell.config, player) for player in model.players}
    layouts = {name: Layout(network) for name, network in networks.items()}
    states_of = {
        name: [one.init(flatten(networks[name]), layouts[name]) for one in parts]
        for name, parts in regularizers.items()
    }
    carry = {
        name: tensor.to(dtype) for name, tensor in model.carry().items()
    }  # a recurrent state, an environment

    for step in range(cell.config["steps"]):
        known = examples
        if model.interacts:
            key = torch.tensor([derive(cell.seed, "noise", INTERACTION)])
            (drawn,) = draw(model, Player(INTERACTION), 1, cell.seed, step, data, dtype)
            transitions = []
            for number in range(len(next(iter(drawn.values())))):
                row = {name: tensor[number] for name, tensor in drawn.items()}
                with torch.no_grad(), CounterNoise(subkey(subkey(key, step + 1), number)[0]):
                    transition, carry = model.interact(unmoved(networks), carry, row)
                transitions.append(transition)
            known = examples | stack_transitions(transitions, dim=0)

        for player in model.players:
            network, optimizer = networks[player.name], optimizers[player.name]
            acting = list(enumerate(regularizers[player.name]))
            layout, states = layouts[player.name], states_of[player.name]
            draws = draw(model, player, several, cell.seed, step, data, dtype)
            numbers = range(step * len(draws) + 1, (step + 1) * len(draws) + 1)  # of batches, counted from 1
            noise = torch.tensor(
                derive(cell.seed, "noise", player.name)
            )  # what dropout and the like draw from
            with torch.no_grad():
                batches = []
                for number, drawn in zip(numbers, draws, strict=True):
                    with CounterNoise(batch_key(noise, torch.tensor([number]))[0]):
                        batches.append(model.batch(player.name, unmoved(networks), known, drawn))

            for update in range(player.steps):
                optimizer.zero_grad()
                losses, penalties = [], []
                for place in range(update * several, (update + 1) * several):
                    number, batch = numbers[place], batches[place]
                    # running statistics move once a batch, in the pass of the own loss
                    before = unmoved(networks)
                    with CounterNoise(subkey(noise, number)):
                        loss, carried = model.loss(player.name, before | {player.name: network}, batch, carry)

                    penalty = torch.zeros(())
                    for i, regularizer in acting:
                        if regularizer.penalty and step % regularizer.every == 0:
                            with CounterNoise(subkey(noise, number)), written_out():  # the same masks
                                probe = model.probe(player.name, before, batch, carry)
                                f, points = chosen(model, probe, regularizer.points)
                                with CounterNoise(subkey(subkey(noise, number), MOVES)):
                                    points = move(points) if regularizer.points == AROUND else points
                                paid = regularizer.penalty(f, points, strengths[i])
                            penalty = penalty + regularizer.every * paid

                    ((loss + penalty) / several).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                    losses.append(loss.detach())
                    penalties.append(penalty.detach())
                    carry = {name: tensor.detach() for name, tensor in carried.items()}
                gradient_P, before_P = parameters_to_vector(gradients(network)), flatten(network)

                used_P = gradient_P
                given = {"loss": torch.stack(losses).mean(), "lr": torch.tensor(rate(optimizer), dtype=dtype)}
                for i, regularizer in acting:
                    if regularizer.transform:
                        used_P, states[i] = regularizer.transformed(
                            used_P, strengths[i], states[i], before_P, layout, **given
                        )
                        vector_to_parameters(used_P, gradients(network))

                optimizer.step()

                for i, regularizer in acting:
                    if regularizer.project:
                        projected_P = regularizer.project(flatten(network), strengths[i], layout)
                        vector_to_parameters(projected_P, trained(network))

                loss, penalty = given["loss"], torch.stack(penalties).mean()
                series = measure(loss, penalty, gradient_P, used_P, flatten(network) - before_P)
                series["lr"] = rate(optimizer)
                yield Update(step + 1, player.name, series, networks, carry)
        for scheduler in schedulers:
            scheduler.step()


def rate(optimizer: torch.optim.Optimizer) -> float:
    """Return the learning rate of the next step."""
    return float(optimizer.param_groups[0]["lr"])


def unmoved(networks: Mapping[str, nn.Module]) -> dict[str, Network | nn.Module]:
    """Return the networks with copies of their buffers: what passes through them leaves running statistics alone."""
    return {
        name: Network(
            net, dict(net.named_parameters()), {key: one.clone() for key, one in net.named_buffers()}
        )
        for name, net in networks.items()
    }


def draw(
    model: Task, player: Player, several: int, seed: int, step: int, data: Data, dtype: torch.dtype
) -> list[dict[str, Tensor]]:
    """Return the random numbers of each of a player's batches in a step, drawn for CHUNK steps together."""
    place, of_step = step % CHUNK, player.steps * several
    drawn = model.draw(player.name, seed, (step - place) * of_step, CHUNK * of_step, data.arrays)
    batches = range(place * of_step, (place + 1) * of_step)
    return [{name: as_tensor(tensor[batch], dtype) for name, tensor in drawn.items()} for batch in batches]


def as_tensor(numbers: np.ndarray | Tensor, dtype: torch.dtype) -> Tensor:
    """Return numbers as a tensor: floating ones in the precision of the cell, others as int64."""
    tensor = torch.as_tensor(numbers)
    return tensor.to(dtype if tensor.is_floating_point() else torch.int64)


def trained(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are not frozen, in order."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def gradients(network: nn.Module) -> list[Tensor]:
    """Return the gradient of each trained parameter, in order; zero where nothing was differentiated through it."""
    for parameter in trained(network):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in trained(network) if parameter.grad is not None]


def measure(
    loss: Tensor, penalty: Tensor, gradient_P: Tensor, used_P: Tensor, move_P: Tensor
) -> dict[str, float]:
    """Compute the series of the table of curves for one update.

    ``clipped`` is the share of the gradient's non-zero coordinates that were changed, ``cosine`` the cosine between
    the gradient and what was used of it (1 where either is zero).
    """
    present, changed = (gradient_P != 0).sum().double(), (used_P != gradient_P).sum().double()
    product = gradient_P.norm() * used_P.norm()
    numbers = {
        "loss": loss,
        "penalty": penalty,
        "grad_norm": gradient_P.norm(),
        "grad_norm_used": used_P.norm(),
        "clipped": changed / present.clamp(min=1),
        "cosine": gradient_P @ used_P / product if product > 0 else torch.ones(()),
        "update_norm": move_P.norm(),
    }
    return {name: float(tensor.detach()) for name, tensor in numbers.items()}
