"""Code that no other process can import: classes and functions of a notebook, a script, or a function's scope.

It has a dotted name like any other code, and a hash of its source: its own, and that of what it refers to in its scope.
"""

import ast
import dis
import hashlib
import inspect
import linecache
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

from gradbench.errors import UsageError

LOCALS = ".<locals>"

CONTAINERS = (list, tuple, set, frozenset)

GENERATED = "<string>"
"""The file of methods that Python writes for a dataclass."""


@dataclass(frozen=True)
class LocalCode:
    """A class or function that no other process can import.

    Attributes:
        code: the class or function.
        sha256: hash of its sources.
        modules: names of the modules that it refers to, sorted.
    """

    code: Any
    sha256: str
    modules: tuple[str, ...]


REGISTERED: dict[str, LocalCode] = {}
"""Dotted name -> the code, the newest of a name."""


def dotted_name(code: Any) -> str:
    """Return the name under which a class or function is imported, or registered if it cannot be.

    Raises:
        UsageError: if it has no name.
    """
    name = f"{getattr(code, '__module__', None)}.{getattr(code, '__qualname__', '')}".replace(LOCALS, "")
    if not inspect.isclass(code) and not inspect.isfunction(code) and not inspect.isbuiltin(code):
        if code is None or isinstance(code, bool | int | float | str):
            raise UsageError(f"expected a class or a function, got {code!r}")
        kind = type(code).__name__
        raise UsageError(
            f"expected a class or a function, got an object of {kind}; give {kind} itself, or a function"
        )
    if not all(map(str.isidentifier, name.split("."))):
        raise UsageError(f"{name} has no name that a table could show; define it with def")
    return name


def is_local(code: Any) -> bool:
    """Return whether no other process can import a class or function."""
    if is_in_no_module(code) or LOCALS in code.__qualname__:
        return True
    found: Any = sys.modules[code.__module__]
    for part in code.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is not code


def is_in_no_module(code: Any) -> bool:
    """Return whether a class or function was defined in no module that has a file: in a notebook or a script."""
    name = str(code.__module__)
    return name == "__main__" or getattr(sys.modules.get(name), "__spec__", None) is None


def register(code: Any) -> str:
    """Register local code under its dotted name, and return that.

    Raises:
        UsageError: if it has no name, or its source cannot be read, so that edited code would look finished.
    """
    name = dotted_name(code)
    sources, modules = set[tuple[str, str]](), set[str]()
    for kind, what, text in read_sources(code):
        if kind == "module":
            modules.add(what)
        else:
            sources.add((what, text))
    sha256 = hashlib.sha256(repr(sorted(sources)).encode()).hexdigest()
    REGISTERED[name] = LocalCode(code, sha256, tuple(sorted(modules)))
    return name


def read_sources(code: Any) -> Iterator[tuple[str, str, str]]:
    """Yield what local code consists of, and what it refers to, transitively.

    Yields:
        ``("source", name, text)`` of local code; ``("value", name, text)`` of a number, text or array that it reads;
        ``("module", name, "")`` of a module that it uses.

    Raises:
        UsageError: if a source cannot be read.
    """
    waiting, seen = [code], set[int]()

    def is_read(other: Any) -> bool:
        return is_in_no_module(other) or other.__module__ == code.__module__

    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        place = f"{one.__module__}.{one.__qualname__}"
        yield "source", place, source_of(one)
        bases = [("", base) for base in one.__mro__[1:]] if inspect.isclass(one) else []
        for name, value in [*bases, *referred(one)]:
            for part in parts_of(value):
                kind = part if inspect.isclass(part) or isinstance(part, FunctionType) else type(part)
                if is_read(kind):
                    waiting.append(kind)
                elif isinstance(part, ModuleType) or kind is part:
                    yield (
                        "module",
                        str(part.__name__ if isinstance(part, ModuleType) else part.__module__),
                        "",
                    )
            if (text := value_text(value)) is not None:
                yield "value", f"{place}: {name}", text


