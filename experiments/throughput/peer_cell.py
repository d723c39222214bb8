"""Shared parts of the three plain scripts: flat parameters, clipping, the record, and a table per cell.

P parameters of a network.
"""

import csv
import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch._dynamo  # torch.optim imports it at its first step; here it does not count as training
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, parameters_to_vector, vector_to_parameters

from gradbench.data import Data
from gradbench.training.telemetry import COMPARE_EVERY

CPU = torch.device("cpu")
SERIES = ("loss", "penalty", "grad_norm", "grad_norm_used", "clipped", "cosine", "update_norm")
BRIEF = SERIES[:3]
"""What :func:`update` records."""


class Treatment(NamedTuple):
    """A regularizer (``none``, ``clip_norm``, ``clip_value`` or ``gp``), and its threshold or weight."""

    name: str
    strength: float


@dataclass
class Record:
    """The training record of one cell.

    On a CPU values become numbers at once, since reading them does not wait, and a diverged cell stops at that step. On
    a GPU they stay tensors until :meth:`settle`, which waits once for many of them.

    Attributes:
        factor: the loss limit is ``first + (factor - 1) * max(|first|, 1)``.
        patience: consecutive steps above the limit after which a cell has diverged.
        fall: no rule of these models.
        rows: one per step, in the order of :data:`SERIES` and then the series that a model adds.
        evaluations: step -> metric -> value.
        diverged_at: step of divergence, 0 for none.
        device: device that the cell trains on.
        loss_limit: the limit, once the first loss is known.
        above: consecutive steps above the limit so far.
        settled: number of rows that are numbers.
    """

    factor: float
    patience: int
    fall: None = None
    rows: list[tuple[float, ...]] = field(default_factory=list)
    evaluations: dict[int, dict[str, float]] = field(default_factory=dict)
    diverged_at: int = 0
    device: torch.device = CPU
    loss_limit: float = math.nan
    above: int = 0
    settled: int = 0

    def __post_init__(self) -> None:
        self.waits = self.device.type == "cpu"

    def read(self, value: Tensor) -> Any:
        """Return a value as a number on a CPU, and as a detached tensor on a GPU."""
        return value.item() if self.waits else value.detach()

    def norm_of(self, vector: Tensor) -> Any:
        """Return the L2 norm."""
        return self.read(torch.linalg.vector_norm(vector))

    def compares(self, settings: Mapping[str, Any]) -> bool:
        """Return whether this is one of the steps at which gradbench compares gradients before and after clipping."""
        step = len(self.rows) + 1
        return step in (1, settings["steps"]) or step % COMPARE_EVERY == 0

    def diverges(self, loss: Any, penalty: Any, norm: Any) -> bool:
        """Return whether the cell diverges with these values; false on a GPU, where they are not known yet."""
        return self.waits and self.is_over(loss, penalty, norm)

    def settle(self) -> bool:
        """Convert the rows that are still tensors to numbers, up to a divergence; return whether there was one."""
        new, self.rows = self.rows[self.settled :], self.rows[: self.settled]
        tensors = [value for row in new for value in row if isinstance(value, Tensor)]
        values = iter(torch.stack(tensors).tolist() if tensors else ())
        for row in new:
            numbers = tuple(next(values) if isinstance(value, Tensor) else value for value in row)
            over = not self.waits and self.is_over(*numbers[:3])
            self.rows.append(numbers)
            if over:
                return True
        self.settled = len(self.rows)
        return False

    def is_over(self, loss: float, penalty: float, norm: float) -> bool:
        """Return whether the cell diverges with the values of its next row."""
        if not self.rows:
            self.loss_limit = loss + (self.factor - 1) * max(abs(loss), 1.0)
        self.above = self.above + 1 if loss > self.loss_limit else 0
        if math.isfinite(loss + penalty) and math.isfinite(norm) and self.above < self.patience:
            return False
        self.diverged_at = len(self.rows) + 1
        return True


def flatten(net: nn.Module) -> nn.Parameter:
    """Make a network's parameters views of one vector [P], and return the vector."""
    weights = parameters_to_vector(net.parameters()).detach()
    vector_to_parameters(weights, net.parameters())
    return nn.Parameter(weights)


