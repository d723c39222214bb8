"""Compose configs with Hydra: from groups and ``key=value`` words to plain nested dicts."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradbench.claims.schema import parse_claims
from gradbench.config import composite
from gradbench.config.checked_yaml import compose_yaml
from gradbench.config.neutral import NEUTRAL, pop_neutral
from gradbench.config.overrides import (
    MAX_VALUES,
    REFERENCE,
    Axis,
    Overrides,
    literal,
    one_line,
    parse_override,
    to_axis,
)
from gradbench.errors import UsageError, check_length, nearest

PACKAGE = Path(__file__).resolve().parents[1]

HYDRA = Lock()
"""Held while Hydra composes: it keeps what it does in one global place, and runs may be started in threads."""

GROUPS = ("model", "data", "regularizer", "optimizer", "schedule")
"""Groups from which every cell has an option; a user's folder may add further groups."""

LAUNCHER = "launcher"
"""Group that says where cells are run; every cell has an option of it, too, which is no part of what the cell is."""

COLLECTIONS = (yaml.SafeLoader.DEFAULT_MAPPING_TAG, yaml.SafeLoader.DEFAULT_SEQUENCE_TAG)
"""YAML tags of mappings and lists, the only roots that OmegaConf accepts."""

Config = dict[str, Any]


REMOVED = {"compile": "it paid for itself only after thousands of steps; leave it out"}
"""Key that there was -> why there is none, and what to type."""


SPEC = ("question", "grid", "scales", "claims")
"""Keys of an experiment's file."""


class Composed(NamedTuple):
    """A composed config.

    Attributes:
        config: nested dict with unresolved interpolations.
        choices: group -> chosen option, for each of ``GROUPS``.
        neutral: dotted key -> the value at which it changes nothing.
    """

    config: Config
    choices: dict[str, str]
    neutral: dict[str, Any]


def shipped_folder(folder: str) -> Path:
    """Return the path of ``conf`` or ``experiments``: inside the package in a wheel, beside it in a clone."""
    inside = PACKAGE / folder
    return inside if inside.is_dir() else PACKAGE.parent / folder


