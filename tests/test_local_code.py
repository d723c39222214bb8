"""Code that only this process has is known by a hash of what it computes."""

import linecache
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from gradbench.errors import UsageError
from gradbench.local_code import REGISTERED, is_local, register

CELL = """
@dataclass
class Sizes:
    count: int

class Base:
    def scale(self): return {scale}

def helper(x): return x {sign} OFFSET

class Net(Base):
    kind = "{kind}"
    def forward(self, x, by={by}): return [helper(x) for _ in range(SIZES[0] + RECORD.count)], ACT

    class Net:
        pass
"""
PLAIN = {
    "scale": 1,
    "sign": "+",
    "kind": "a",
    "by": 2,
    "OFFSET": 3,
    "SIZES": (2, 4),
    "count": 1,
    "ACT": torch.tanh,
    "unread": 0,
}


def in_notebook(monkeypatch, **changed):
    """Define a class as a notebook does, whose cells have names that are no files; return the name it registers."""
    values = PLAIN | changed
    text = CELL.format(**values)
    file = f"/tmp/ipykernel_1/{abs(hash(text))}.py"
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
    names = {"__name__": "__main__", "dataclass": dataclass} | {
        name: values[name] for name in ("OFFSET", "SIZES", "ACT", "unread")
    }
    exec(compile(text, file, "exec"), names)
    names["RECORD"] = names["Sizes"](values["count"])
    monkeypatch.setattr(sys.modules["__main__"], "__file__", None, raising=False)
    return register(names["Net"])


def sha256(monkeypatch, **changed):
    return REGISTERED[in_notebook(monkeypatch, **changed)].sha256


def test_a_class_of_a_notebook_is_found_by_its_dotted_name(monkeypatch):
    assert in_notebook(monkeypatch) == "__main__.Net"


@pytest.mark.parametrize(
    "changed",
    [
        {"scale": 2},
        {"sign": "-"},
        {"kind": "b"},
        {"by": 5},
        {"OFFSET": 4},
        {"SIZES": (3, 4)},
        {"count": 2},
        {"ACT": torch.relu},
        {"ACT": torch.nn.Tanh},
        {"ACT": torch.nn.ReLU},
        {"ACT": np.arange(3)},
        {"ACT": [lambda x: x]},
        {"ACT": {"a": [torch.relu]}},
    ],
)
def test_what_a_class_computes_is_in_its_hash_wherever_it_stands(monkeypatch, changed):
    before = sha256(monkeypatch)
    assert sha256(monkeypatch, **changed) != before
    assert sha256(monkeypatch) == before


def test_what_a_class_does_not_read_is_not_in_its_hash(monkeypatch):
    assert sha256(monkeypatch, unread=1) == sha256(monkeypatch)


@pytest.mark.parametrize(
    "value",
    [object(), torch.zeros(2, dtype=torch.bfloat16), np.array([object()]), torch.nn.Linear(1, 1), print],
)
def test_a_value_of_any_kind_may_be_read(monkeypatch, value):
    assert sha256(monkeypatch, ACT=value) == sha256(monkeypatch, ACT=value)


def test_the_source_of_a_function_in_a_container_is_in_the_hash(monkeypatch):
    found = set()
    for held in (
        lambda x: x + 1,
        lambda x: x + 2,
    ):
        held.__module__ = "__main__"
        found.add(sha256(monkeypatch, ACT={"first": [held]}))
    assert len(found) == 2


def test_code_without_source_is_refused_in_one_line():
    names = {"__name__": "__main__"}
    exec("class Net:\n    def forward(self): pass", names)
    with pytest.raises(UsageError, match="the source of Net cannot be read, so an edit would go unnoticed"):
        register(names["Net"])


def test_code_that_others_can_import_is_not_local():
    import networks

    assert not is_local(networks.MLP)
    assert not is_local(linecache.getline)

    def inner():
        pass

    assert is_local(inner)


def test_the_functions_of_installed_packages_are_not_read():
    import torch.nn.functional as F

    class Net(torch.nn.Module):
        def forward(self, x):
            return F.max_pool2d(x, 2)

    name = register(Net)
    assert name == f"{__name__}.test_the_functions_of_installed_packages_are_not_read.Net"
    assert (
        "torch._jit_internal" in REGISTERED[name].modules or "torch.nn.functional" in REGISTERED[name].modules
    )
