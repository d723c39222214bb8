"""What there is to choose from: read off the YAML files, so that it cannot lag behind them."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from gradbench.config.compose import REFERENCE, Configs, leaves
from gradbench.config.instantiate import NO_ARGUMENTS
from gradbench.errors import UsageError, nearest

KINDS = {"models": "model", "regularizers": "regularizer", "data": "data", "optimizers": "optimizer"}
"""What ``info`` calls a group."""


@dataclass(frozen=True)
class Entry:
    """One choice: its name, its file's first comment, and its keys with defaults."""

    name: str
    summary: str
    keys: str


@dataclass(frozen=True)
class Section:
    """The choices of one kind."""

    title: str
    entries: list[Entry]


def catalogue(kind: str | None, config_dir: Path | None) -> list[Section]:
    """Return the sections of ``info``: one kind, or all.

    Raises:
        UsageError: for a kind that there is not.
    """
    kinds = [*KINDS, "experiments"]
    if kind is not None and kind not in kinds:
        raise UsageError(f"info lists {', '.join(kinds)}; got '{kind}'{nearest(kind, kinds)}")
    configs = Configs(config_dir)
    sections = []
    for title in [kind] if kind else kinds:
        if title == "experiments":
            entries = [experiment_entry(configs, name) for name in configs.experiments]
        else:
            group = KINDS[title]
            entries = [option_entry(configs, group, name) for name in configs.groups[group]]
        usage = "gradbench run NAME" if title == "experiments" else f"gradbench run {KINDS[title]}=NAME"
        sections.append(Section(f"{title} ({usage})", entries))
    return sections


def option_entry(configs: Configs, group: str, name: str) -> Entry:
    """Return one option of a group, with the defaults it brings."""
    path = configs.path(group, name)
    text = path.read_text(encoding="utf-8")
    config = configs.compose((f"{group}={name}",)).config
    hidden = NO_ARGUMENTS[group] - {"lr"} | {"_target_"}
    keys = [
        # a default that is taken from another key shows that key
        f"{key}={REFERENCE.sub(lambda found: found[1], str(value))}"
        for key, value in leaves(config[group])
        if key not in hidden
    ]
    return Entry(name, first_comment(text), "  ".join(keys))


def experiment_entry(configs: Configs, name: str) -> Entry:
    """Return one experiment: its question and the keys it sweeps."""
    experiment = configs.experiment(name)
    axes = (axis for product in experiment.products for axis in product)
    swept = dict.fromkeys(axis.key for axis in axes if len(axis.values) > 1)
    return Entry(name, experiment.question, "  ".join(swept))


def first_comment(text: str) -> str:
    """Return the first comment of a YAML file that is not a Hydra directive."""
    for line in text.splitlines():
        if line.startswith("#") and not line.startswith("# @"):
            return line.removeprefix("#").strip()
    return str((yaml.safe_load(text) or {}).get("name", ""))
