"""Expand an experiment and the overrides of a command line into cells."""

import contextlib
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradbench.config import composite
from gradbench.config.compose import GROUPS, Config, Configs, Experiment, leaves, resolve, set_key
from gradbench.config.hints import say_unread
from gradbench.config.identity import LABELS, foreign_targets, hash_sources
from gradbench.config.metric import follow_metric
from gradbench.config.overrides import MAX_VALUES, REFERENCE, Axis, Overrides, is_reference, literal
from gradbench.config.validate import CheckedLeaves, check_config, check_groups, is_beyond_int64, unread_keys
from gradbench.errors import UsageError
from gradbench.grid.cell import RUNTIME, Cell

PLAYERS = f"{composite.REGULARIZER}.{composite.PLAYERS}"


def copy_config(config: Mapping[str, Any]) -> Config:
    """Copy the nested dicts of a config, far faster than deepcopy; lists are shared."""
    return {key: copy_config(value) if isinstance(value, dict) else value for key, value in config.items()}


def expand(
    configs: Configs, experiment: Experiment, words: Overrides, fingerprint: Callable[[Config], str]
) -> list[Cell]:
    """Expand an experiment and overrides into cells, without duplicates, in the order of the grid.

    An override of a group that a product sweeps restricts the sweep; an override of any other key replaces its axis.
    An axis applies to the cells whose config has its key.

    Args:
        configs: composes groups.
        experiment: the grid.
        words: parsed overrides of the command line.
        fingerprint: function from a resolved config to the fingerprint of its data.

    Raises:
        UsageError: for an axis whose key no cell has, a grid left empty by overrides, or a value out of range.
    """
    products = restrict_products(experiment, words, set(configs.groups))
    cells: dict[str, Cell] = {}
    used: set[str] = set()
    known: set[str] = set()
    unread: list[tuple[str, Any]] = []
    choices: dict[str, set[str]] = {}
    for product in products:
        others = [axis for axis in product if axis.key not in configs.groups]
        for base in compose_bases(configs, product, words.verbatim):
            addressed = composite.axes_of(others, base.choices.get(composite.REGULARIZER, ""), base.keys)
            taken = [(key, axis) for key, axis in addressed if base.takes(axis)]
            axes = [axis for _, axis in taken]
            used.update(key for key, _ in taken)
            known.update(base.keys)
            for group, option in base.choices.items():
                choices.setdefault(group, set()).add(option)
            for cell in expand_base(base, axes, fingerprint):
                cells.setdefault(cell.id, cell)
            unread += unread_keys(base.defaults, axes)
    for axis in itertools.chain(*products):
        if axis.key not in used | configs.groups.keys():
            if composite.node_of(axis.key):
                raise UsageError(say_not_taken(configs, axis.key, known, choices))
            if line := composite.say_set_by_part(axis.key, used):
                raise UsageError(line)
            raise UsageError(say_unread(configs, axis.key, axis.values, known, choices))
    for key, value in unread:
        raise UsageError(say_unread(configs, key, [value], known - {key}, choices))
    return list(cells.values())


def restrict_products(experiment: Experiment, words: Overrides, groups: set[str]) -> list[list[Axis]]:
    """Apply overrides to an experiment's products.

    Raises:
        UsageError: if no cells are left, or too many, or if a runtime key is swept.
    """
    kept = []
    for product in experiment.products:
        axes = {axis.key: axis for axis in product}
        for axis in words.axes:
            before = axes.get(axis.key, axis)
            values = axis.values
            if axis.key in groups:
                values = tuple(value for value in values if value in before.values)
            axes[axis.key] = replace(axis, values=values, added=axis.added or before.added)
        for axis in axes.values():
            names_code = any(composite.is_code(axis.key, value) for value in axis.values)
            if names_code and not axis.may_name_code:
                word = f"{axis.key}={','.join(map(str, axis.values))}"
                raise UsageError(
                    f"experiment '{experiment.name}' names code, which only words that you type and files of your "
                    f"--config-dir may; if you trust it, type {word} too"
                )
            if axis.key.split(".")[0] in RUNTIME and len(axis.values) > 1:
                raise UsageError(
                    f"{axis.key} says how cells are run and cannot be swept; run once per {axis.key}"
                )
            if axis.key in LABELS and len(axis.values) > 1:
                raise UsageError(
                    f"{axis.key} only says what reports show of cells and cannot be swept, got "
                    f"{','.join(map(str, axis.values))}; give one value"
                )
        if math.prod(len(axis.values) for axis in axes.values()) > MAX_VALUES:
            raise UsageError(
                f"the grid asks for more than {MAX_VALUES:,} cells; shorten {longest_axis(axes)}"
            )
        if all(axis.values for axis in axes.values()):
            kept.append(list(axes.values()))
    if not kept:
        given = " ".join(f"{axis.key}={','.join(axis.values)}" for axis in words.axes if axis.key in groups)
        raise UsageError(
            f"nothing of experiment '{experiment.name}' is left under {given}: an override of a group it "
            f"sweeps restricts it; leave out '{experiment.name}' to run your own grid"
        )
    return kept


