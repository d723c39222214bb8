"""Models: tasks with networks. A task says what is learned: batches, loss, metrics, where a penalty is measured.

Everything here is written for ONE cell; the training loop adds the axis of K cells with ``vmap``. No model knows
regularizers, optimizers, stacks or files. To add a model, write one file with a :class:`Task` and one YAML in
``conf/model``. Most begin with :class:`gradbench.models.supervised.SupervisedTask`, which needs the loss alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
from torch import Tensor, nn

from gradbench.errors import UsageError
from gradbench.functional.flat_params import Network

Networks = Mapping[str, Network | nn.Module]
"""Player -> network, which can be called and has ``parameters()`` and ``get_parameter(name)``."""

Tensors = dict[str, Tensor]

Values = Callable[[Tensor], Tensor]
"""A function of points [B, ...] with one value each, [B]."""

Probe = tuple[Values | Mapping[str, Values], Tensor | Mapping[str, Tensor]]
"""What a penalty takes the gradient of, and the points where; each may stand by the names of the points."""

INTERACTION = "interaction"
"""The purpose of the random numbers of interactions with an environment."""
SNAPSHOTS = "snapshots/"
"""How the names of arrays begin that are kept of a few evaluations over training; of others the last one is kept."""


@dataclass(frozen=True)
class Player:
    """A set of parameters with its own loss and optimizer.

    Args:
        name: key of its network in :data:`Networks`.
        steps: updates per training step; more than one for a WGAN's critic.
        regularized: whether regularizers act on it where ``regularizer.players`` does not say otherwise. A penalty is
            measured of this one alone.
    """

    name: str
    steps: int = 1
    regularized: bool = True


class Task(ABC):
    """A training task of one cell: networks, random draws, batches, loss and evaluation.

    These methods have defaults, which a model may replace: :meth:`carry` (no state between updates), :meth:`interact`
    (no environment), :meth:`evaluation_carry` (as :meth:`carry`), :meth:`probe` (no penalty),
    :meth:`sample` (nothing to show), :meth:`summarize` (no metrics beyond those of :meth:`evaluate`),
    :meth:`metric_names` (unknown) and :meth:`check_networks` (nothing to check). All others are abstract.

    The constructor gets the keys of the model's YAML and, where its signature has them, ``sizes`` (the data's counts)
    and ``arrays`` (the data's arrays, read for their types and shapes alone).

    Attributes:
        players: in the order in which they are trained; exactly one is regularized.
        probe_points: names of the points at which a penalty can be measured, the default first: the keys of what
            :meth:`probe` returns. Empty where it returns one tensor.
        probe_around: the points that ``regularizer.points=around`` moves by noise; ``None`` where that is not offered.
        fuses: whether :meth:`networks` offers faster kernels, which run one network at a time and can be
            differentiated only once.
        is_heavy: whether the tensors of one network's step are so large that a CPU gains nothing by stacking them:
            there the networks run one after another.
        needs_trial: whether a step is tried out, as of a user's network: for what ``vmap`` may not stack.
        has_own_code: whether :meth:`check_networks` and :meth:`metric_names` call the networks, so that these must
            have values.
        width_tolerance: largest relative difference between a cell's numbers in stacks of different widths on a CPU,
            after one step in float32. 0 is a promise for any number of steps: the same numbers, bit for bit.
    """

    players: tuple[Player, ...]
    probe_points: tuple[str, ...] = ()
    probe_around: str | None = None
    fuses: bool = False
    is_heavy: bool = False
    needs_trial: bool = False
    has_own_code: bool = False
    width_tolerance: float = 1e-3

    @abstractmethod
    def networks(self, fused: bool = False) -> dict[str, nn.Module]:
        """Return new networks, one per player, initialised from torch's global generator, which the caller seeds.

        Args:
            fused: use the faster kernels that ``fuses`` announces; other models ignore it.
        """

    @abstractmethod
    def draw(
        self, purpose: str, seed: int, first: int, count: int, data: Mapping[str, np.ndarray]
    ) -> Tensors:
        """Draw the random numbers of ``count`` batches, beginning with batch ``first``, on the CPU.

        Args:
            purpose: a player's name; ``evaluation``, whose single draw serves every evaluation; or, of a model that
                interacts, ``interaction``, with one draw per training step.
            seed: the cell's seed.
            first: number of batches that the player had before; a multiple of a fixed chunk length.
            count: number of batches; an update takes one, or ``accumulate``.
            data: the data's arrays, read for their lengths alone.

        Returns:
            Tensors with leading axis ``count``: indices of examples, noise, interpolation weights. Of a model that
            interacts, those for interactions and for evaluations have a second axis: one row per interaction.
        """

    @abstractmethod
    def batch(self, player: str, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Make the batch of one update from the data, the draw and other players' networks, without gradients.

        The batches of all updates that a player takes in a step are made together, before the first of them. Data has
        the transitions of the step's interactions, too.
        """

    def carry(self) -> Tensors:
        """Return the state that is carried from one update to the next, as it is before the first; none by default."""
        return {}

    def interact(self, nets: Networks, carry: Tensors, draw: Tensors) -> tuple[Tensors, Tensors]:
        """Interact with an environment once; return the transition and the carried state. Without gradients.

        A training step begins with as many interactions as its draw has rows. So does an evaluation, from
        :meth:`evaluation_carry`. What they return is stacked, [interactions, ...], and stands beside the data in
        :meth:`batch` and :meth:`evaluate`. The environment's state is carried, its first states stand in the draw.
        """
        raise NotImplementedError

    def evaluation_carry(self) -> Tensors:
        """Return what an evaluation's first interaction is given: by default what the first update is."""
        return self.carry()

    @property
    def interacts(self) -> bool:
        """Whether the model learns from interactions with an environment."""
        return type(self).interact is not Task.interact

    @abstractmethod
    def loss(self, player: str, nets: Networks, batch: Tensors, carry: Tensors) -> tuple[Tensor, Tensors]:
        """Return the player's scalar loss and the carried state after this update."""

    def probe(self, player: str, nets: Networks, batch: Tensors, carry: Tensors) -> Probe:
        """Return a function f: [B, ...] -> [B], and the points [B, ...] at which a penalty takes f's gradient.

        Several kinds of points stand in a dict by name, as ``probe_points`` names them; so do functions, where each
        kind has its own.

        Raises:
            UsageError: always, if the model does not replace this method.
        """
        raise UsageError(f"{type(self).__name__} has no method probe, which says where a penalty is measured")

    @abstractmethod
    def evaluate(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Evaluate the networks: scalars are metrics, larger tensors go to :meth:`summarize`.

        Of a model that interacts, data has what training carries and the transitions of the evaluation, too.
        """

    def sample(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Return what the trained networks make, such as text, for :meth:`summarize`; called once, at the end."""
        return {}

    def summarize(
        self, arrays: Mapping[str, np.ndarray], data: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Compute further metrics on the host.

        Args:
            arrays: the evaluation's tensors that are no scalars; at the end those of :meth:`sample` as well.
            data: the data's arrays.

        Returns:
            Metrics, and the arrays to store; none of either by default. Of an array whose name begins with
            :data:`SNAPSHOTS`, what a few evaluations gave is stored, [E, ...], with their ``snapshots/steps``.
        """
        return {}, {}

    def metric_names(self, networks: Mapping[str, nn.Module]) -> frozenset[str] | None:
        """Return the names of all metrics, known without training; ``None`` (the default) if they are not.

        Args:
            networks: those that :meth:`check_networks` has checked.
        """
        return None

    def check_networks(self, networks: Mapping[str, nn.Module], penalised: bool) -> None:
        """Call the networks once with a few examples, and check what comes out.

        Args:
            networks: from :meth:`networks`, on a CPU; without values unless the model has code of the user's own.
            penalised: whether the regularizer has a penalty.

        Raises:
            UsageError: if a network does not fit the task or the data, or if no penalty can be measured.
        """
        if penalised and type(self).probe is Task.probe:
            self.probe("", {}, {}, {})


class MeanLoss(Task):
    """A model whose loss is a mean over examples, and whose penalty is taken of each example's own loss.

    It implements :meth:`losses`; :meth:`loss` and :meth:`probe` follow from it, and one forward pass serves both.
    :meth:`further_probes` has a default.
    """

    probe_points: tuple[str, ...] = ("inputs",)
    probe_around = "inputs"

    @abstractmethod
    def losses(
        self, player: str, nets: Networks, batch: Tensors, carry: Tensors
    ) -> tuple[Callable[[Tensor], tuple[Tensor, Tensors]], Tensor]:
        """Return a function of the inputs, and the inputs [B, ...].

        The function returns each example's loss [B], which depends on no other example's input, and the carried state.
        """

    def further_probes(
        self, player: str, nets: Networks, batch: Tensors
    ) -> Mapping[str, tuple[Values, Tensor]]:
        """Return the functions and points by name that ``probe_points`` names after the inputs; none by default."""
        return {}

    def loss(self, player: str, nets: Networks, batch: Tensors, carry: Tensors) -> tuple[Tensor, Tensors]:
        """Return the mean loss and the carried state."""
        f, inputs = self.losses(player, nets, batch, carry)
        losses_B, carried = f(inputs)
        return losses_B.mean(), carried

    @final
    def probe(self, player: str, nets: Networks, batch: Tensors, carry: Tensors) -> Probe:
        """Return the loss per example as a function of the inputs, and the inputs; and further ones by name."""
        f, inputs = self.losses(player, nets, batch, carry)
        if len(self.probe_points) < 2:
            return lambda x: f(x)[0], inputs
        named = {
            self.probe_points[0]: (lambda x: f(x)[0], inputs),
            **self.further_probes(player, nets, batch),
        }
        return {name: f for name, (f, _) in named.items()}, {
            name: points for name, (_, points) in named.items()
        }
