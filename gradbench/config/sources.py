"""Find and hash the source code of a user's own ``_target_``."""

import ast
import contextlib
import hashlib
import importlib
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

OWN = __name__.partition(".")[0]
"""This package, which is never hashed: the results format identifies what it computes."""

INSTALLED = {"site-packages", "dist-packages"}
"""Names of folders that hold installed packages."""

STANDARD = Path(sysconfig.get_path("stdlib")).resolve()


@cache
def source_sha256(target: str) -> str | None:
    """Hash the source code of a dotted name, once per process, as :func:`hash_source` does."""
    return hash_source(target)


@cache
def imported_sha256(target: str) -> str | None:
    """Import the modules along a dotted name, and return the hash of the source that was imported.

    Once per process: what is edited later is not imported again.

    Returns:
        As :func:`hash_source`; ``None``, too, if the source was edited while it was imported.

    Raises:
        BaseException: whatever the modules raise.
    """
    before = hash_source(target)
    for name, _ in modules_in(
        target.rpartition(".")[0] or target
    ):  # its last part is no module, but may look like one
        importlib.import_module(name)
    return before if hash_source(target) == before else None


def hash_source(target: str) -> str | None:
    """Hash the source code of a dotted name, without importing it.

    The hash covers the modules along the name and, transitively, the modules that they import from the folder of the
    outermost one: the rest of its package, and modules beside it. An installed package counts as a whole. Names of
    modules are hashed but not their paths, so code keeps its hash when it is moved to another folder.

    Args:
        target: for example ``my_pkg.Net``, with ``Net`` defined in ``my_pkg/__init__.py`` or imported there.

    Returns:
        64 hex digits; ``None`` if there is no source: not found, built in, or of the standard library.
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


@cache
def file_sha256(path: str) -> str:
    """Hash the content of a file, once per process.

    Raises:
        OSError: if it cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_standard(folder: Path) -> bool:
    """Return whether a folder belongs to the standard library, compiled modules included."""
    return STANDARD in (folder, folder.parent) and not is_installed(folder)


def is_installed(folder: Path) -> bool:
    """Return whether a folder holds installed packages."""
    return not INSTALLED.isdisjoint(folder.parts)


# ---- finding modules ---------------------------------------------------------------------------------------


def modules_in(target: str) -> Iterator[tuple[str, ModuleSpec]]:
    """Yield (dotted name, spec) of each module along a dotted name, the outermost first."""
    name, path = "", None
    for part in target.split("."):
        name = f"{name}.{part}" if name else part
        spec = find_module(name, path)
        if spec is None:
            return
        yield name, spec
        path = spec.submodule_search_locations
        if path is None:  # a module and no package: the rest of the name is an attribute
            return


def find_module(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """Find the spec of a module, or ``None``; unlike ``importlib.util.find_spec``, without importing its parent.

    Args:
        name: dotted name.
        path: folders of the parent package, ``None`` for a top-level module.
    """
    for finder in sys.meta_path:
        with contextlib.suppress(Exception):  # third-party finders may raise anything
            if spec := finder.find_spec(name, path):
                return spec
    # A namespace package inside another one: finders would look for its parent among the imported modules.
    below = [Path(folder) / name.rpartition(".")[2] for folder in path or ()]
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(folder) for folder in below if folder.is_dir()]
    return spec if spec.submodule_search_locations else None


def parent_folder(spec: ModuleSpec) -> Path | None:
    """Return the folder that holds a top-level module or package; ``None`` for a built-in one."""
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.has_location else [])]
    return Path(str(places[0])).resolve().parent if places else None


def read_content(path: Path) -> bytes | None:
    """Read the bytes of a file; ``None`` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


# ---- reading contents --------------------------------------------------------------------------------------


def read_installed(spec: ModuleSpec) -> dict[str, bytes]:
    """Read all Python files of an installed package, keyed by their path in it; or the one file of a module.

    Reading a package of thousands of files takes a second; following its imports would take a minute.
    """
    folders = list(map(Path, spec.submodule_search_locations or ()))
    files = {path.relative_to(folder).as_posix(): path for folder in folders for path in folder.rglob("*.py")}
    if spec.has_location and not folders:
        files = {spec.name: Path(str(spec.origin))}
    return {name: content for name, path in files.items() if (content := read_content(path)) is not None}


def read_imported(modules: dict[str, ModuleSpec], root: Path) -> dict[str, bytes]:
    """Read modules, and transitively the modules that they import from one folder, keyed by dotted name."""
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
    """Yield the dotted name of every import in a module, at any level; nothing if it is no valid Python.

    Args:
        content: content of the module's file.
        name: dotted name of the module.
        is_package: whether the file is a package's ``__init__.py``.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # Python shows them when the module is imported
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
