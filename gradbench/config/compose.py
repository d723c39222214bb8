"""Hydra's configs: from names and ``key=value`` words to plain nested dicts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradbench.claims.schema import claims_of
from gradbench.config.neutral import NEUTRAL, pop_neutral
from gradbench.config.overrides import MAX_VALUES, Axis, Overrides, literal, one_line, parse_override, to_axis
from gradbench.errors import UsageError, nearest

PACKAGE = Path(__file__).resolve().parents[1]

GROUPS = ("model", "data", "regularizer", "optimizer")
"""The groups that every cell has a choice of; a user's folder may bring further ones."""

REFERENCE = re.compile(r"\$\{([\w.]+)\}")
"""An interpolation that names a key and does nothing else."""

COLLECTIONS = (yaml.SafeLoader.DEFAULT_MAPPING_TAG, yaml.SafeLoader.DEFAULT_SEQUENCE_TAG)
"""What OmegaConf makes a config of."""

Config = dict[str, Any]


class Composed(NamedTuple):
    """What Hydra composes.

    Attributes:
        config: nested; interpolations are not resolved yet.
        choices: the option of every one of ``GROUPS``.
        neutral: dotted key -> the value at which it changes nothing.
    """

    config: Config
    choices: dict[str, str]
    neutral: dict[str, Any]


def shipped_folder(folder: str) -> Path:
    """Return ``conf`` or ``experiments``: inside the package in a wheel, beside it in a clone."""
    inside = PACKAGE / folder
    return inside if inside.is_dir() else PACKAGE.parent / folder


@dataclass(frozen=True)
class Experiment:
    """A question and the grid that answers it.

    Args:
        name: also the default results folder's name.
        question: one sentence.
        products: each a product of axes; the grid is their union.
        scales: name of a budget -> axes that replace those of the grid.
        source: the content of its file.
    """

    name: str
    question: str = ""
    products: tuple[tuple[Axis, ...], ...] = ((),)
    scales: Mapping[str, tuple[Axis, ...]] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)

    def apply_scale(self, words: Overrides) -> Overrides:
        """Return overrides with ``scale=NAME`` replaced by what that scale says; what is typed beside it stays.

        Raises:
            UsageError: where the experiment has no such scale.
        """
        asked = [str(value) for axis in words.axes if axis.key == "scale" for value in axis.values]
        typed = tuple(axis for axis in words.axes if axis.key != "scale")
        if not asked or asked == ["full"]:
            return Overrides(typed, words.verbatim)
        if len(asked) > 1 or asked[0] not in self.scales:
            scales = ", ".join(["full", *self.scales])
            raise UsageError(
                f"experiment '{self.name}' has no scale={','.join(asked)}{nearest(asked[0], self.scales)} "
                f"(scale is one of: {scales})"
            )
        keys = {axis.key for axis in typed}
        return Overrides(
            (*typed, *(one for one in self.scales[asked[0]] if one.key not in keys)), words.verbatim
        )