@dataclass(frozen=True)
class Experiment:
    """A question and the grid of cells that answers it.

    Args:
        name: name of the experiment, and of its default results folder.
        question: one sentence.
        products: products of axes; the grid is their union.
        scales: name of a budget -> axes that replace those of the grid.
        source: content of the experiment's file.
    """

    name: str
    question: str = ""
    products: tuple[tuple[Axis, ...], ...] = ((),)
    scales: Mapping[str, tuple[Axis, ...]] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)

    def apply_scale(self, words: Overrides) -> Overrides:
        """Replace ``scale=NAME`` in overrides by the axes of that scale; other overrides take precedence over them.

        Raises:
            UsageError: if the experiment has no such scale.
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
    """The available configs: those shipped with the package, and those of the user's folder.

    Args:
        folder: the user's config folder (``--config-dir``), with ``model/``, ``regularizer/``, … and perhaps
            ``experiments/``.

    Raises:
        UsageError: if the folder does not exist.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Check that the folder exists, without reading it."""
        if folder is not None and not folder.is_dir():
            raise UsageError(
                f"--config-dir {folder} is not a folder; give one that holds model/, regularizer/, …"
            )
        self.folder = folder.resolve() if folder else None
        self.compose = lru_cache(maxsize=None)(self._compose)

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Group -> its options, both sorted."""
        found: dict[str, set[str]] = {}
        for root in filter(None, (shipped_folder("conf"), self.folder)):
            for path in root.glob("*/*.yaml"):
                if path.parent.name != "experiments":
                    found.setdefault(path.parent.name, set()).add(path.stem)
        return {group: sorted(options) for group, options in sorted(found.items())}

    @property
    def experiments(self) -> dict[str, Path]:
        """Experiment -> its file; a user's experiment replaces a shipped one of the same name."""
        roots = [shipped_folder("experiments")] + ([self.folder / "experiments"] if self.folder else [])
        return {path.stem: path for root in roots for path in sorted(root.glob("*.yaml"))}

    def path(self, group: str, option: str) -> Path:
        """Return the file of a group's option; shipped files come first, as in Hydra's search path.

        Of a composition it is the file of the first part.
        """
        roots = [shipped_folder("conf")] + ([self.folder] if self.folder else [])
        files = (
            root / group / f"{name}.yaml"
            for name in (option, option.partition(composite.JOINT)[0])
            for root in roots
        )
        return next(file for file in files if file.is_file())

    def _compose(self, words: tuple[str, ...]) -> Composed:
        """Compose a config from override words.

        Raises:
            UsageError: with a one-line message, for anything that Hydra refuses.
        """
        plain, parts = list[str](), list[str]()
        for word in words:
            made, named_parts = composite.to_packages(word, self.groups[composite.REGULARIZER])
            plain, parts = [*plain, *made], parts or named_parts
        composite.check_kept(parts, words)
        search = [f"hydra.searchpath={literal([f'file://{self.folder}'])}"] if self.folder else []
        try:
            with HYDRA, initialize_config_dir(str(shipped_folder("conf")), version_base="1.3"):
                composed = compose("config", overrides=[*plain, *search], return_hydra_config=True)
        except Exception as error:  # Hydra, OmegaConf and YAML raise a dozen unrelated types
            if is_interrupt(error):
                raise KeyboardInterrupt from error
            raise UsageError(f"cannot compose {' '.join(words)}: {one_line(error)}") from error
        chosen = composed.hydra.runtime.choices
        choices = {group: str(chosen[group]) for group in GROUPS if group in chosen}
        self.check_shadowed([*choices.items(), *((composite.REGULARIZER, part) for part in parts)])
        OmegaConf.set_struct(composed, False)
        del composed["hydra"]
        config = OmegaConf.to_container(composed)
        assert isinstance(config, dict)
        named = {str(key): value for key, value in config.items()}
        if parts and composite.REGULARIZER not in choices:  # deleted by a word like ~regularizer
            named.pop(composite.REGULARIZER, None)
        elif parts:
            named[composite.REGULARIZER] = composite.compose_parts(named[composite.REGULARIZER], parts)
            choices[composite.REGULARIZER] = named[composite.REGULARIZER]["name"]
        neutral = pop_neutral(named)
        composite.expand_short_forms(named)
        composite.drop_players(named)
        return Composed(named, choices, neutral)

    def check_shadowed(self, choices: Iterable[tuple[str, str]]) -> None:
        """Raise ``UsageError`` for a choice whose file in the user's folder is not used: a shipped one has its name."""
        if self.folder is None:
            return
        for group, option in choices:
            name = Path(group) / f"{option}.yaml"
            shipped, own = shipped_folder("conf") / name, self.folder / name
            if shipped.is_file() and own.is_file() and own.read_bytes() != shipped.read_bytes():
                raise UsageError(
                    f"{own} has the name of a file that gradbench ships, and that one would be used; rename yours, and "
                    f"choose {group}=ITS_NEW_NAME"
                )

    def parse(self, words: list[str]) -> Overrides:
        """Parse command-line overrides, including sweeps.

        Raises:
            UsageError: for a word outside Hydra's grammar, or an option that its group does not have.
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
                check_length(word, "the word")
                verbatim.append(word)
                continue
            if override.package is not None:
                raise UsageError(f"{word}: a group under another package cannot be swept; give it one option")
            given = self.check_options(to_axis(override, self.groups.get(override.key_or_group)))
            composite.check(given, self.groups["model"])
            if given.key in axes:
                raise UsageError(f"{given.key} is given twice: {word}; give it once, as {given.key}=a,b")
            axes[given.key] = replace(given, may_name_code=True)
        return Overrides(tuple(axes.values()), tuple(verbatim))

    def check_options(self, given: Axis) -> Axis:
        """Return the axis with its compositions in the order in which they act.

        Raises:
            UsageError: for values that are no options of the axis's group, and for a key that was removed.
        """
        if given.key in REMOVED:
            raise UsageError(f"{given.key} is no key any more: {REMOVED[given.key]}")
        options = self.groups.get(given.key)
        if options is None:
            return given
        if given.added and given.key in GROUPS:
            chosen = ",".join(map(str, given.values))
            raise UsageError(f"every cell has a {given.key}: type {given.key}={chosen}, without +")
        values = []
        for value in given.values:
            values.append(value)
            if value in options:
                continue
            if given.key == composite.REGULARIZER and composite.JOINT in str(value):
                composite.check_parts(str(value), options)
                values[-1] = self.compose((f"{given.key}={value}",)).choices[given.key]
            else:
                raise UsageError(
                    f"there is no {given.key}={value}{nearest(value, options)} "
                    f"({given.key} is one of: {', '.join(options)})"
                )
        return replace(
            given, values=tuple(dict.fromkeys(values)) if values != [*given.values] else given.values
        )

    def experiment(self, name: str) -> Experiment:
        """Read an experiment by its name, or by the path of a YAML file.

        Raises:
            UsageError: if there is no such experiment, or its file is invalid.
        """
        check_length(name, "an experiment's name")
        path = Path(name) if name.endswith((".yaml", ".yml")) else self.experiments.get(name)
        if path is None or not path.is_file():
            known = self.experiments
            if path is not None:
                raise UsageError(
                    f"there is no file {name}; give an experiment's file, or one of: {', '.join(known)}"
                )
            raise UsageError(
                f"there is no experiment '{name}'{nearest(name, known)} (there are: {', '.join(known)}; "
                "overrides look like key=value)"
            )
        try:
            spec = _read_yaml(path)
        except Exception as error:  # PyYAML may raise anything on a tag that does not suit its value
            raise UsageError(f"{path} is not readable YAML: {one_line(error)}") from error
        return self._experiment(path, spec)

    def _experiment(self, path: Path, spec: Any) -> Experiment:
        if isinstance(spec, dict) and {"command", "spec"} <= spec.keys():
            raise UsageError(
                f"{path} is what a results folder was asked for, not an experiment; type the command in it again"
            )
        for key in spec if isinstance(spec, dict) else ():
            if key not in SPEC:
                raise UsageError(
                    f"{path}: nothing reads the key {key}{nearest(str(key), SPEC)} (there are: {', '.join(SPEC)})"
                )
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
        if "full" in scales:
            raise UsageError(
                f"{path}: scale=full is the grid as it stands; give the scale 'full' another name"
            )
        question = spec.get("question") or ""
        if not isinstance(question, str):
            raise UsageError(f"{path}: 'question' must be a sentence, got {literal(question)}")
        is_own = self.folder is not None and path.resolve().is_relative_to(self.folder)
        try:
            parsed = tuple(self._axes(axes, is_own) for axes in products)
            scaled = {str(name): self._axes(axes, is_own) for name, axes in scales.items()}
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
        parse_claims(spec, str(path))
        return Experiment(path.stem, question, parsed, scaled, spec)

    def _axes(self, written: Mapping[str, Any], is_own: bool) -> tuple[Axis, ...]:
        axes = (self._axis(str(key), value) for key, value in written.items())
        return tuple(replace(axis, may_name_code=is_own) for axis in axes)

    def _axis(self, word: str, value: Any) -> Axis:
        """Convert one line of a grid to an axis: a list, a single value, or text in Hydra's sweep grammar."""
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
        given = self.check_options(given)
        composite.check(given, self.groups["model"])
        return given