def parts_of(value: Any, depth: int = 3) -> Iterator[Any]:
    """Yield a value, and what containers hold."""
    yield value
    held = value.values() if isinstance(value, dict) else value if isinstance(value, CONTAINERS) else ()
    for part in held if depth else ():
        yield from parts_of(part, depth - 1)


def referred(code: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of the globals, outer variables, defaults and attributes that a class or function reads."""
    for name, value in list(vars(code).items()) if inspect.isclass(code) else []:
        if not name.startswith("__") and not isinstance(value, FunctionType):
            yield name, value
    for function in functions_of(code):
        known = dict(function.__globals__)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                known[name] = cell.cell_contents
            except ValueError:  # a variable that is assigned later
                known.pop(name, None)
        for name in sorted(set(names_in(function.__code__))):
            if name in known:
                yield name, known[name]
        yield "defaults", (function.__defaults__, function.__kwdefaults__)


def functions_of(code: Any) -> list[FunctionType]:
    """Return the functions of which a class or function consists."""
    if isinstance(code, FunctionType):
        return [code]
    found = []
    for value in vars(code).values() if inspect.isclass(code) else ():
        parts = (
            (value.fget, value.fset) if isinstance(value, property) else (getattr(value, "__func__", value),)
        )
        found += [
            part for part in map(inspect.unwrap, filter(callable, parts)) if isinstance(part, FunctionType)
        ]
    return found


def names_in(code: CodeType) -> Iterator[str]:
    """Yield the names of globals and outer variables that compiled code reads, and the functions within it."""
    yield from code.co_freevars
    yield from (
        one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    )
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def value_text(value: Any) -> str | None:
    """Return text that is equal for equal numbers, texts, arrays, names of code, and containers and records of them.

    Returns ``None`` for anything else.
    """
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, ModuleType):
        return value.__name__
    if inspect.isclass(value) or inspect.isroutine(value):
        return f"{getattr(value, '__module__', '')}.{value.__qualname__}"
    if isinstance(value, dict):
        return value_text(list(value.items()))
    if isinstance(value, CONTAINERS):
        texts = [value_text(item) for item in value]
        if None in texts:
            return None
        return repr(sorted(map(str, texts)) if isinstance(value, set | frozenset) else texts)
    if isinstance(value, SimpleNamespace) or is_dataclass(type(value)) or is_in_no_module(type(value)):
        return value_text(vars(value)) if hasattr(value, "__dict__") else None
    try:
        array = (value.detach().cpu() if hasattr(value, "detach") else value).__array__()
    except Exception:  # it is no array, or NumPy has none of its type
        return None
    if array.dtype.hasobject:  # whose bytes are addresses
        return None
    return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def source_of(code: Any) -> str:
    """Return the source of a class or function.

    Python finds a class in its module's file, and a notebook has none: there its methods lead to the cell.

    Raises:
        UsageError: if it cannot be read.
    """
    try:
        if not inspect.isclass(code):
            return textwrap.dedent(inspect.getsource(code))
        written = [one for one in functions_of(code) if one.__qualname__.startswith(f"{code.__qualname__}.")]
        if is_dataclass(code):
            written = [one for one in written if one.__code__.co_filename != GENERATED]
        # a class without methods is its attributes, which are values
        return textwrap.dedent(class_source(code, written[0])) if written else ""
    except (OSError, TypeError, SyntaxError) as error:
        raise UsageError(
            f"the source of {code.__qualname__} cannot be read, so an edit would go unnoticed; define it in a file or "
            "in a notebook's cell"
        ) from error


def class_source(code: type, method: FunctionType) -> str:
    """Return the source of the innermost class of a name around one of its methods."""
    file = method.__code__.co_filename
    linecache.checkcache(file)
    lines = linecache.getlines(file, method.__globals__)
    line = method.__code__.co_firstlineno
    around = [
        node
        for node in ast.walk(ast.parse("".join(lines)))
        if isinstance(node, ast.ClassDef) and node.name == code.__name__
        if node.lineno <= line <= (node.end_lineno or 0)
    ]
    if not around:
        raise OSError(f"no class {code.__name__} around line {line} of {file}")
    node = max(around, key=lambda node: node.lineno)
    first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
    return "".join(lines[first - 1 : node.end_lineno])