class Configs:
    """All configs within reach: those that travel with the package, then those of the user's folder.

    Args:
        folder: the user's own config folder (``--config-dir``), with ``model/``, ``regularizer/``, … and
            perhaps ``experiments/``.

    Raises:
        UsageError: where the folder does not exist.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Check that the folder is there; nothing is read yet."""
        if folder is not None and not folder.is_dir():
            raise UsageError(
                f"--config-dir {folder} is not a folder; give one that holds model/, regularizer/, …"
            )
        self.folder = folder.resolve() if folder else None
        self.compose = lru_cache(maxsize=None)(self._compose)

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Group -> its options, sorted."""
        found: dict[str, set[str]] = {}
        for root in filter(None, (shipped_folder("conf"), self.folder)):
            for path in root.glob("*/*.yaml"):
                if path.parent.name != "experiments":
                    found.setdefault(path.parent.name, set()).add(path.stem)
        return {group: sorted(options) for group, options in sorted(found.items())}

    @property
    def experiments(self) -> dict[str, Path]:
        """Experiment -> its file; the user's own take precedence."""
        roots = [shipped_folder("experiments")] + ([self.folder / "experiments"] if self.folder else [])
        return {path.stem: path for root in roots for path in sorted(root.glob("*.yaml"))}

    def path(self, group: str, option: str) -> Path:
        """Return the file of a group's option; the package's own come first, as in Hydra's search path."""
        roots = [shipped_folder("conf")] + ([self.folder] if self.folder else [])
        return next(path for root in roots if (path := root / group / f"{option}.yaml").is_file())

    def _compose(self, words: tuple[str, ...]) -> Composed:
        """Return a composed config, what was chosen, and what its files declare neutral.

        Raises:
            UsageError: in one line, for anything Hydra refuses.
        """
        search = [f"hydra.searchpath={literal([f'file://{self.folder}'])}"] if self.folder else []
        try:
            with initialize_config_dir(str(shipped_folder("conf")), version_base="1.3"):
                composed = compose("config", overrides=[*words, *search], return_hydra_config=True)
        except Exception as error:  # Hydra, OmegaConf and YAML have a dozen for what they refuse
            if is_interrupt(error):
                raise KeyboardInterrupt from error
            raise UsageError(f"cannot compose {' '.join(words)}: {one_line(error)}") from error
        chosen = composed.hydra.runtime.choices
        choices = {group: str(chosen[group]) for group in GROUPS if group in chosen}
        OmegaConf.set_struct(composed, False)
        del composed["hydra"]
        config = OmegaConf.to_container(composed)
        assert isinstance(config, dict)
        named = {str(key): value for key, value in config.items()}
        return Composed(named, choices, neutral=pop_neutral(named))

    def parse(self, words: list[str]) -> Overrides:
        """Parse command-line overrides, sweeps included.

        Raises:
            UsageError: for a word that is not Hydra's grammar, or an option that its group does not have.
        """
        axes: dict[str, Axis] = {}
        verbatim = []
        for word in words:
            override = parse_override(word)
            if override.is_delete() and NEUTRAL in override.key_or_group.split("."):
                raise UsageError(
                    f"{word}: only a config folder says which values are neutral; leave the word out"
                )
            if override.is_delete() or (override.package is not None and not override.is_sweep_override()):
                verbatim.append(word)
                continue
            if override.package is not None:
                raise UsageError(f"{word}: a group under another package cannot be swept; give it one option")
            given = to_axis(override, self.groups.get(override.key_or_group))
            self.check_options(given)
            if given.key in axes:
                raise UsageError(f"{given.key} is given twice: {word}; give it once, as {given.key}=a,b")
            axes[given.key] = given
        return Overrides(tuple(axes.values()), tuple(verbatim))

    def check_options(self, given: Axis) -> None:
        """Refuse options that a group does not have, by name."""
        options = self.groups.get(given.key)
        if options is None:
            return
        for value in given.values:
            if value not in options:
                raise UsageError(
                    f"there is no {given.key}={value}{nearest(value, options)} "
                    f"({given.key} is one of: {', '.join(options)})"
                )

    def experiment(self, name: str) -> Experiment:
        """Read an experiment by name, or from a YAML file by its path.

        Raises:
            UsageError: where there is none, or its file is not one.
        """
        path = Path(name) if name.endswith((".yaml", ".yml")) else self.experiments.get(name)
        if path is None or not path.is_file():
            known = self.experiments
            raise UsageError(
                f"there is no experiment '{name}'{nearest(name, known)} (there are: {', '.join(known)}; "
                "overrides look like key=value)"
            )
        try:
            spec = _read_yaml(path)
        except Exception as error:  # PyYAML fails in any way at all on a tag that does not suit its value
            raise UsageError(f"{path} is not readable YAML: {one_line(error)}") from error
        return self._experiment(path, spec)

    def _experiment(self, path: Path, spec: Any) -> Experiment:
        if not isinstance(spec, dict) or "grid" not in spec:
            raise UsageError(f"{path} needs a key 'grid': one product of axes, or a list of products")
        grid = spec["grid"]
        products = grid if isinstance(grid, list) else [grid]
        if not products or not all(isinstance(product, dict) for product in products):
            raise UsageError(f"{path}: each product in 'grid' must map keys to values, like 'seed: [0, 1]'")
        scales = spec.get("scales") or {}
        if not isinstance(scales, dict) or not all(isinstance(axes, dict) for axes in scales.values()):
            raise UsageError(
                f"{path}: 'scales' must map names to keys and values, like 'small: {{steps: 100}}'"
            )
        try:
            parsed = tuple(self._axes(axes) for axes in products)
            scaled = {str(name): self._axes(axes) for name, axes in scales.items()}
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
        claims_of(spec, str(path))
        return Experiment(path.stem, str(spec.get("question", "")), parsed, scaled, spec)

    def _axes(self, written: Mapping[str, Any]) -> tuple[Axis, ...]:
        return tuple(self._axis(str(key), value) for key, value in written.items())

    def _axis(self, word: str, value: Any) -> Axis:
        """Return the axis of one line of YAML: a list, a single value, or text in Hydra's sweep grammar."""
        override = parse_override(f"{word}={value if isinstance(value, str) else ''}")
        key = override.key_or_group
        if override.is_delete() or override.package is not None:
            raise UsageError(f"{word} is no key that a grid can sweep; write it on the command line")
        options = self.groups.get(key)
        if isinstance(value, str):
            given = to_axis(override, options)
        else:
            values = value if isinstance(value, list) else [value]
            given = Axis(key, tuple(map(str, values) if options else values), added=key != word)
        if not given.values:
            raise UsageError(f"the axis {key} has no values; give at least one")
        self.check_options(given)
        return given