def longest_axis(axes: Mapping[str, Axis]) -> str:
    """Return the key of the axis with the most values."""
    return max(axes, key=lambda key: len(axes[key].values))


@dataclass(frozen=True)
class Base:
    """A config composed from one choice of groups, before any other axis is applied.

    Attributes:
        config: nested dict with unresolved interpolations.
        choices: group -> option.
        words: overrides beyond the choices.
        options: command-line options needed to compose it.
        defaults: dotted key -> value of every leaf.
        keys: dotted keys of the leaves and of the nodes above them.
        neutral: dotted key -> the value at which it changes nothing.
        targets: node -> its target, for targets outside gradbench.
        files: group -> file of its option.
    """

    config: Config
    choices: dict[str, str]
    words: tuple[str, ...]
    options: tuple[str, ...]
    defaults: dict[str, Any]
    keys: frozenset[str]
    neutral: dict[str, Any]
    targets: dict[str, str]
    files: dict[str, Path]

    def takes(self, axis: Axis) -> bool:
        """Return whether an axis applies to the cells of this base."""
        node = composite.required_node(axis.key)
        if axis.key == PLAYERS:  # a lone ``none`` has no such key, and none is added
            return axis.key in self.keys
        return node in self.keys if node else axis.added or axis.key in self.keys


def compose_bases(configs: Configs, product: Sequence[Axis], verbatim: tuple[str, ...]) -> Iterator[Base]:
    """Compose each combination of a product's groups."""
    groups = [axis for axis in product if axis.key in configs.groups]
    options = ("--config-dir", str(configs.folder)) if configs.folder else ()
    for chosen in itertools.product(*(axis.values for axis in groups)):
        own: list[str] = []
        further: list[str] = []
        for axis, option in zip(groups, chosen, strict=True):
            (own if axis.key in GROUPS or axis.key in RUNTIME else further).append(
                f"{'+' * axis.added}{axis.key}={option}"
            )
        config, choices, neutral = configs.compose((*own, *further, *verbatim))
        defaults = dict(leaves(config))
        keys = dotted_keys(config)
        targets = dict(foreign_targets(config))
        files = {group: configs.path(group, option) for group, option in choices.items()}
        yield Base(config, choices, (*further, *verbatim), options, defaults, keys, neutral, targets, files)


def dotted_keys(config: Config) -> frozenset[str]:
    """Return the dotted keys of the leaves of a config, and of the nodes above them."""
    nodes = (itertools.accumulate(key.split("."), "{}.{}".format) for key, _ in leaves(config))
    return frozenset(itertools.chain(*nodes))


def expand_base(base: Base, axes: Sequence[Axis], fingerprint: Callable[[Config], str]) -> Iterator[Cell]:
    """Yield the cells of the product of axes applied to a base; they share what no axis changes of the config."""
    passed: CheckedLeaves = set()
    names_code = any(composite.names_code(axis.key) for axis in axes)
    set_keys = [axis.key for axis in axes] + [
        key for key, value in base.defaults.items() if "${" in str(value)
    ]
    changed = {key.partition(".")[0] for key in set_keys}
    for values in itertools.product(*(axis.values for axis in axes)):
        config = {**base.config}
        config |= copy_config({key: config[key] for key in changed & config.keys()})
        given = list(zip(axes, values, strict=True))
        settings, written = apply_axes(base, config, given)
        check_groups(config, base.files, base.words)
        settings += follow_metric(config, base.defaults, {axis.key: value for axis, value in given})
        config = resolve(config)
        for axis, value in given:
            if is_reference(value):
                found = dict(leaves(config)).get(axis.key)
                set_key(config, axis.key, convert_value(axis.key, found, base.defaults.get(axis.key)))
        check_config(config, written, passed)
        runtime = {key: config.pop(key) for key in RUNTIME}
        words = (*settings, *base.words)
        sources = hash_sources(config, dict(foreign_targets(config)) if names_code else base.targets)
        yield Cell(
            config, fingerprint(config), base.choices, words, runtime, base.options, base.neutral, sources
        )


