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
from gradbench.errors import UsageError
from gradbench.functional.flat_params import Layout, Network, flatten
from gradbench.functional.noise import CounterNoise, subkey
from gradbench.functional.seeding import all_seeded, derive
from gradbench.functional.written_out import written_out
from gradbench.grid.cell import Cell
from gradbench.models import Model, Player
from gradbench.regularizers import Regularizer
from gradbench.training.draws import CHUNK
from gradbench.training.program import build, build_regularizer
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
    """

    step: int
    player: str
    series: dict[str, float]
    networks: dict[str, nn.Module]


def train_one(cell: Cell, data: Data) -> Iterator[Update]:
    """Train one cell on the CPU, and yield after every update of a player.

    Seeds torch's global generator. Leaves out bfloat16's autocast (it trains in float32) and divergence: a stack
    gives these numbers until the cell has diverged.

    Raises:
        UsageError: for an optimizer that is not one of gradbench's own.
    """
    program, regularizer = build(cell.config, data), build_regularizer(cell.config)
    model, dtype = program.model, program.dtype
    examples = {name: as_tensor(array, dtype) for name, array in data.arrays.items()}
    strength = torch.tensor(cell.strength, dtype=dtype)  # threshold or lambda

    with all_seeded(cell.seed, "weights"):
        networks = model.networks()
    apply_weights(networks, initial_weights(cell))  # of a file, where one is given
    networks = {name: network.to(dtype) for name, network in networks.items()}
    optimizers = {name: make_optimizer(cell, network) for name, network in networks.items()}
    (regularized,) = (networks[player.name] for player in model.players if player.regularized)
    layout = Layout(regularized)
    regularizer_state = regularizer.init(flatten(regularized), layout)  # a transform's own state
    carry = {name: tensor.to(dtype) for name, tensor in model.carry().items()}  # a recurrent state

    for step in range(cell.config["steps"]):
        for player in model.players:
            network, optimizer = networks[player.name], optimizers[player.name]
            acting = regularizer if player.regularized else Regularizer()
            draws = draw(model, player, cell.seed, step, data, dtype)
            updates = range(step * player.steps + 1, (step + 1) * player.steps + 1)  # counted from 1
            noise = torch.tensor(
                derive(cell.seed, "noise", player.name)
            )  # what dropout and the like draw from
            with torch.no_grad():
                batches = []
                for t, numbers in zip(updates, draws, strict=True):
                    with CounterNoise(batch_key(noise, torch.tensor([t]))[0]):
                        batches.append(model.batch(player.name, unmoved(networks), examples, numbers))

            for t, batch in zip(updates, batches, strict=True):
                # running statistics move once an update, in the pass of the own loss
                before = unmoved(networks)
                with CounterNoise(subkey(noise, t)):
                    loss, carried = model.loss(player.name, before | {player.name: network}, batch, carry)

                penalty = torch.zeros(())
                if acting.penalty:
                    with CounterNoise(subkey(noise, t)), written_out():  # the same masks
                        f, points = model.probe(player.name, before, batch, carry)
                        penalty = acting.penalty(f, points, strength)

                optimizer.zero_grad()
                (loss + penalty).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                gradient_P, before_P = parameters_to_vector(gradients(network)), flatten(network)

                used_P = gradient_P
                if acting.transform:
                    used_P, regularizer_state = acting.transform(
                        gradient_P, strength, regularizer_state, before_P, layout
                    )
                    vector_to_parameters(used_P, gradients(network))

                optimizer.step()

                if acting.project:
                    projected_P = acting.project(flatten(network), strength, layout)
                    vector_to_parameters(projected_P, trained(network))

                carry = {name: tensor.detach() for name, tensor in carried.items()}
                series = measure(loss, penalty, gradient_P, used_P, flatten(network) - before_P)
                yield Update(step + 1, player.name, series, networks)


def unmoved(networks: Mapping[str, nn.Module]) -> dict[str, Network | nn.Module]:
    """Return the networks with copies of their buffers: what passes through them leaves running statistics alone."""
    return {
        name: Network(
            net, dict(net.named_parameters()), {key: one.clone() for key, one in net.named_buffers()}
        )
        for name, net in networks.items()
    }


def draw(
    model: Model, player: Player, seed: int, step: int, data: Data, dtype: torch.dtype
) -> list[dict[str, Tensor]]:
    """Return the random numbers of each of a player's updates in a step, drawn for CHUNK steps together."""
    place = step % CHUNK
    drawn = model.draw(player.name, seed, (step - place) * player.steps, CHUNK * player.steps, data.arrays)
    updates = range(place * player.steps, (place + 1) * player.steps)
    return [{name: as_tensor(tensor[update], dtype) for name, tensor in drawn.items()} for update in updates]


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


def make_optimizer(cell: Cell, network: nn.Module) -> torch.optim.Optimizer:
    """Return the ``torch.optim`` optimizer that a cell's config describes.

    Raises:
        UsageError: for a ``_target_`` that has no counterpart in ``torch.optim``.
    """
    options = {key: value for key, value in cell.config["optimizer"].items() if key != "name"}
    target, decoupled = options.pop("_target_"), options.pop("decoupled", False)
    kinds: dict[str, type[torch.optim.Optimizer]] = {
        "gradbench.optimizers.sgd": torch.optim.SGD,
        "gradbench.optimizers.adam": torch.optim.AdamW if decoupled else torch.optim.Adam,
        "gradbench.optimizers.rmsprop": torch.optim.RMSprop,
    }
    if target not in kinds:
        raise UsageError(
            f"the reference has no torch.optim optimizer for {target}; it knows {', '.join(kinds)}"
        )
    return kinds[target](trained(network), **options)


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
