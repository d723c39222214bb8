"""The optimizer and the schedule of one cell in ordinary PyTorch: those of ``torch.optim``, the others written out."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from gradbench.errors import UsageError
from gradbench.grid.cell import Cell


def make_optimizer(cell: Cell, network: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that a cell's config describes, over the parameters of a network that are not frozen.

    Raises:
        UsageError: for a ``_target_`` that has no counterpart here.
    """
    options = {key: value for key, value in cell.config["optimizer"].items() if key != "name"}
    target, decoupled = options.pop("_target_"), options.pop("decoupled", False)
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "gradbench.optimizers.sgd": torch.optim.SGD,
        "gradbench.optimizers.adam": torch.optim.AdamW if decoupled else torch.optim.Adam,
        "gradbench.optimizers.rmsprop": torch.optim.RMSprop,
        "gradbench.optimizers.lion": Lion,
        "gradbench.optimizers.muon": Muon,
    }
    if target not in kinds:
        raise UsageError(f"the reference has no optimizer for {target}; it knows {', '.join(kinds)}")
    if target == "gradbench.optimizers.muon":
        parameters: Iterable[Any] = muon_groups(network, options.pop("adamw_lr"), options["lr"])
    else:
        parameters = [one for one in network.parameters() if one.requires_grad]
    weight_decay = options.pop("weight_decay")
    if not options.pop("decay_vectors", True):
        vectors = [one for one in parameters if one.dim() < 2]
        matrices = [one for one in parameters if one.dim() >= 2]
        parameters = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    apart = decoupled and target != "gradbench.optimizers.adam"
    optimizer = kinds[target](parameters, weight_decay=0.0 if apart else weight_decay, **options)
    if apart:
        optimizer.register_step_pre_hook(lambda optimizer, *_: decay(optimizer, weight_decay))
    return optimizer


@torch.no_grad()
def decay(optimizer: torch.optim.Optimizer, weight_decay: float) -> None:
    """Take decoupled weight decay from the parameters, before a step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.mul_(1 - group["lr"] * weight_decay)


class Lion(torch.optim.Optimizer):
    """Lion, algorithm 2 of Chen et al. 2023, with coupled weight decay; the decoupled one is :func:`decay`."""

    def __init__(self, parameters: Iterable[Any], **options: Any) -> None:
        super().__init__(parameters, options)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move every parameter by the learning rate, along the sign of an average."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                gradient = parameter.grad + group["weight_decay"] * parameter
                momentum = self.state[parameter].get("momentum", torch.zeros_like(parameter))
                parameter -= group["lr"] * torch.sign(beta1 * momentum + (1 - beta1) * gradient)
                self.state[parameter]["momentum"] = beta2 * momentum + (1 - beta2) * gradient


class Muon(torch.optim.Optimizer):
    """Muon (Jordan 2024) for a group of hidden matrices, and Adam for a group of everything else."""

    def __init__(self, groups: Iterable[Any], **options: Any) -> None:
        super().__init__(groups, {key: value for key, value in options.items() if key != "lr"})
        self.adam = torch.optim.Adam(
            self.param_groups[1]["params"],
            betas=tuple(options["betas"]),
            eps=options["eps"],
            weight_decay=options["weight_decay"],
        )

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move each hidden matrix along its momentum, orthogonalized."""
        hidden, rest = self.param_groups
        for group in self.adam.param_groups:
            group["lr"] = rest["lr"]
        self.adam.step()
        for parameter in hidden["params"]:
            gradient = parameter.grad + hidden["weight_decay"] * parameter
            beta = hidden["momentum"]
            momentum = self.state[parameter].get("momentum", torch.zeros_like(parameter))
            momentum = self.state[parameter]["momentum"] = beta * momentum + (1 - beta) * gradient
            ahead = (1 - beta) * gradient + beta * momentum if hidden["nesterov"] else momentum
            move = newton_schulz(ahead.flatten(1), hidden["iterations"])
            rows, columns = move.shape
            scale = {
                "original": max(1, rows / columns) ** 0.5,
                "match_rms_adamw": 0.2 * max(rows, columns) ** 0.5,
                "spectral_unclamped": (rows / columns) ** 0.5,
            }[hidden["adjust_lr_fn"]]
            parameter -= hidden["lr"] * scale * move.view_as(parameter)


def newton_schulz(matrix: Tensor, iterations: int) -> Tensor:
    """Return a matrix with its singular values near one."""
    X = matrix / max(float(matrix.norm()), 1e-7)
    for _ in range(iterations):
        gram = X.T @ X
        X = X @ (3.4445 * torch.eye(len(gram), dtype=X.dtype) - 4.7750 * gram + 2.0315 * gram @ gram)
    return X


def muon_groups(network: nn.Module, adamw_lr: float, lr: float) -> list[dict[str, Any]]:
    """Return two groups of a network's trained parameters: hidden matrices, and all others."""
    every = [one for _, one in network.named_parameters(remove_duplicate=False)]
    others = {id([one for one in every if one.dim() > 1][-1])}
    others |= {id(layer.weight) for layer in network.modules() if isinstance(layer, nn.Embedding)}
    trained = [one for one in network.parameters() if one.requires_grad]
    hidden = [one for one in trained if one.dim() > 1 and id(one) not in others]
    rest = [one for one in trained if one.dim() < 2 or id(one) in others]
    return [{"params": hidden, "lr": lr}, {"params": rest, "lr": lr * adamw_lr}]


def make_scheduler(cell: Cell, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    """Return the scheduler that a cell's config describes; it steps after every training step.

    Raises:
        UsageError: for a ``_target_`` that has no counterpart here.
    """
    options = cell.config["schedule"]
    target, warmup = options["_target_"], max(int(options.get("warmup", 0)), 1)

    def rising() -> lr_scheduler.LRScheduler:
        return lr_scheduler.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)

    def cosine(steps: int) -> lr_scheduler.LRScheduler:
        final, steps = options["final"], max(steps, 1)
        return lr_scheduler.LambdaLR(
            optimizer,
            lambda taken: final + (1 - final) * (1 + math.cos(math.pi * min(taken / steps, 1))) / 2,
        )

    def in_turn(*both: lr_scheduler.LRScheduler) -> lr_scheduler.LRScheduler:
        return lr_scheduler.SequentialLR(optimizer, list(both), milestones=[warmup])

    def falling() -> lr_scheduler.LRScheduler:
        return lr_scheduler.LambdaLR(optimizer, lambda taken: (warmup / (warmup + taken + 1)) ** 0.5)

    kinds: dict[str, Callable[[], lr_scheduler.LRScheduler]] = {
        "constant": lambda: lr_scheduler.LambdaLR(optimizer, lambda _: 1.0),
        "warmup": rising,
        "step": lambda: lr_scheduler.StepLR(optimizer, int(options["every"]), options["factor"]),
        "milestones": lambda: lr_scheduler.MultiStepLR(optimizer, options["milestones"], options["factor"]),
        "linear_decay": lambda: lr_scheduler.LinearLR(optimizer, 1, options["final"], int(options["steps"])),
        "cosine": lambda: cosine(int(options["steps"])),
        "warmup_cosine": lambda: in_turn(rising(), cosine(int(options["steps"]) - int(options["warmup"]))),
        "inverse_sqrt": lambda: in_turn(rising(), falling()),
    }
    package, _, kind = target.rpartition(".")
    if package != "gradbench.optimizers.schedules" or kind not in kinds:
        raise UsageError(f"the reference has no schedule for {target}; it knows {', '.join(kinds)}")
    return kinds[kind]()
