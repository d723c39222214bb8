"""Hydra's configs and its override grammar: from names and ``key=value`` words to plain nested dicts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradbench.errors import UsageError, nearest

PACKAGE = Path(__file__).resolve().parent

Config = dict[str, Any]


def shipped(folder: str) -> Path:
    """Return ``conf`` or ``experiments`` as they travel: inside the wheel, or beside the package in a clone."""
    inside = PACKAGE / folder
    return inside if inside.is_dir() else PACKAGE.parent / folder


@dataclass(frozen=True)
class Axis:
    """A key and the values it takes.

    Args:
        key: dotted path of a leaf, or a group's name.
        values: plain values, in order.
        added: the key need not exist (``+key=``).
    """

    key: str
    values: tuple[Any, ...]
    added: bool = False


@dataclass(frozen=True)
class Words:
    """An override line, parsed: axes, and the words that only Hydra itself can act on (``~key``)."""

    axes: tuple[Axis, ...] = ()
    deletions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """A question and the grid that answers it.

    Args:
        name: also the default results folder's name.
        question: one sentence.
        products: each a product of axes; the grid is their union.
    """

    name: str
    question: str = ""
    products: tuple[tuple[Axis, ...], ...] = ((),)
    source: Mapping[str, Any] = field(default_factory=dict)


class Configs:
    """All configs within reach: those that travel with the package, then those of the user's folder.

    Args:
        folder: the user's own config folder (``--config-dir``), with ``model/``, ``regularizer/``, … and perhaps
            ``experiments/``.

    Raises:
        UsageError: where the folder does not exist.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise UsageError(f"--config-dir {folder} is not a folder; give one that holds model/, regularizer/, …")
        self.folder = folder.resolve() if folder else None
        self.compose = lru_cache(maxsize=None)(self._compose)

    @property
    def groups(self) -> dict[str, list[str]]:
        """Group -> its options, sorted."""
        found: dict[str, set[str]] = {}
        for root in filter(None, (shipped("conf"), self.folder)):
            for path in root.glob("*/*.yaml"):
                if path.parent.name != "experiments":
                    found.setdefault(path.parent.name, set()).add(path.stem)
        return {group: sorted(options) for group, options in sorted(found.items())}

    @property
    def experiments(self) -> dict[str, Path]:
        """Experiment -> its file; the user's own take precedence."""
        roots = [shipped("experiments")] + ([self.folder / "experiments"] if self.folder else [])
        return {path.stem: path for root in roots for path in sorted(root.glob("*.yaml"))}

    def path(self, group: str, option: str) -> Path:
        """Return the file of a group's option; the package's own take precedence, as in Hydra's search path."""
        roots = [shipped("conf")] + ([self.folder] if self.folder else [])
        return next(path for root in roots if (path := root / group / f"{option}.yaml").is_file())

    def _compose(self, words: tuple[str, ...]) -> tuple[Config, dict[str, str]]:
        """Compose one config; return it with interpolations unresolved, and the option of every group.

        Raises:
            UsageError: in one line, for anything Hydra refuses.
        """
        search = [f"hydra.searchpath=[file://{self.folder}]"] if self.folder else []
        try:
            with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
                composed = compose("config", overrides=[*words, *search], return_hydra_config=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(one_line(error)) from error
        chosen = OmegaConf.to_container(composed.hydra.runtime.choices)
        assert isinstance(chosen, dict)
        OmegaConf.set_struct(composed, False)
        del composed["hydra"]
        config = OmegaConf.to_container(composed)
        assert isinstance(config, dict)
        choices = {str(key): str(chosen[key]) for key in self.groups if key in chosen}
        return {str(key): value for key, value in config.items()}, choices

    def parse(self, words: list[str]) -> Words:
        """Parse command-line overrides, sweeps included.

        Raises:
            UsageError: for a word that is not Hydra's grammar, or an option that its group does not have.
        """
        axes: dict[str, Axis] = {}
        deletions = []
        for word in words:
            override = parse_word(word)
            if override.is_delete():
                deletions.append(word)
                continue
            axis = Axis(override.key_or_group, tuple(self._values(override)), override.is_add())
            self.check_options(axis)
            if axis.key in axes:
                raise UsageError(f"{axis.key} is given twice: {word}; give it once, as {axis.key}=a,b")
            axes[axis.key] = axis
        return Words(tuple(axes.values()), tuple(deletions))

    def check_options(self, axis: Axis) -> None:
        """Refuse options that a group does not have, by name."""
        options = self.groups.get(axis.key)
        if options is None:
            return
        for value in axis.values:
            # YAML and Hydra read `none` as a word, but a bare null is one too
            if str(value) not in options:
                raise UsageError(
                    f"there is no {axis.key}={value}{nearest(str(value), options)} "
                    f"({axis.key} is one of: {', '.join(options)})"
                )

    def _values(self, override: Override) -> Iterator[Any]:
        key = override.key_or_group
        if not override.is_sweep_override():
            yield override.value()
        elif override.value_type == ValueType.INTERVAL_SWEEP:
            raise UsageError(f"{override.input_line}: an interval has no points to train; use range() or a list")
        elif override.value_type == ValueType.GLOB_CHOICE_SWEEP:
            glob: Any = override.value()
            options = glob.filter(self.groups.get(key, []))
            if not options:
                raise UsageError(f"{override.input_line} matches nothing; {key} has {self.groups.get(key, [])}")
            yield from options
        else:
            for text in override.sweep_string_iterator():
                yield parse_word(f"{key}={text}").value()

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
            spec = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            raise UsageError(f"{path} is not readable YAML: {one_line(error)}") from error
        return self._experiment(path, spec)

    def _experiment(self, path: Path, spec: Any) -> Experiment:
        if not isinstance(spec, dict) or "grid" not in spec:
            raise UsageError(f"{path} needs a key 'grid': one product of axes, or a list of products")
        grid = spec["grid"]
        products = grid if isinstance(grid, list) else [grid]
        if not products or not all(isinstance(product, dict) for product in products):
            raise UsageError(f"{path}: each product in 'grid' must map keys to values, like 'seed: [0, 1]'")
        parsed = tuple(tuple(self._axis(str(key), value) for key, value in product.items()) for product in products)
        return Experiment(path.stem, str(spec.get("question", "")), parsed, spec)

    def _axis(self, key: str, value: Any) -> Axis:
        """Return the axis of one line of YAML: a list, a single value, or text in Hydra's sweep grammar."""
        if isinstance(value, str):
            values = tuple(self._values(parse_word(f"{key}={value}")))
        else:
            values = tuple(value) if isinstance(value, list) else (value,)
        if not values:
            raise UsageError(f"the axis {key} has no values; give at least one")
        axis = Axis(key.removeprefix("+"), values, key.startswith("+"))
        self.check_options(axis)
        return axis


def parse_word(word: str) -> Override:
    """Parse one override in Hydra's grammar.

    Raises:
        UsageError: in one line.
    """
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise UsageError(
            f"cannot read '{word}': {one_line(error)}; overrides look like key=value, key=a,b or key=range(5)"
        ) from error


def one_line(error: BaseException) -> str:
    """Return the first lines of an error's message as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not set(line.strip()) <= {"^", "~"}]
    return "; ".join(lines[:2]).rstrip(".") or type(error).__name__


def resolve(config: Config) -> Config:
    """Return a config with its interpolations resolved.

    Raises:
        UsageError: for a mandatory value (``???``) that is missing, or an interpolation that leads nowhere.
    """
    for key, value in leaves(config):
        if value == "???":
            raise UsageError(f"{key} must be given: add {key}=…")
    if not any(isinstance(value, str) and "${" in value for _, value in leaves(config)):
        return config
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(one_line(error)) from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every leaf; a list is a leaf."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
