"""The code behind a ``_target_`` of somebody's own: found and hashed, and never imported."""

import ast
import contextlib
import hashlib
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

OWN = __name__.partition(".")[0]
"""This package: its version and the results format say what it computes."""

INSTALLED = {"site-packages", "dist-packages"}
"""Folders that installed packages lie in."""

STANDARD = Path(sysconfig.get_path("stdlib")).resolve()


@cache
def source_sha256(target: str) -> str | None:
    """Return a hash of the code that a dotted name leads to, as it was when first asked for.

    It covers the modules that the name leads through and, transitively, what they import from the folder that the
    outermost one lies in: the rest of its package, and modules beside it. An installed package counts as a whole.
    Names of modules are hashed, paths are not: code that is moved to another folder keeps its hash.

    Args:
        target: like ``my_pkg.Net``, whether ``Net`` is defined in ``my_pkg/__init__.py`` or imported there.

    Returns:
        64 hex digits; ``None`` where there is no source to hash: not found, built in, or of the standard library.
    """
    modules = dict(modules_in(target))
    root = parent_folder(next(iter(modules.values()))) if modules else None
    if root is None or is_standard(root):
        return None
    contents = (
        read_installed(next(iter(modules.values()))) if is_installed(root) else read_imported(modules, root)
    )
    whole = hashlib.sha256()
    for name, content in sorted(contents.items()):
        whole.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return whole.hexdigest() if contents else None


def is_standard(folder: Path) -> bool:
    """Return whether a folder is the standard library's, or that of its compiled modules."""
    return STANDARD in (folder, folder.parent) and not is_installed(folder)


def is_installed(folder: Path) -> bool:
    """Return whether a folder is one that packages are installed into."""
    return not INSTALLED.isdisjoint(folder.parts)


# ---- finding modules ---------------------------------------------------------------------------------------


def modules_in(target: str) -> Iterator[tuple[str, ModuleSpec]]:
    """Yield (dotted name, spec) of each module that a dotted name leads through, the outermost first."""
    name, path = "", None
    for part in target.split("."):
        name = f"{name}.{part}" if name else part
        spec = find_module(name, path)
        if spec is None:
            return
        yield name, spec
        path = spec.submodule_search_locations
        if path is None:  # what follows is inside the module
            return


def find_module(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """Return where a module lies, or ``None``; unlike ``importlib.util.find_spec`` it imports no parent.

    Args:
        name: dotted.
        path: the parent package's folders, ``None`` for a module without a parent.
    """
    for finder in sys.meta_path:
        with contextlib.suppress(Exception):  # a finder may be anybody's
            if spec := finder.find_spec(name, path):
                return spec
    # a folder without __init__.py inside another: finders look for the parent among what has been imported
    below = [Path(folder) / name.rpartition(".")[2] for folder in path or ()]
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(folder) for folder in below if folder.is_dir()]
    return spec if spec.submodule_search_locations else None


def parent_folder(spec: ModuleSpec) -> Path | None:
    """Return the folder that an outermost module or package lies in; ``None`` for what is built in."""
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.has_location else [])]
    return Path(str(places[0])).resolve().parent if places else None


def read_content(path: Path) -> bytes | None:
    """Return the bytes of a file, or ``None`` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


# ---- gathering contents ------------------------------------------------------------------------------------


def read_installed(spec: ModuleSpec) -> dict[str, bytes]:
    """Return the content of each Python file of an installed package, by its path within; of a module, its file.

    A package of thousands of files is read in a second; following its imports would take a minute.
    """
    folders = list(map(Path, spec.submodule_search_locations or ()))
    files = {path.relative_to(folder).as_posix(): path for folder in folders for path in folder.rglob("*.py")}
    if spec.has_location and not folders:
        files = {spec.name: Path(str(spec.origin))}
    return {name: content for name, path in files.items() if (content := read_content(path)) is not None}


def read_imported(modules: dict[str, ModuleSpec], root: Path) -> dict[str, bytes]:
    """Return the content of modules, and of all that they import from one folder, by dotted name."""
    waiting, seen = list(modules.items()), set[str]()
    contents = {}
    while waiting:
        name, spec = waiting.pop()
        content = read_content(Path(str(spec.origin))) if spec.has_location else None
        if name in contents or content is None:
            continue
        contents[name] = content
        for wanted in set(imported_names(content, name, spec.submodule_search_locations is not None)) - seen:
            seen.add(wanted)
            found = list(modules_in(wanted)) if wanted.partition(".")[0] != OWN else []
            if found and parent_folder(found[0][1]) == root:
                waiting += found
    return contents


def imported_names(content: bytes, name: str, is_package: bool) -> Iterator[str]:
    """Yield the dotted name of everything that a module imports, wherever it does; nothing where it is no Python.

    Args:
        content: of its file.
        name: its own, dotted.
        is_package: whether it is a package's ``__init__.py``.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of invalid escapes: whoever imports it hears of them
            tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = name.split(".")[: None if is_package else -1]
            parents = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
