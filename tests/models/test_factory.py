"""Networks and functions that are named by words: found, refused before they are called, and called."""

import re

import pytest
import torch
from torch import nn

from gradbench.errors import UsageError
from gradbench.models.factory import NetworkFactory, load_function

called = []


class Net(nn.Module):
    def __init__(self, inputs: int, outputs: int, width: int, depth: int = 1, **further: int) -> None:
        super().__init__()
        self.linear, self.given = nn.Linear(inputs, outputs), (width, depth, further)


class Strict(nn.Module):
    def __init__(self, shape, width=2):
        super().__init__()
        self.linear, self.shape = nn.Linear(1, width), shape


class Broken(nn.Module):
    def __init__(self):
        raise RuntimeError("out of luck\nsecond line")


class Leaves(nn.Module):
    def __init__(self):
        raise SystemExit(0)


class Empty(nn.Module):
    pass


def typed(noise: int) -> nn.Linear:
    return nn.Linear(noise, 1)


def textual(inputs) -> "Net":
    return Net(inputs, 1, 1)


def unknown() -> "NowhereToBeFound":  # noqa: F821
    return Net(1, 1, 1)


def untyped():
    called.append("untyped")
    return nn.Linear(1, 1)


def mistyped() -> int:
    called.append("mistyped")


def forgets() -> nn.Module:
    pass


NOT_ONE = 3


def loss(outputs, targets, margin=1.0):
    return (outputs - targets).abs().flatten(1).sum(1) * margin


def factory(name, **given):
    return NetworkFactory({"_target_": f"{__name__}.{name}", **given}, "model.network")


def test_a_network_gets_what_its_signature_names_and_what_is_given_wins():
    available = {"inputs": 3, "outputs": 2, "shape": (3,), "vocabulary": 9}
    net = factory("Net", width=7)(**available)
    assert (net.linear.in_features, net.linear.out_features) == (3, 2)
    assert net.given == (7, 1, {}), "**further is no name"
    assert factory("Net", width=7, outputs=5, more=1)(**available).linear.out_features == 5
    assert factory("Strict")(**available).shape == (3,)


@pytest.mark.parametrize(("name", "kind"), [("typed", nn.Linear), ("textual", Net)])
def test_a_function_is_called_if_it_is_annotated_to_return_a_network(name, kind):
    assert isinstance(factory(name)(noise=2, inputs=2), kind)


def test_new_networks_are_drawn_from_torchs_generator():
    torch.manual_seed(5)
    one, other = (factory("Net", width=1)(inputs=3, outputs=2) for _ in range(2))
    torch.manual_seed(5)
    again = factory("Net", width=1)(inputs=3, outputs=2)
    assert torch.equal(one.linear.weight, again.linear.weight)
    assert not torch.equal(one.linear.weight, other.linear.weight)


@pytest.mark.parametrize("name", ["untyped", "mistyped", "NOT_ONE", "nn", "pytest.mark"])
def test_what_is_no_network_is_refused_before_it_is_called(name):
    with pytest.raises(UsageError, match=r"model\.network must name your network"):
        factory(name)()
    assert not called


@pytest.mark.parametrize("name", ["os.system", "builtins.exec", "torch.load"])
def test_no_other_code_is_called_by_a_networks_name(name):
    with pytest.raises(UsageError, match=f"got {re.escape(name)}"):
        NetworkFactory({"_target_": name}, "model.network")()


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        (
            "Net",
            {},
            r"needs width; type model\.network\.width=… \(it is Net\(inputs, outputs, width, depth=1, \*\*f",
        ),
        ("Strict", {"widht": 3}, r"model\.network\.widht: .* has no argument widht; did you mean 'width'\?"),
        ("Nett", {}, r"has no Nett; did you mean 'Net'\?"),
        (
            "Broken",
            {},
            r"building it with no arguments raised RuntimeError: out of luck \(test_factory\.py:\d+\)$",
        ),
        ("Empty", {}, "has no parameters"),
        ("forgets", {}, "returned a NoneType, expected a torch.nn.Module"),
        ("unknown", {}, "reading its annotations raised NameError"),
    ],
)
def test_a_mistake_is_said_on_one_line_with_what_to_type(name, given, said):
    with pytest.raises(UsageError, match=said) as caught:
        factory(name, **given)(inputs=2, outputs=2, shape=(2,))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("node", [None, {}, "word", {"_target_": 3}])
def test_a_node_that_names_nothing_says_what_to_type(node):
    with pytest.raises(UsageError, match=r"type model\.network=my_pkg\.name"):
        NetworkFactory(node, "model.network")


def test_a_module_that_is_not_there_or_does_not_import_is_named(tmp_path, monkeypatch):
    (tmp_path / "halfway.py").write_text("import nowhere_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="there is no module nowhere"):
        NetworkFactory({"_target_": "nowhere.Net"}, "model.network").check()
    with pytest.raises(UsageError, match=r"importing halfway raised ModuleNotFoundError: .*nowhere_at_all"):
        NetworkFactory({"_target_": "halfway.Net"}, "model.network").check()


def test_a_function_gets_its_further_keys():
    outputs, targets = torch.zeros(2, 3), torch.ones(2, 3)
    node = {"_target_": f"{__name__}.loss", "margin": 2.0}
    assert load_function(node, "model.loss")(outputs, targets).tolist() == [6.0, 6.0]
    with pytest.raises(UsageError, match=r"model\.loss\.margn: .*did you mean 'margin'"):
        load_function({"_target_": f"{__name__}.loss", "margn": 2.0}, "model.loss")
    for name in ("Net", "NOT_ONE"):
        with pytest.raises(UsageError, match="must name a function"):
            load_function({"_target_": f"{__name__}.{name}"}, "model.loss")


def test_a_file_of_the_working_folder_that_another_module_takes_the_name_of_is_named(tmp_path, monkeypatch):
    (tmp_path / "code.py").write_text("class Net: pass")
    monkeypatch.chdir(tmp_path)
    expected = r"code has no Net; code is /.*/code\.py, and code\.py in the working folder is passed over: rename it$"
    with pytest.raises(UsageError, match=expected):
        NetworkFactory({"_target_": "code.Net"}, "model.network").check()


def test_an_error_of_a_constructor_shows_what_it_was_given_and_code_that_exits_is_an_error():
    for target, said in (
        ("Strict", r"building it with shape=\(1, 8\), width='abc' raised TypeError: "),
        ("Leaves", r"building it with no arguments called sys\.exit\(0\) \(test_factory\.py:\d+\)$"),
    ):
        node = {"_target_": f"{__name__}.{target}"} | ({"width": "abc"} if target == "Strict" else {})
        with pytest.raises(UsageError, match=said):
            NetworkFactory(node, "model.network")(shape=(1, 8))
