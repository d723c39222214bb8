"""Regression with a network of the user's own.

B batch, N examples, O numbers per target.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from gradbench.errors import UsageError, nearest
from gradbench.models import Tensors
from gradbench.models.factory import TRIAL
from gradbench.models.supervised import SupervisedTask

LOSSES: dict[str, Callable[..., Tensor]] = {
    "squared": F.mse_loss,
    "absolute": F.l1_loss,
    "huber": F.huber_loss,
}
"""Value of ``model.loss`` -> function of outputs and targets; Huber's is quadratic up to an error of 1."""


class RegressionTask(SupervisedTask):
    """Predict a number or several; the loss is a mean over the batch and over the numbers of a target.

    A gradient penalty is taken of each example's loss with respect to its input.

    Args:
        loss: ``squared``, ``absolute``, ``huber``, or the node of a function of the user's own.
        keys: as of :class:`SupervisedTask`. The network gives [B] or [B, 1] for targets [N], [B, O] for [N, O].
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        arrays: Mapping[str, np.ndarray],
        loss: object = "squared",
        **keys: Any,
    ) -> None:
        if isinstance(loss, str) and loss not in LOSSES:
            raise UsageError(
                f"model.loss must be one of {', '.join(LOSSES)}, or a function of your own like my_pkg.f, "
                f"got {loss}{nearest(loss, LOSSES)}"
            )
        self.error_function = LOSSES[loss] if isinstance(loss, str) else None
        super().__init__(sizes, arrays, loss=None if self.error_function else loss, **keys)

    def available(self) -> dict[str, object]:
        """Return the arguments that a network gets where its signature has them."""
        numbers = self.target_shape[0] if self.target_shape else 1
        return super().available() | {"outputs": numbers, "num_classes": numbers}

    def expected_outputs(self, targets: Tensor) -> tuple[str, Sequence[tuple[int, ...]] | None]:
        """Return that one number is expected for each of a target; with a loss of the user's own, anything."""
        if self.error_function is None:
            return super().expected_outputs(targets)
        if targets.dim() == 1:
            return "a number per example, [B] or [B, 1]", [(TRIAL,), (TRIAL, 1)]
        shape = tuple(targets.shape)
        further = [shape[:1]] if shape[1:] == (1,) else []
        return f"the numbers of each target, [B, {', '.join(map(str, shape[1:]))}]", [shape, *further]

    def outputs(self, net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Call the network; where it returns one number for a target of one, [B] and [B, 1] are the same."""
        outputs = super().outputs(net, x)
        is_one = self.target_shape in ((), (1,)) and outputs.shape[1:] in ((), (1,))
        return outputs.reshape(-1, *self.target_shape) if is_one else outputs

    def example_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's mean error. Shapes: [B, ...], [B, ...] -> [B]."""
        assert self.error_function is not None
        return per_example(self.error_function(outputs, targets.to(outputs.dtype), reduction="none"))

    def example_metrics(self, outputs: Tensor, targets: Tensor) -> Tensors:
        """Return each example's mean squared and mean absolute error; none if outputs are not shaped as targets."""
        if outputs.shape != targets.shape:
            return {}
        error = outputs - targets
        return {"mse": per_example(error.square()), "mae": per_example(error.abs())}

    def split_metrics(self, outputs: Tensor, targets: Tensor) -> Tensors:
        """Return R², the share of the targets' variance that is explained: a mean over the numbers of a target.

        NaN or infinite where a number is the same in all targets of a split.
        """
        if outputs.shape != targets.shape:
            return {}
        targets = targets.to(outputs.dtype)
        left = (outputs - targets).square().sum(dim=0)
        whole = (targets - targets.mean(dim=0)).square().sum(dim=0)
        return {"r2": (1 - left / whole).mean()}


def per_example(errors: Tensor) -> Tensor:
    """Return the mean of each example's errors. Shapes: [B, ...] -> [B]."""
    return errors.flatten(start_dim=1).mean(dim=1) if errors.dim() > 1 else errors
