"""Instantiate the ``_target_`` of a group of a resolved config, and load data."""

import inspect
import json
import time
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_method, instantiate

from gradbench.config.composite import PLAYERS, TARGET
from gradbench.config.hashing import canonical
from gradbench.config.identity import VERSION
from gradbench.config.sources import OWN
from gradbench.data import Data, Description
from gradbench.data.checks import check_data
from gradbench.errors import UsageError

NO_ARGUMENTS = {
    "model": {"name", "metric", "goal", "unit", "scale", "margin", "gradient_center", "targets", "weights"},
    "regularizer": {"name", "family", "strength", PLAYERS},
    "optimizer": {"name", "lr"},
    "schedule": {"name"},
    "data": {"name"},
    "launcher": {"name"},
}
"""Group -> keys that are no arguments of its ``_target_``."""

QUICK_SECONDS = 1.0
"""Seconds that a plan takes at most to find out whether data stay the same."""

PLAIN = {"model": ("network", "networks", "loss", "metrics"), "data": ("loader",)}
"""Group -> keys whose nodes are passed as mappings: the target decides when to call theirs, and with what."""


def instantiate_group(
    config: Mapping[str, Any], group: str, without: Collection[str] = (), **arguments: Any
) -> Any:
    """Call a group's ``_target_`` with the group's keys as arguments.

    Hydra instantiates the nodes below it first, except those of ``PLAIN``, such as a model's ``network``: these are
    passed as plain dicts, without entries that are null.

    Args:
        config: resolved.
        group: ``model``, ``regularizer``, ``optimizer``, ``schedule``, ``data`` or ``launcher``.
        without: further keys that are no arguments, such as a strength, which differs from cell to cell.
        arguments: passed in addition to the config's, where the target's signature has them.

    Raises:
        UsageError: if the target cannot be imported, or refuses its arguments.
    """
    node = config[group]
    skipped = NO_ARGUMENTS[group] | set(without)
    kept = {key: value for key, value in node.items() if key not in skipped}
    if group != "data":  # whose fingerprint is part of ids, and whose version may be an argument
        kept = without_versions(kept)
    nodes = {key: kept.pop(key) for key in PLAIN.get(group, ()) if key in kept}
    for key in {"networks", "metrics"} & nodes.keys():
        nodes[key] = {name: node for name, node in (nodes[key] or {}).items() if node is not None}
    try:
        target = instantiate({**kept, "_partial_": True}, _convert_="all")
        wanted = {key: value for key, value in arguments.items() if accepts(target.func, key)}
        return target(**nodes, **wanted)  # not through Hydra, which would copy them
    except UsageError:
        raise
    except Exception as error:  # Hydra wraps whatever the target raises
        cause = (isinstance(error, InstantiationException) and error.__cause__) or error
        if isinstance(cause, UsageError):
            raise cause from None
        raise UsageError(
            f"{group}={node['name']}: {explain_failure(cause, node['_target_'], config)}"
        ) from error


def find_function(target: str) -> Callable[..., Any]:
    """Return the function that a target of gradbench's own names."""
    return get_method(target)


def accepts(target: Callable[..., Any], name: str) -> bool:
    """Return whether a callable takes a keyword; where a class's constructor has ``**keys``, its base's counts."""
    functions: list[Callable[..., Any]] = [target]
    if isinstance(target, type):
        functions = [kind.__init__ for kind in inspect.getmro(target)[:-1] if "__init__" in vars(kind)]  # type: ignore[misc]
    for function in functions:
        parameters = inspect.signature(function).parameters
        if name in parameters:
            return True
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
            return False
    return bool(functions)


def without_versions(node: Mapping[str, Any]) -> dict[str, Any]:
    """Remove each ``version`` beside a foreign ``_target_`` from a node: it is part of ids, and no argument."""
    return {
        key: without_versions(value) if isinstance(value, Mapping) else value
        for key, value in node.items()
        if not (key == VERSION and str(node.get(TARGET, OWN)).partition(".")[0] != OWN)
    }


def explain_failure(cause: BaseException, target: str, config: Mapping[str, Any]) -> str:
    """Return one line that says why a target could not be called, and what to do."""
    reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    if isinstance(cause, ImportError | AttributeError):
        return f"cannot import {target} ({reason}); install its package, or type the command in its folder"
    if isinstance(cause, KeyError):
        name = config["data"]["name"]
        return (
            f"it needs data with {reason}, and data={name} has none; leave out data={name} for the model's own data, "
            "or choose others or another model"
        )
    if isinstance(cause, TypeError):
        return f"{target} does not accept its keys: {reason}"
    return reason


def load_data(config: Mapping[str, Any]) -> Data:
    """Load the data of a resolved config; raises as :func:`instantiate_group`."""
    data: Data = instantiate_group(config, "data")
    return data


@cache
def load_once(data: str) -> Data:
    """Load data once per process, from the JSON of its config group, and check it.

    Raises:
        UsageError: naming the first value that training could not take.
    """
    config = json.loads(data)
    loaded = load_data({"data": config})
    try:
        check_data(loaded)
    except UsageError as error:
        raise UsageError(f"data={config['name']}: {error}") from error
    return loaded


def fingerprint(config: Mapping[str, Any]) -> str:
    """Return the fingerprint of a config's data."""
    return load_once(canonical(config["data"])).fingerprint


def describe_data(data: str) -> Description:
    """Load data as :func:`load_once` does, and describe it; the user's own code is called again, if it is quick.

    Raises:
        UsageError: as :func:`load_once`, and if other data come at the second call: no worker would find these.
    """
    start = time.monotonic()
    loaded = load_once(data)
    is_quick = time.monotonic() - start < QUICK_SECONDS
    config = json.loads(data)
    is_own = "loader" in config or str(config[TARGET]).partition(".")[0] != OWN
    if is_own and is_quick and load_data({"data": config}).fingerprint != loaded.fingerprint:
        raise UsageError(
            f"data={config['name']}: its code returns other data at each call; let it draw with a seed of its own, as "
            "np.random.default_rng(0) does"
        )
    return Description.of(loaded)