def _read_yaml(path: Path) -> object:
    """Read a YAML file with OmegaConf: 1e-3 is a number, and a repeated key an error.

    Returns:
        A dict or a list; ``None`` if the file is neither.

    Raises:
        Exception: of any type, if the file is no YAML.
    """
    text = path.read_text(encoding="utf-8")
    root = compose_yaml(text, MAX_VALUES)
    if root is None or root.tag not in COLLECTIONS:
        return None
    return OmegaConf.to_container(OmegaConf.create(text))


def resolve(config: Config) -> Config:
    """Return a config with resolved interpolations; the argument may be modified.

    Raises:
        UsageError: for a missing mandatory value (``???``), or an interpolation of an unknown key.
    """
    values = dict(leaves(config))
    texts = {key: str(value) for key, value in values.items() if isinstance(value, str | list)}
    for key, value in texts.items():
        if value == composite.GIVEN_LATER:
            raise UsageError(composite.say_missing(key, config))
    # OmegaConf takes milliseconds per config, too long for thousands of cells: plain references are resolved here.
    for key, value in texts.items():
        reference = REFERENCE.fullmatch(value) if "${" in value else None
        if reference and reference[1] in values:
            set_key(config, key, values[reference[1]])
            texts[key] = str(values[reference[1]])
    if not any("${" in value for value in texts.values()):
        return config
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(explain_reference(error, values)) from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def explain_reference(error: OmegaConfBaseException, values: Mapping[str, Any]) -> str:
    """Return one line on a key that refers to another which cannot be looked up."""
    key, missing = error.full_key, re.search(r"Interpolation key '(.+)' not found", str(error))
    if missing:
        return f"{key}={values.get(str(key))}: there is no key {missing[1]}{nearest(missing[1], values)}"
    if "Recursive" in str(error):
        return f"{key}={values.get(str(key))} leads back to itself; give one of these keys a value"
    return one_line(error)


def set_key(config: Config, key: str, value: Any) -> None:
    """Set the value of a dotted key, creating the nodes above it.

    Raises:
        UsageError: if a node on the way is a value, or the key is a node.
    """
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
    """List (dotted key, value) of every leaf; a list is a leaf."""
    found = []
    for key, value in config.items():
        if isinstance(value, dict):  # isinstance(…, Mapping) would take a second for a million leaves
            found += leaves(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def is_interrupt(error: BaseException | None) -> bool:
    """Return whether an error was caused by a KeyboardInterrupt, which OmegaConf turns into errors of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