def apply_axes(
    base: Base, config: Config, given: Sequence[tuple[Axis, Any]]
) -> tuple[list[str], Mapping[str, Any]]:
    """Set the values of axes in a copy of a base's config.

    A name of code that differs from the one in the YAML file replaces its node: other code has other arguments.

    Args:
        base: of the cell.
        config: changed in place.
        given: axes with one of their values each.

    Returns:
        The overrides that do the same, and dotted key -> value of the defaults and of the code that was named.
    """
    defaults, settings = base.defaults, list[str]()
    for axis, value in sorted(given, key=lambda pair: not composite.names_code(pair[0].key)):
        key, node = composite.plain(axis.key, value), composite.node_of(axis.key)
        is_default = key in defaults and defaults[key] == value
        if node and key != axis.key and not is_default:
            if defaults.get(key) != composite.GIVEN_LATER:
                above, _, last = node.rpartition(".")
                find_node(config, above)[last] = {}
                defaults = {k: v for k, v in defaults.items() if not k.startswith(f"{node}.")}
            defaults = defaults | ({key: value} if axis.may_name_code else {})
        if node and axis.key != node and not isinstance(find_node(config, node), dict):
            raise UsageError(composite.say_missing(f"{node}.{composite.TARGET}", config))
        for leaf, item in leaves({key: value}):
            set_key(config, leaf, convert_value(leaf, item, default_of(leaf, defaults)))
        if node and node != composite.WORD_OR_CODE and composite.TARGET not in find_node(config, node):
            raise UsageError(composite.say_missing(f"{node}.{composite.TARGET}", config))
        if axis.key.split(".")[0] not in RUNTIME and not is_default:
            exists = axis.key in base.keys or node
            settings.append(f"{'' if exists else '+'}{composite.to_word(axis.key, value)}")
    return settings, defaults


def default_of(key: str, defaults: Mapping[str, Any]) -> Any:
    """Return a key's default; of one that refers to another key, that key's."""
    default = defaults.get(key)
    return defaults.get(str(default)[2:-1], default) if is_reference(default) else default


def find_node(config: Config, key: str) -> Config:
    """Return the node at a dotted key; an empty dict if there is none."""
    for part in key.split("."):
        config = config.get(part) or {}
    return config


def say_not_taken(
    configs: Configs, key: str, known: Collection[str], choices: Mapping[str, Collection[str]]
) -> str:
    """Return the line that says that the chosen options do not take a composite key, and what takes it.

    Args:
        configs: all options.
        key: composite.
        known: keys of all cells.
        choices: group -> its chosen options.
    """
    node = composite.required_node(key)
    group = key.partition(".")[0]
    takers = []
    for name in configs.groups[group]:
        with contextlib.suppress(UsageError):  # a broken file of the user's folder is not what was asked for
            if node in dotted_keys(configs.compose((f"{group}={name}",)).config):
                takers.append(f"{group}={name}")
    own = sorted(one for one in known if composite.names_code(one) and one.startswith(f"{group}."))
    hint = f"; it takes {', '.join(own)}" if own else ""
    others = f"; {', '.join(takers)} would" if takers else ""
    return f"{group}={','.join(sorted(choices[group]))} does not take {node}{hint}{others}"


def convert_value(key: str, value: Any, default: Any) -> Any:
    """Convert a value to the type of its default, so that 1 and 1.0 give one cell.

    Raises:
        UsageError: if the value cannot be of that type.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = True
    if is_reference(value) or (key == "model.margin" and value is None):
        return value
    if isinstance(default, bool):
        fits = isinstance(value, bool)
    elif isinstance(default, int):
        fits = number and (isinstance(value, int) or value.is_integer())
        value = int(value) if fits else value
    elif isinstance(default, float) or (isinstance(default, str) and REFERENCE.fullmatch(default)):
        fits = number or isinstance(default, str)
        value = float(value) if number and not is_beyond_int64(value) else value
    elif isinstance(default, list):
        fits = isinstance(value, list)
        if fits and any(isinstance(item, float) for item in default):
            value = [convert_value(key, item, 0.0) for item in value]
    elif isinstance(default, str):
        fits = isinstance(value, str | int | float)
    if not fits:
        kinds = {
            bool: "true or false",
            float: "a number",
            int: "a whole number",
            str: "a name",
            list: "a list",
        }
        raise UsageError(
            f"{key} must be {kinds[type(default)]}, got {literal(value)}; the default is {literal(default)}"
        )
    return value
