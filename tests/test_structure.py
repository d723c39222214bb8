"""The house: imports flow one way, and what must open fast imports nothing heavy."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gradbench

PACKAGE = Path(gradbench.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imports(path):
    """Return the dotted names a file imports; those under TYPE_CHECKING are none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
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


def offenders(importers, forbidden):
    return [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        if within(module, *importers)
        for name in sorted(imports(path))
        if within(name, *forbidden)
    ]


COMPONENTS = ["gradbench.models", "gradbench.regularizers", "gradbench.data"]
LOOP = ["gradbench.train", "gradbench.stack", "gradbench.telemetry"]
PLANNING = [
    *("gradbench.config", "gradbench.grid", "gradbench.results", "gradbench.factory"),
    *("gradbench.identity", "gradbench.neutral", "gradbench.sources"),
]
READING = ["gradbench.report", "gradbench.stats", "gradbench.claims.rules"]
BASICS = [
    f"gradbench.{name}" for name in ("optimizers", "parameters", "seeding", "input_gradients", "errors")
]
HYDRA = ["hydra", "omegaconf", "gradbench.config"]


@pytest.mark.parametrize(
    ("importers", "forbidden"),
    [
        (["gradbench.models"], ["gradbench.regularizers", "gradbench.data", *HYDRA]),
        (["gradbench.regularizers"], ["gradbench.models", "gradbench.data", *HYDRA]),
        (["gradbench.data"], ["gradbench.models", "gradbench.regularizers", "torch", *HYDRA]),
        (READING, ["torch", *COMPONENTS, *LOOP, *HYDRA, "gradbench.worker", "gradbench.launchers"]),
        (PLANNING, ["torch", *READING, *LOOP, "gradbench.launchers", "gradbench.worker"]),
        (LOOP, [*READING, *HYDRA, "gradbench.results", "gradbench.launchers", "gradbench.worker"]),
        (BASICS, [*COMPONENTS, *LOOP, *PLANNING, *READING, "hydra"]),
        (["gradbench.stats"], ["gradbench.report", "gradbench.claims", "pandas"]),
        (["gradbench.claims"], ["gradbench.report", "torch", *HYDRA]),
    ],
)
def test_imports_flow_one_way(importers, forbidden):
    assert offenders(importers, forbidden) == []


def test_only_the_command_line_knows_typer_and_nothing_imports_the_command_line():
    for module, path in MODULES.items():
        if module != "gradbench.__main__":
            assert not any(within(name, "gradbench.cli") for name in imports(path)), module
        if module != "gradbench.cli":
            assert not any(within(name, "typer") for name in imports(path)), module


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
        ("import gradbench.cli", ["torch", "hydra", "pandas", "matplotlib", "sklearn"]),
        ("import gradbench.launchers.processes", ["torch", "hydra", "pandas", "numpy"]),
        ("import gradbench.report, gradbench.stats", ["torch", "torchvision", "sklearn"]),
        ("import gradbench.grid, gradbench.results, gradbench.factory", ["torch", "matplotlib", "sklearn"]),
        (
            "from gradbench.sweep import make_plan; make_plan(None, ['model=mlp,lstm'])",
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
from gradbench import cli
try:
    cli.main({words!r})
except SystemExit as end:
    print(end.code, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False"


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
    assert users == {"gradbench.torch_internals"}
