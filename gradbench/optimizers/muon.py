"""Muon. K cells, P parameters of a player, of which H are in hidden matrices."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gradbench.errors import UsageError
from gradbench.functional.flat_params import Layout
from gradbench.optimizers.adam import adam
from gradbench.optimizers.optimizer import Optimizer, State, check_option, decay

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration: its slope at zero is steep, its fixed points are near one."""

ADJUSTMENTS = {
    "original": lambda rows, columns: math.sqrt(max(1, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    "spectral_unclamped": lambda rows, columns: math.sqrt(rows / columns),
}
"""Name -> factor of the learning rate of a matrix, as ``torch.optim.Muon`` names them."""


def muon(
    momentum: float = 0.95,
    nesterov: bool = True,
    weight_decay: float = 0.1,
    decoupled: bool = True,
    adjust_lr_fn: str = "match_rms_adamw",
    iterations: int = 5,
    adamw_lr: float = 1.0,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Optimizer:
    """Muon: the momentum of each hidden matrix, orthogonalized; AdamW for all other parameters.

    As ``torch.optim.Muon`` and ``torch.optim.AdamW``, except that the iteration runs in the precision of the
    parameters, where torch's runs in bfloat16.

    Args:
        momentum: decay rate of the average of a matrix's gradient.
        nesterov: look ahead along the momentum; without momentum it changes nothing.
        weight_decay: coefficient, of all parameters.
        decoupled: whether weight decay is decoupled.
        adjust_lr_fn: how a matrix's learning rate depends on its shape: a key of ``ADJUSTMENTS``.
        iterations: of Newton and Schulz.
        adamw_lr: AdamW's learning rate as a share of the optimizer's.
        betas: AdamW's.
        eps: AdamW's.

    Raises:
        UsageError: for an option out of range.

    References: Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024; Liu et al., "Muon is scalable
    for LLM training", arXiv:2502.16982, 2025 (match_rms_adamw); Bernstein, "Deriving Muon", 2025 (spectral_unclamped).
    """
    check_option("momentum", momentum, "0.95", below=1)
    check_option("weight_decay", weight_decay, "0.1")
    check_option("adamw_lr", adamw_lr, "1")
    if adjust_lr_fn not in ADJUSTMENTS:
        raise UsageError(
            f"optimizer.adjust_lr_fn must be one of {', '.join(ADJUSTMENTS)}, got {adjust_lr_fn}; "
            "match_rms_adamw takes AdamW's learning rates"
        )
    if not 1 <= iterations <= 100:
        raise UsageError(f"optimizer.iterations must be from 1 to 100, got {iterations}; 5 is usual")
    adamw = adam(betas, eps, weight_decay, decoupled)

    def init(parameters: Tensor, layout: Layout) -> State:
        hidden, rest = divide(parameters, layout)
        return {"momentum": torch.zeros_like(hidden), **adamw.init(rest, layout)}

    def step(
        parameters: Tensor, gradient: Tensor, state: State, lr: Tensor, t: Tensor | int, layout: Layout
    ) -> tuple[Tensor, State]:
        (hidden, rest), (hidden_gradient, rest_gradient) = (
            divide(vectors, layout) for vectors in (parameters, gradient)
        )
        hidden, hidden_gradient = decay(hidden, hidden_gradient, lr, weight_decay, decoupled)
        average = torch.lerp(state["momentum"], hidden_gradient, 1 - momentum)
        ahead = torch.lerp(hidden_gradient, average, momentum) if nesterov else average
        hidden = torch.addcmul(hidden, lr, moves(ahead, layout), value=-1)
        rest, averages = adamw.step(rest, rest_gradient, state, lr * adamw_lr, t, layout)
        return unite(hidden, rest, layout), {"momentum": average, **averages}

    def moves(vectors: Tensor, layout: Layout) -> Tensor:
        """Return the moves of all hidden matrices for a learning rate of 1. Shapes: [K, H] -> [K, H]."""
        shapes = [shape for shape, is_hidden in hidden_of(layout) if is_hidden]
        parts = torch.split(vectors, [shape.numel() for shape in shapes], dim=1)
        found = [vectors[:, :0]]
        for part, shape in zip(parts, shapes, strict=True):
            matrix = part.reshape(len(part), shape[0], -1)  # a convolution's kernel is flattened
            scale = ADJUSTMENTS[adjust_lr_fn](*matrix.shape[1:])
            found.append(scale * orthogonalize(matrix, iterations).flatten(1))
        return torch.cat(found, dim=1)

    return Optimizer(init, step)


def orthogonalize(matrix: Tensor, iterations: int, eps: float = 1e-7) -> Tensor:
    """Move the singular values of matrices towards one, by the iteration of Newton and Schulz.

    Args:
        matrix: [K, rows, columns].
        iterations: how often.
        eps: least norm that a matrix is divided by.
    """
    a, b, c = QUINTIC
    is_tall = matrix.shape[1] > matrix.shape[2]
    X: Tensor = matrix.transpose(1, 2) if is_tall else matrix
    X = X / torch.linalg.vector_norm(X, dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(iterations):
        gram = X @ X.transpose(1, 2)
        X = a * X + (b * gram + c * (gram @ gram)) @ X
    return X.transpose(1, 2) if is_tall else X


def hidden_of(layout: Layout) -> list[tuple[torch.Size, bool]]:
    """Return of each parameter its shape, and whether it is a hidden matrix.

    Those are the matrices and kernels of convolutions that are neither an embedding's nor the network's last one, its
    head.
    """
    named = layout.module.named_parameters(remove_duplicate=False)  # of tied ones the last place counts, too
    matrices = [parameter for _, parameter in named if parameter.dim() > 1]
    embeddings = [
        layer.weight for layer in layout.module.modules() if isinstance(layer, nn.Embedding | nn.EmbeddingBag)
    ]
    others = {id(parameter) for parameter in [*matrices[-1:], *embeddings]}
    return [
        (shape, len(shape) > 1 and id(layout.module.get_parameter(name)) not in others)
        for name, shape in layout.shapes.items()
    ]


def divide(vectors: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Return the numbers of hidden matrices, and all others. Shapes: [K, P] -> [K, H], [K, P - H]."""
    parts = torch.split(vectors, layout.sizes, dim=1)
    found: dict[bool, list[Tensor]] = {True: [vectors[:, :0]], False: [vectors[:, :0]]}
    for part, (_, is_hidden) in zip(parts, hidden_of(layout), strict=True):
        found[is_hidden].append(part)
    return torch.cat(found[True], dim=1), torch.cat(found[False], dim=1)


def unite(hidden: Tensor, rest: Tensor, layout: Layout) -> Tensor:
    """Return the vectors that :func:`divide` divided. Shapes: [K, H], [K, P - H] -> [K, P]."""
    shapes, starts = hidden_of(layout), {True: 0, False: 0}
    parts = []
    for shape, is_hidden in shapes:
        start = starts[is_hidden]
        starts[is_hidden] += shape.numel()
        parts.append((hidden if is_hidden else rest)[:, start : starts[is_hidden]])
    return torch.cat(parts, dim=1)