def join(gradients: Iterable[Tensor]) -> Tensor:
    """Concatenate gradients to one vector [P]."""
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def clip(
    weights: nn.Parameter, treatment: Treatment, record: Record, compares: bool
) -> tuple[Any, Any, Any, Any]:
    """Clip the gradient in place.

    Returns:
        Its norm before and after, the share of non-zero coordinates that were changed, and the cosine between the two.
        All but the first are NaN for ``clip_value`` at steps without a comparison.
    """
    raw = weights.grad
    assert raw is not None
    total = torch.linalg.vector_norm(raw)
    norm = record.read(total)
    if treatment.name == "clip_norm" and not record.waits:
        clip_grads_with_norm_([weights], treatment.strength, total)
        scaled = (treatment.strength / (norm + 1e-6)).clamp(max=1.0)
        return norm, norm * scaled, (scaled < 1).to(norm.dtype), 1.0
    if treatment.name == "clip_norm":
        scale = min(1.0, treatment.strength / (norm + 1e-6))
        if scale < 1:  # the second half of clip_grad_norm_, which would take the norm again
            clip_grads_with_norm_([weights], treatment.strength, total)
        return norm, norm * scale, float(scale < 1), 1.0
    if treatment.name != "clip_value":
        return norm, norm, 0.0, 1.0
    if not compares:
        clip_grad_value_([weights], treatment.strength)
        return norm, math.nan, math.nan, math.nan
    weights.grad = used = raw.clone()
    clip_grad_value_([weights], treatment.strength)
    used_total = torch.linalg.vector_norm(used)
    share = (used - raw).count_nonzero() / raw.count_nonzero().clamp(min=1)
    cosine = torch.nan_to_num(torch.dot(raw, used) / (total * used_total), nan=1.0)
    return norm, record.read(used_total), record.read(share.to(raw.dtype)), record.read(cosine)


def update(
    net: nn.Module, loss: Tensor, optimizer: torch.optim.Optimizer, treatment: Treatment, record: Record
) -> tuple[Any, Any, Any]:
    """Update a network by the gradient of a loss, its norm clipped or not; return the values of :data:`BRIEF`.

    The step is not taken if the cell diverges with them.
    """
    optimizer.zero_grad()
    loss.backward()
    limit = treatment.strength if treatment.name == "clip_norm" else math.inf
    norm = record.read(nn.utils.clip_grad_norm_(net.parameters(), limit))
    row = record.read(loss), 0.0, norm
    if not record.diverges(*row):
        optimizer.step()
    return row


class Perceptron(nn.Module):
    """``depth`` hidden layers of rectified linear units."""

    def __init__(self, inputs: int, hidden: int, depth: int, outputs: int) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * depth, outputs]
        layers = [nn.Linear(before, after) for before, after in pairwise(widths)]
        self.layers = nn.ModuleList(layers)
        # Looked up once, because attribute access of modules is slow.
        self.tensors = [(layer.weight, layer.bias) for layer in layers]

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs. Shapes: [..., inputs] -> [..., outputs]."""
        *hidden, (weight, bias) = self.tensors
        for w, b in hidden:
            x = F.relu(F.linear(x, w, b))
        return F.linear(x, weight, bias)


def on(device: torch.device, data: Data, dtype: torch.dtype) -> dict[str, Tensor]:
    """Copy the data's arrays to a device, floating ones in the given dtype."""
    tensors = {name: torch.as_tensor(array).to(device) for name, array in data.arrays.items()}
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }


@lru_cache(maxsize=1)
def load_once(model: str, name: str) -> Data:
    """Load a model's data, once per process."""
    data: Data = import_module(f"peer_{model}").load(name)
    return data


def run(config: DictConfig) -> None:
    """Train the cell of a job, and write its curves and its outcome."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    options: Any = OmegaConf.to_container(config, resolve=True)
    model, settings = options["model"], options[options["model"]]
    settings["steps"] = options["steps"] or settings["steps"]
    treatment, seed = Treatment(*options["treatment"]), options["seed"]
    script, data = import_module(f"peer_{model}"), load_once(model, settings["data"])
    started = time.perf_counter()
    record: Record = script.train(settings, data, treatment, seed, device=torch.device(options["device"]))
    seconds = time.perf_counter() - started
    write(Path(options["folder"]), script.SERIES, record, seconds, (model, treatment, seed))


def write(
    folder: Path,
    series: Iterable[str],
    record: Record,
    seconds: float,
    cell: tuple[str, Treatment, int],
) -> None:
    """Write a cell's curves (CSV, one row per step) and its outcome (JSON)."""
    model, treatment, seed = cell
    final: Mapping[str, float] = {} if record.diverged_at else record.evaluations[len(record.rows)]
    metrics = sorted({metric for values in record.evaluations.values() for metric in values})
    name = f"{model}-{treatment.name}-{treatment.strength:g}-{seed}"
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["step", *series, *metrics])
        for step, row in enumerate(record.rows, start=1):
            measured = record.evaluations.get(step, {})
            table.writerow([step, *row, *(measured.get(metric, "") for metric in metrics)])
    about = {
        "model": model,
        "regularizer": treatment.name,
        "strength": treatment.strength,
        "seed": seed,
        "status": "diverged" if record.diverged_at else "completed",
        "diverged_at": record.diverged_at,
        "seconds": seconds,
        **final,
    }
    (folder / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")