def _read_yaml(path: Path) -> object:
    """Return the content of a YAML file as OmegaConf reads it: 1e-3 is a number, a key that stands twice an error.

    ``None`` where it is neither a mapping nor a list. Anything may be raised where it is no YAML.
    """
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text, yaml.SafeLoader)
    if root is None or root.tag not in COLLECTIONS:
        return None
    if count_values(root, {}) > MAX_VALUES:
        raise yaml.YAMLError(f"its aliases stand for more than {MAX_VALUES:,} values")
    return OmegaConf.to_container(OmegaConf.create(text))


def count_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a YAML node stands for once its aliases are written out.

    Args:
        node: composed, so that an alias is the very node that it names.
        known: id of a node -> its count; one that contains itself has no end.
    """
    if id(node) not in known:
        known[id(node)] = MAX_VALUES
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in inner for part in pair]
        known[id(node)] = 1 + sum(count_values(part, known) for part in inner)
    return known[id(node)]


def resolve(config: Config) -> Config:
    """Return a config with its interpolations resolved; the one given may change.

    Raises:
        UsageError: for a mandatory value (``???``) that is missing, or an interpolation that leads nowhere.
    """
    values = dict(leaves(config))
    told = {key: str(value) for key, value in values.items() if isinstance(value, str | list)}
    for key, value in told.items():
        if value == "???":
            raise UsageError(f"{key} must be given: add {key}=…")
    # OmegaConf takes milliseconds, too long for thousands of cells: it gets what is no plain reference
    for key, value in told.items():
        reference = REFERENCE.fullmatch(value) if "${" in value else None
        if reference and reference[1] in values:
            set_key(config, key, values[reference[1]])
            told[key] = str(values[reference[1]])
    if not any("${" in value for value in told.values()):
        return config
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(one_line(error)) from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def set_key(config: Config, key: str, value: Any) -> None:
    """Set a dotted key."""
    *path, last = key.split(".")
    node = config
    for part in path:
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict):
            raise UsageError(f"{key} leads through {part}, which is a value and not a group of keys")
    if isinstance(node.get(last), dict):
        raise UsageError(
            f"{key} is a group of keys, got {literal(value)}; set one of {key}.{f', {key}.'.join(node[last])}"
        )
    node[last] = value


def leaves(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return (dotted key, value) of every leaf; a list is a leaf."""
    found = []
    for key, value in config.items():
        if isinstance(value, dict):  # not Mapping: to ask that of a million leaves takes a second
            found += leaves(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def is_interrupt(error: BaseException | None) -> bool:
    """Return whether an error is what became of a Ctrl-C: OmegaConf stumbles when it is interrupted."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
