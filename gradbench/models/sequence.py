"""A recurrent network that reads a sequence and answers at its end.

B batch, T time, D features of a step, H hidden, C answers (classes, or 1 for a number).
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradbench.models import MeanLoss, Networks, Player, Tensors
from gradbench.models.networks.lstm import LSTM
from gradbench.models.networks.rnn import RNN
from gradbench.models.sampling import epoch_indices, rows

CELLS: dict[str, Callable[[int, int], nn.Module]] = {
    "rnn": RNN,
    "lstm": lambda inputs, hidden: LSTM(inputs, hidden, 1),
}

TOLERANCE = 0.04
"""A number is right when it is off by no more (Hochreiter and Schmidhuber 1997, on the same scale)."""

SOLVED = 0.99
"""A task is solved once more than this share of the test sequences is answered right (Pascanu et al. 2013)."""


class Reader(nn.Module):
    """A recurrent layer, and a linear one on its last state.

    Args:
        inputs: D.
        hidden: H.
        answers: C.
        cell: a key of ``CELLS``.
        radius: of the disc in which the eigenvalues of each new recurrent H × H matrix lie.
    """

    def __init__(self, inputs: int, hidden: int, answers: int, cell: str, radius: float) -> None:
        super().__init__()
        self.recurrent = CELLS[cell](inputs, hidden)
        self.decoder = nn.Linear(hidden, answers)
        # circular law: entries of variance s² have eigenvalues in a disc of radius s √H; U(±1/√H) has s = 1/√(3H)
        with torch.no_grad():
            self.recurrent.get_parameter("weight_hh_l0").mul_(radius * math.sqrt(3))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the answers after the last step, [B, C]."""
        _, state = self.recurrent(x_BTD)
        h = state if isinstance(state, Tensor) else state[0]  # an LSTM's state is a pair
        answers: Tensor = self.decoder(h[-1])
        return answers


class SequenceReading(MeanLoss):
    """Classify a sequence, or give a number for it, after its last step.

    The loss is a mean over the batch: of the cross-entropy in nats where the data's answers are classes, of the
    squared error where they are numbers. Gradients flow back through all T steps. A gradient penalty is taken of
    each example's loss with respect to its input sequence.

    Args:
        sizes: of the data: ``features`` (D), ``length`` (T), ``answers`` (C).
        cell: ``rnn`` (tanh, as in Pascanu et al., arXiv:1211.5063, 2013) or ``lstm``.
        hidden: H.
        radius: spectral radius of the initial recurrent weights, up to terms that vanish for large H (for an LSTM,
            of each gate's); torch draws them with 1/√3, and gradients can grow with T from about 1 on.
        batch_size: B.
    """

    players = (Player("reader"),)

    def __init__(
        self, sizes: Mapping[str, int], cell: str, hidden: int, radius: float, batch_size: int
    ) -> None:
        if cell not in CELLS:
            raise ValueError(f"model.cell must be one of {', '.join(CELLS)}, got {cell}")
        if min(hidden, batch_size) < 1 or not 0 <= radius < math.inf:
            raise ValueError(
                f"model.hidden and batch_size must be >= 1, model.radius finite and >= 0, "
                f"got {hidden}, {batch_size} and {radius}"
            )
        self.shape = (sizes["features"], hidden, sizes["answers"], cell, radius)
        self.length, self.batch_size = sizes["length"], batch_size

    def networks(self, fused: bool = False) -> dict[str, nn.Module]:
        """Return the reader."""
        return {"reader": Reader(*self.shape)}

    def draw(
        self, purpose: str, seed: int, first: int, count: int, data: Mapping[str, np.ndarray]
    ) -> Tensors:
        """Return the examples' indices, [count, B]; an evaluation needs none."""
        if purpose == "evaluation":
            return {}
        return {"index": epoch_indices(seed, len(data["train/x"]), self.batch_size, first, count)}

    def batch(self, player: str, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Return sequences [B, T, D] and answers [B]."""
        return {name: rows(data[f"train/{name}"], draw["index"]) for name in ("x", "y")}

    def carry(self) -> Tensors:
        """Return nothing: every sequence starts from a zero state."""
        return {}

    def losses(
        self, player: str, nets: Networks, batch: Tensors, carry: Tensors
    ) -> tuple[Callable[[Tensor], tuple[Tensor, Tensors]], Tensor]:
        """Return the loss per example as a function of the input sequences, and the sequences."""
        return lambda x: (losses(nets[player](x), batch["y"]), carry), batch["x"]

    def evaluate(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Return loss and share of right answers on both splits, and whether the task is solved (1 or 0).

        Of the training split as many sequences are read as the test split has.
        """
        metrics: Tensors = {}
        for split in ("train", "test"):
            read = slice(len(data["test/y"]))
            answers, y = nets["reader"](data[f"{split}/x"][read]), data[f"{split}/y"][read]
            metrics[f"{split}/loss"] = losses(answers, y).mean()
            metrics[f"{split}/accuracy"] = accuracy = right(answers, y).mean()
        metrics["test/solved"] = torch.where(
            accuracy.isnan(), accuracy, (accuracy > SOLVED).to(accuracy.dtype)
        )
        return metrics

    def summarize(
        self, arrays: Mapping[str, np.ndarray], data: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Return nothing more: every metric is a scalar."""
        return {}, {}


def losses(answers: Tensor, y: Tensor) -> Tensor:
    """Return each example's loss. Shapes: answers [B, C], y [B] -> [B]. Numbers are floating, classes are not."""
    if y.is_floating_point():
        return (answers.squeeze(-1) - y).square()
    return F.cross_entropy(answers, y, reduction="none")


def right(answers: Tensor, y: Tensor) -> Tensor:
    """Return 1 where an answer is right, 0 where it is wrong. Shapes: answers [B, C], y [B] -> [B].

    NaN where the number, or the largest of the logits, is not finite: then there is no answer.
    """
    if y.is_floating_point():
        size = (answers.squeeze(-1) - y).abs()
        hits = size <= TOLERANCE
    else:
        size, likeliest = answers.max(dim=1)
        hits = likeliest == y
    return torch.where(size.isfinite(), hits.to(answers.dtype), torch.nan)
