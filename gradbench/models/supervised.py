"""Tasks that train one network on examples with targets, in shuffled epochs.

B batch, N examples.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Generator, Tensor, nn

from gradbench.errors import UsageError
from gradbench.functional.seeding import generator
from gradbench.models import MeanLoss, Networks, Player, Tensors
from gradbench.models.factory import (
    TRIAL,
    NetworkFactory,
    add_own,
    check_tensor,
    check_values,
    load_function,
    load_functions,
    try_network,
)
from gradbench.models.sampling import check_batch_size, epoch_indices, gather_rows

SPLITS = ("train", "test")

EVALUATION_BATCH = 2048
"""Examples that are evaluated at once; it bounds the memory that a large split takes."""


class SupervisedTask(MeanLoss):
    """Inputs ``x`` [N, ...], targets ``y`` [N, ...], and a network of the user's own; every example once per epoch.

    A task of your own defines :meth:`example_losses` alone; further methods have defaults: :meth:`example_metrics`,
    :meth:`split_metrics`, and :meth:`noise` with :meth:`examples`, which make inputs and targets out of the data.
    The loss is the mean over the batch; a penalty is taken of each example's loss with respect to its input. Without
    ``needs_targets``, y is x where the data have no targets.

    Args:
        sizes: sizes of the data.
        arrays: the data's arrays ``train/x``, ``train/y``, ``test/x`` and ``test/y``; read for types and shapes alone.
        network: node of the config that names the network; or a function that builds one, of :meth:`available`.
        batch_size: B.
        loss: node of a function ``(outputs [B, ...], targets [B, ...]) -> [B]`` instead of :meth:`example_losses`.
        metrics: name -> node of a function ``(outputs [N, ...], targets [N, ...])`` of one split that returns one
            value per example, which are averaged, or one number; reported as ``train/name`` and ``test/name``.
    """

    players: tuple[Player, ...] = (Player("network"),)
    needs_targets: bool = True

    def __init__(
        self,
        sizes: Mapping[str, int],
        arrays: Mapping[str, np.ndarray],
        network: object,
        batch_size: int,
        loss: object = None,
        metrics: Mapping[str, object] | None = None,
    ) -> None:
        check_batch_size(batch_size, arrays["train/x"])
        self.sizes, self.batch_size = sizes, batch_size
        targets = "y" if self.needs_targets or "train/y" in arrays else "x"
        self.names = ("x", targets)
        x, y = arrays["train/x"], arrays[f"train/{targets}"]
        self.shape, self.target_shape = x.shape[1:], y.shape[1:]
        self.x_type, self.y_type = as_torch(x), as_torch(y)
        self.build = network if callable(network) else NetworkFactory(network, "model.network")
        self.typed = self.build.typed if isinstance(self.build, NetworkFactory) else "the network"
        self.loss_function = load_function(loss, "model.loss") if loss is not None else None
        self.own_metrics = load_functions(metrics, "model.metrics")
        has_own_task = not type(self).__module__.startswith("gradbench.")
        self.has_own_code = has_own_task or bool(self.own_metrics) or not callable(network)
        has_split_metrics = type(self).split_metrics is not SupervisedTask.split_metrics
        self.needs_splits = has_split_metrics or bool(self.own_metrics)

    # ---- what a task defines -----------------------------------------------------------------------------

    def example_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's loss. Shapes: outputs and targets [B, ...] -> [B]."""
        raise UsageError(
            f"{type(self).__name__} has no method example_losses, and no loss was given; type model.loss=my_pkg.f"
        )

    def example_metrics(self, outputs: Tensor, targets: Tensor) -> Tensors:
        """Return metrics of each example by name, [B] each, which are averaged over a split; none by default."""
        return {}

    def split_metrics(self, outputs: Tensor, targets: Tensor) -> Tensors:
        """Return metrics of a whole split by name, scalars; none by default. Shapes: [N, ...], [N, ...]."""
        return {}

    def noise(self, count: int, random: Generator) -> Tensors:
        """Draw the random numbers that :meth:`examples` takes for ``count`` examples, [count, ...] each."""
        return {}

    def examples(self, x: Tensor, y: Tensor, noise: Tensors) -> tuple[Tensor, Tensor]:
        """Return the inputs and the targets of a network, made of the data and of :meth:`noise`; by default x and y."""
        return x, y

    def available(self) -> dict[str, object]:
        """Return the arguments that a network gets where its signature has them."""
        counts = {name: count for name, count in self.sizes.items() if name.isidentifier()}
        return {"inputs": math.prod(self.shape)} | counts | {"shape": tuple(self.shape)}

    def expected_outputs(self, targets: Tensor) -> tuple[str, Sequence[tuple[int, ...]] | None]:
        """Return what is expected of a network, in words, and the shapes that fit (``None``: any)."""
        return "the outputs of each example, [B, ...]", None

    # ---- what follows from it ----------------------------------------------------------------------------

    def networks(self, fused: bool = False) -> dict[str, nn.Module]:
        """Return the user's network."""
        return {self.players[0].name: self.build(**self.available())}

    def draw(
        self, purpose: str, seed: int, first: int, count: int, data: Mapping[str, np.ndarray]
    ) -> Tensors:
        """Draw the indices of the examples, int64 [count, B] (an evaluation needs none), and their noise."""
        is_evaluation = purpose == "evaluation"
        longest = max(len(data[f"{split}/x"]) for split in SPLITS)
        B = min(EVALUATION_BATCH, longest) if is_evaluation else self.batch_size
        noise = self.noise(count * B, generator(seed, "noise", purpose, first))
        drawn = {
            f"noise/{name}": numbers.view(count, B, *numbers.shape[1:]) for name, numbers in noise.items()
        }
        if is_evaluation:
            return drawn
        return {"index": epoch_indices(seed, len(data["train/x"]), B, first, count)} | drawn

    def batch(self, player: str, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Gather inputs ``x`` [B, ...] and targets ``y`` [B, ...]."""
        x, y = (gather_rows(data[f"train/{name}"], draw["index"]) for name in self.names)
        x, y = self.examples(x, y, noise_of(draw))
        return {"x": x, "y": y}

    def outputs(self, net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Call the network, and return its outputs in a precision that a loss can be computed in."""
        return precise(net(x))

    def losses_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's loss by the given function or the task's own, [B]."""
        losses: Tensor = (self.loss_function or self.example_losses)(outputs, targets)
        return losses

    def losses(
        self, player: str, nets: Networks, batch: Tensors, carry: Tensors
    ) -> tuple[Callable[[Tensor], tuple[Tensor, Tensors]], Tensor]:
        """Return the function inputs -> loss of each example [B], and the inputs."""
        return lambda x: (self.losses_of(self.outputs(nets[player], x), batch["y"]), carry), batch["x"]

    def evaluate(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Compute loss and metrics on both splits."""
        net = nets[self.players[0].name]
        metrics: Tensors = {}
        for split in SPLITS:
            outputs, targets = [], []
            values: dict[str, list[Tensor]] = {}
            for x, y in self.chunks(split, data, draw):
                found = self.outputs(net, x)
                if self.needs_splits:
                    outputs.append(found)
                    targets.append(y)
                of_part = {"loss": self.losses_of(found, y)} | self.example_metrics(found, y)
                for name, value in of_part.items():
                    values.setdefault(name, []).append(value.to(found.dtype))
            of_split = {name: torch.cat(parts).mean() for name, parts in values.items()}
            if self.needs_splits:
                of_split |= self.whole_metrics(torch.cat(outputs), torch.cat(targets))
            metrics |= {f"{split}/{name}": value for name, value in of_split.items()}
        return metrics

    def whole_metrics(self, outputs: Tensor, targets: Tensor) -> Tensors:
        """Return the metrics that need a whole split, the user's own among them."""
        own = {name: averaged(f(outputs, targets), outputs) for name, f in self.own_metrics.items()}
        return self.split_metrics(outputs, targets) | own

    def chunks(self, split: str, data: Tensors, draw: Tensors) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the inputs and targets of a split, a part of it at a time."""
        parts = (torch.split(data[f"{split}/{name}"], EVALUATION_BATCH) for name in self.names)
        for x, y in zip(*parts, strict=True):
            yield self.examples(x, y, {name: part[: len(x)] for name, part in noise_of(draw).items()})

    def metric_names(self, networks: Mapping[str, nn.Module]) -> frozenset[str]:
        """Return the names of all metrics, of both splits; those of example and split metrics from a trial."""
        outputs, y = self.try_outputs(networks)
        found = {"loss"} | self.example_metrics(outputs, y).keys() | self.split_metrics(outputs, y).keys()
        return frozenset(f"{split}/{name}" for split in SPLITS for name in add_own(found, self.own_metrics))

    def check_networks(self, networks: Mapping[str, nn.Module], penalised: bool) -> None:
        """Check the network's outputs, the losses and the metrics of a few examples."""
        if penalised and not self.x_type.is_floating_point:
            raise UsageError(
                "a penalty needs inputs that can be moved a little, and these data have whole numbers; "
                "choose a regularizer without penalty, or data with floating numbers"
            )
        if not self.has_own_code:
            return
        outputs, y = self.try_outputs(networks)
        loss = "model.loss" if self.loss_function else f"{type(self).__name__}.example_losses"
        check_values(loss, self.losses_of, (outputs, y), one_each=True)
        for name, function in self.own_metrics.items():
            check_values(f"model.metrics.{name}", function, (outputs, y))

    def try_outputs(self, networks: Mapping[str, nn.Module]) -> tuple[Tensor, Tensor]:
        """Return the network's outputs for a few examples, of random numbers in [0, 1), and their targets.

        Raises:
            UsageError: if the network raises, or its outputs do not fit.
        """
        (network,) = networks.values()
        device = next(network.parameters()).device
        with torch.device("cpu"):
            random = generator(0, "trial")
            noise = self.noise(TRIAL, random)
            x = torch.rand(TRIAL, *self.shape, generator=random).to(
                device, self.x_type
            )  # whole numbers: zeros
        y = torch.zeros(TRIAL, *self.target_shape, dtype=self.y_type, device=device)
        x, y = self.examples(x, y, {name: numbers.to(device) for name, numbers in noise.items()})

        def tried(x: Tensor) -> Tensor:
            outputs = try_network(self.typed, network, x)
            check_tensor(self.typed, outputs, *self.expected_outputs(y))
            found: Tensor = outputs
            return found

        return self.outputs(tried, x), y


def precise(outputs: Tensor) -> Tensor:
    """Return outputs in float32 that are in bfloat16, which is too coarse for a loss."""
    return outputs.float() if outputs.dtype == torch.bfloat16 else outputs


def averaged(values: Tensor, outputs: Tensor) -> Tensor:
    """Return the mean of one value per example, or one number as it is, in the type of the outputs."""
    values = values.to(outputs.dtype)  # whether something is true has no mean
    return values.mean() if values.dim() else values


def noise_of(draw: Tensors) -> Tensors:
    """Return the random numbers of :meth:`SupervisedTask.noise` out of a draw."""
    return {
        name.removeprefix("noise/"): numbers for name, numbers in draw.items() if name.startswith("noise/")
    }


def as_torch(array: np.ndarray) -> torch.dtype:
    """Return the type that a trial gives the numbers of an array: float32, or int64 for whole numbers."""
    return torch.float32 if array.dtype.kind == "f" else torch.int64
