"""Make the stacks that are compared: one of K cells per regularizer, equal in all other settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gradbench.config.compose import Configs, Experiment
from gradbench.config.instantiate import fingerprint
from gradbench.config.overrides import Axis, Overrides
from gradbench.errors import UsageError
from gradbench.grid.cell import Cell
from gradbench.grid.expand import expand
from gradbench.sweep.plan import RESULTS, data_of, folder_name, only_value, validate

if TYPE_CHECKING:
    import torch

NONE = "none"
"""The regularizer that all others are compared with."""


@dataclass(frozen=True)
class Cases:
    """The stacks to profile.

    Attributes:
        stacks: regularizer -> K cells that differ only in their seeds; ``none`` comes first.
        device: device that they are timed on.
        folder: folder for the results.
    """

    stacks: dict[str, list[Cell]]
    device: "torch.device"
    folder: Path

    @property
    def width(self) -> int:
        """K, cells per stack."""
        return len(self.stacks[NONE])


def make_cases(
    words: list[str], width: int | None = None, results: Path | None = None, config_dir: Path | None = None
) -> Cases:
    """Make the stacks that a command line asks for.

    Args:
        words: overrides in Hydra's grammar; without ``regularizer=`` all regularizers are compared.
        width: K; by default the width of such stacks in a sweep.
        results: folder for the results.
        config_dir: the user's config folder.

    Raises:
        UsageError: for an invalid command line or config.
    """
    from gradbench.functional.devices import resolve
    from gradbench.memory.stack_width import choose_width

    for word in words:
        if "=" not in word and not word.startswith("~"):
            raise UsageError(
                f"cost compares regularizers at one setting, not an experiment; got '{word}', expected key=value"
            )
    configs = Configs(config_dir)
    given = configs.parse(words)
    axes = {axis.key: axis for axis in given.axes}
    axes.setdefault("model", Axis("model", ("mlp",)))
    chosen = axes.pop("regularizer", Axis("regularizer", tuple(configs.groups["regularizer"]))).values
    for axis in axes.values():
        if len(axis.values) > 1:
            raise UsageError(
                f"cost compares regularizers at one setting of all else, got {len(axis.values)} values of {axis.key}; "
                f"give one, as {axis.key}={axis.values[0]}"
            )
    names = [NONE, *(name for name in chosen if name != NONE)]

    def cells(regularizers: Sequence[str], seeds: int) -> list[Cell]:
        first = axes.get("seed", Axis("seed", (0,))).values[0]
        if not isinstance(first, int):
            raise UsageError(f"seed must be a whole number, got {first}")
        swept = Axis("seed", tuple(range(first, first + seeds)))
        every = {**axes, "regularizer": Axis("regularizer", tuple(regularizers)), "seed": swept}
        return expand(
            configs, Experiment("cost"), Overrides(tuple(every.values()), given.verbatim), fingerprint
        )

    some = cells(names, 1)
    device = resolve(only_value("device", [cell.runtime["device"] for cell in some]))[0]
    validate(some, kind=device.type)
    if width is None:
        width = choose_width(some[0], data_of(some[0]), device)
    members = cells(names, width)
    grouped = {name: [c for c in members if c.choices["regularizer"] == name] for name in names}
    named = Overrides(tuple(axis for axis in given.axes if axis.key != "model"), given.verbatim)
    model = some[0].config["model"]["name"]
    folder = RESULTS / folder_name(Experiment(f"cost-{model}-{device.type}"), named)
    return Cases(grouped, device, results or folder)
