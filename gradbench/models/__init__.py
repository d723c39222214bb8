"""What is trained: its networks, its loss, where its gradient is measured, and how it is judged.

Everything here is written for ONE network and one cell; the training loop adds the axis of K cells with ``vmap``.
To add a model, write one file with a :class:`Model` and one YAML in ``conf/model``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
from torch import Tensor, nn

from gradbench.functional.flat_params import Network

Networks = Mapping[str, Network | nn.Module]
"""Every player's network: called with its inputs, asked for ``parameters()`` or ``get_parameter(name)``."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Player:
    """A set of parameters with its own loss and optimizer.

    Args:
        name: the key of its network.
        steps: updates per training step (a WGAN's critic takes several).
        regularized: whether the regularizer acts on this player.
    """

    name: str
    steps: int = 1
    regularized: bool = True


class Model(ABC):
    """One training problem. Abstract; a model implements every method it needs, and overrides none.

    Attributes:
        players: in the order in which they are trained; exactly one is regularized.
        fuses: there are faster kernels for one network at a time, which can be differentiated once.
    """

    players: tuple[Player, ...]
    fuses: bool = False

    @abstractmethod
    def networks(self, fused: bool = False) -> dict[str, nn.Module]:
        """Return new networks, one per player; weights come from torch's global generator, which the caller seeds."""

    @abstractmethod
    def draw(
        self, purpose: str, seed: int, first: int, count: int, data: Mapping[str, np.ndarray]
    ) -> Tensors:
        """Return the random numbers of ``count`` updates from update ``first`` on, on the CPU.

        Args:
            purpose: a player's name, or ``evaluation`` (then one draw serves every evaluation).
            seed: the cell's seed.
            first: number of updates this player has had before; a multiple of a fixed chunk length.
            count: how many updates to draw for.
            data: the data's arrays, for their lengths.

        Returns:
            Tensors with leading axis ``count``: indices of examples, noise, interpolation weights.
        """

    @abstractmethod
    def batch(self, player: str, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Return the batch of one update: examples picked from the data, other players' samples. No gradient.

        The batches of all updates that a player takes in a step are made together, before the first of them.
        """

    @abstractmethod
    def carry(self) -> Tensors:
        """Return what is carried from one update to the next, before the first (a recurrent state); often empty."""

    @abstractmethod
    def loss(self, player: str, nets: Networks, batch: Tensors, carry: Tensors) -> tuple[Tensor, Tensors]:
        """Return the player's scalar loss and what is carried on."""

    @abstractmethod
    def probe(
        self, player: str, nets: Networks, batch: Tensors, carry: Tensors
    ) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Return a function f: [B, ...] -> [B] and the points [B, ...] where a penalty measures its gradient."""

    @abstractmethod
    def evaluate(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Return what an evaluation measures: scalars are metrics, anything larger is for :meth:`summarize`."""

    @abstractmethod
    def summarize(
        self, arrays: Mapping[str, np.ndarray], data: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Return further metrics computed on the host from an evaluation's arrays, and the arrays worth keeping."""


class MeanLoss(Model):
    """A model whose loss is a mean over examples, each of which a penalty is taken of: one pass serves both."""

    @abstractmethod
    def losses(
        self, player: str, nets: Networks, batch: Tensors, carry: Tensors
    ) -> tuple[Callable[[Tensor], tuple[Tensor, Tensors]], Tensor]:
        """Return a function of the inputs, and the inputs [B, ...].

        The function gives each example's loss [B], which depends on no other example's input, and what is carried on.
        """

    @final
    def loss(self, player: str, nets: Networks, batch: Tensors, carry: Tensors) -> tuple[Tensor, Tensors]:
        """Return the mean loss and what is carried on."""
        f, inputs = self.losses(player, nets, batch, carry)
        losses_B, carried = f(inputs)
        return losses_B.mean(), carried

    @final
    def probe(
        self, player: str, nets: Networks, batch: Tensors, carry: Tensors
    ) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Return the loss per example as a function of the inputs, and the inputs."""
        f, inputs = self.losses(player, nets, batch, carry)
        return lambda x: f(x)[0], inputs
