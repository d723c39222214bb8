"""The house: imports flow one way, and what must open fast imports nothing heavy."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gradbench

PACKAGE = Path(gradbench.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imports(path, statements=None):
    """Return the dotted names a file imports, or some of its statements do; those under TYPE_CHECKING are none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree) if statements is None else statements:
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def within(name, *packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


PACKAGES = (
    "cli",
    "profiling",
    "sweep",
    "launchers",
    "memory",
    "training",
    "tracing",
    "models",
    "regularizers",
    "optimizers",
    "report",
    "storage",
    "grid",
    "config",
    "data",
    "claims",
    "stats",
    "functional",
    "basics",
)
"""From the top of the house to its ground: each imports only from itself and from those below it."""

BASICS = (
    "gradbench",
    "gradbench.__main__",
    "gradbench.errors",
    "gradbench.named_code",
    "gradbench.user_errors",
    "gradbench.cpu_count",
    "gradbench.atomic",
    "gradbench.signals",
    "gradbench.streams",
)
"""Modules outside packages, which anything may import; ``__main__`` is the door and nobody's."""

WITHOUT_TORCH = ("report", "storage", "grid", "config", "data", "claims", "stats", "basics")


def package_of(module):
    """Return the package that a module is in, as ``PACKAGES`` has it."""
    return "basics" if module in BASICS else module.split(".")[1]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_only_from_packages_below_its_own(module):
    place = PACKAGES.index(package_of(module))
    below = set(PACKAGES[place:])
    found = {name for name in imports(MODULES[module]) if name in MODULES and name != "gradbench"}
    if module == "gradbench.__main__":
        below = {"cli", "launchers", "basics"}
    assert not {name for name in found if package_of(name) not in below}


def test_contributing_prints_the_list_of_packages():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert " → ".join(f"`{name}`" for name in PACKAGES[:-1]) in text


@pytest.mark.parametrize("package", WITHOUT_TORCH)
def test_what_opens_fast_imports_no_torch(package):
    for module, path in MODULES.items():
        if package_of(module) == package:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {name for name in imports(path, tree.body) if within(name, "torch", "torchvision")}
            assert not names, module


def test_components_never_import_each_other_hydra_or_typer():
    for one in ("models", "regularizers", "data"):
        others = {"models", "regularizers", "data"} - {one}
        forbidden = [f"gradbench.{other}" for other in others]
        forbidden += ["hydra", "omegaconf", "typer", "gradbench.config"]
        for module, path in MODULES.items():
            if package_of(module) == one:
                assert not {name for name in imports(path) if within(name, *forbidden)}, module


def test_only_the_command_line_knows_typer_and_nothing_imports_the_command_line():
    for module, path in MODULES.items():
        if package_of(module) != "cli":
            assert not any(within(name, "typer") for name in imports(path)), module
            assert module == "gradbench.__main__" or not any(
                within(name, "gradbench.cli") for name in imports(path)
            ), module


@pytest.mark.parametrize("folder", ["models", "regularizers"])
def test_components_are_found_by_their_yaml_and_imported_by_no_other_part(folder):
    components = [name for name in MODULES if name.startswith(f"gradbench.{folder}.")]
    assert components
    for module, path in MODULES.items():
        if not within(module, f"gradbench.{folder}"):
            assert not any(within(name, *components) for name in imports(path)), module


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import gradbench.cli.main", ["torch", "hydra", "pandas", "matplotlib", "sklearn"]),
        ("import gradbench.launchers.forkserver", ["torch", "hydra", "pandas", "numpy"]),
        ("import gradbench.report, gradbench.stats.selection", ["torch", "torchvision", "sklearn"]),
        (
            "import gradbench.grid.expand, gradbench.storage.results, gradbench.config.instantiate",
            ["torch", "matplotlib", "sklearn"],
        ),
        (
            "from gradbench.sweep.plan import make_plan; make_plan(None, ['model=mlp,lstm'])",
            ["torch._dynamo", "matplotlib", "sklearn", "scipy"],
        ),
    ],
)
def test_what_must_open_fast_imports_nothing_heavy(statement, heavy):
    script = f"{statement}; import sys; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_process_that_a_sweep_is_started_in_leaves_torch_to_its_workers(tmp_path):
    words = ["run", "model=mlp", "steps=2", "device=cpu", "--jobs", "1", "--results", str(tmp_path / "out")]
    script = f"""
import sys
from gradbench.cli import main as cli
try:
    cli.main({words!r})
except SystemExit as end:
    print(end.code, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False"


TORCH_VERSIONS = ("2.11", "2.14", "2.15")
"""Those that have passed the suite, the oldest first."""


def test_the_versions_of_torch_that_passed_the_suite_are_named_and_none_older_is_asked_for():
    root = PACKAGE.parent
    required = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert f"torch>={TORCH_VERSIONS[0]}" in required
    named = f"{', '.join(TORCH_VERSIONS[:-1])} and {TORCH_VERSIONS[-1]}"
    assert f"Passes its tests with torch {named}." in (root / "README.md").read_text(encoding="utf-8")


PRIVATE = ("_schema", "_cdata", "kineto_results")
"""Attributes of torch's objects that are private, or not meant for others."""


def private_torch(path):
    """Return the private names of torch that a file uses: in imports, after ``torch.``, and on torch's objects."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {name for name in imports(path) if within(name, "torch") and "._" in name}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            if node.attr in PRIVATE or re.match(r"torch\.(?!ops\.).*\b_[a-z]", dotted):
                names.add(dotted)
    return names


def test_what_is_private_in_torch_is_used_in_one_module():
    users = {module for module, path in MODULES.items() if private_torch(path)}
    assert users == {"gradbench.functional.torch_internals"}
