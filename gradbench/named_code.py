"""Code of the user's own by its dotted name: found, checked before it is called, and called. Nothing imports torch."""

import inspect
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from gradbench.errors import UsageError, exits_as_errors, nearest
from gradbench.user_errors import described

TARGET = "_target_"


class NamedCode:
    """A dotted name and its arguments, as a config has them: ``{_target_: my_pkg.f, KEY: value, …}``.

    Args:
        node: the node of the config.
        key: its dotted key, for messages.
        what: what is expected, for messages.

    Raises:
        UsageError: if the node names nothing.
    """

    what = "a function"

    def __init__(self, node: object, key: str) -> None:
        if not isinstance(node, Mapping) or not isinstance(node.get(TARGET), str):
            given = "none" if node is None else repr(node)
            raise UsageError(f"{key} must name {self.what}, got {given}; type {key}=my_pkg.name")
        self.key, self.target = key, str(node[TARGET])
        self.given = {str(name): value for name, value in node.items() if name != TARGET}

    @property
    def typed(self) -> str:
        """The word of a command line that names the code."""
        return f"{self.key}={self.target}"

    def find(self) -> Any:
        """Import what the dotted name names.

        Raises:
            UsageError: if there is no such thing, or its module cannot be imported.
        """
        parts = self.target.split(".")
        for length in range(len(parts) - 1, 0, -1):
            module = ".".join(parts[:length])
            try:
                with exits_as_errors():
                    found: Any = import_module(module)
            except ModuleNotFoundError as error:
                if error.name and f"{module}.".startswith(f"{error.name}."):
                    continue  # a shorter name may be the module's
                raise self.failed(f"importing {module}", error) from error
            except Exception as error:
                raise self.failed(f"importing {module}", error) from error
            for part in parts[length:]:
                if not hasattr(found, part):
                    known = [name for name in dir(found) if not name.startswith("_")]
                    hint = passed_over(parts[0]) or nearest(part, known)
                    raise UsageError(f"{self.typed}: {module} has no {part}{hint}")
                found = getattr(found, part)
            return found
        raise UsageError(
            f"{self.typed}: there is no module {parts[0]}; install its package, or set PYTHONPATH to its folder"
        )

    def arguments(self, target: Callable[..., Any], available: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call: those given, and of what is available those that the signature names.

        Raises:
            UsageError: if one is missing, or one that was given is unknown.
        """
        signature = inspect.signature(target)
        names = {name for name, one in signature.parameters.items() if is_named(one)}
        if self.target.startswith("torchvision.models."):  # its functions pass this on as one of **kwargs
            names.add("num_classes")
        takes_more = any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())
        shown = f"{self.target.rpartition('.')[2]}{signature_of(signature)}"
        for name in () if takes_more else self.given:
            if name not in names:
                raise UsageError(
                    f"{self.key}.{name}: {self.target} has no argument {name}{nearest(name, names)}; it is {shown}"
                )
        arguments = {name: value for name, value in available.items() if name in names} | self.given
        missing = [
            name
            for name, one in signature.parameters.items()
            if one.default is one.empty and name not in arguments and one.kind <= one.KEYWORD_ONLY
            if one.kind is not one.VAR_POSITIONAL
        ]
        if missing:
            words = " ".join(f"{self.key}.{name}=…" for name in missing)
            raise UsageError(f"{self.typed} needs {', '.join(missing)}; type {words} (it is {shown})")
        return arguments

    def failed(self, doing: str, error: Exception) -> UsageError:
        """Return the error that says on one line what the user's code raised, and where."""
        return UsageError(f"{self.typed}: {doing} {described(error)}")


def passed_over(name: str) -> str:
    """Return which file a module is, where one of the working folder was passed over; else an empty string."""
    own = next((path for path in (Path(f"{name}.py"), Path(name)) if path.exists()), None)
    file = getattr(sys.modules.get(name), "__file__", None)
    here = Path(file).resolve().is_relative_to(Path.cwd()) if file else name not in sys.builtin_module_names
    if own is None or here:
        return ""
    return (
        f"; {name} is {file or 'part of Python'}, and {own} in the working folder is passed over: rename it"
    )


def is_named(parameter: inspect.Parameter) -> bool:
    """Return whether an argument can be passed by its name."""
    return parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


def signature_of(signature: inspect.Signature) -> str:
    """Return a signature as text, without annotations."""
    plain = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))
