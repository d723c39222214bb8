"""Code of one's own is part of what a cell is: edited code is another cell, moved code the same, and none is run."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest

from gradbench.config.compose import Configs, Experiment
from gradbench.config.instantiate import instantiate_group
from gradbench.config.sources import source_sha256
from gradbench.errors import UsageError
from gradbench.grid.cell import Cell
from gradbench.grid.expand import expand
from gradbench.storage.results import describe
from gradbench.sweep.plan import make_plan

PACKAGE = {
    "my_pkg/__init__.py": "from .net import Net\nraise RuntimeError('imported while planning')\n",
    "my_pkg/net.py": "from my_pkg.parts import layers\nimport beside\n\n\nclass Net:\n    pass\n",
    "my_pkg/parts/__init__.py": "",
    "my_pkg/parts/layers.py": "def later():\n    from .. import late\n",
    "my_pkg/late.py": "LATE = 1\n",
    "my_pkg/unused.py": "UNUSED = 1\n",
    "beside.py": "BESIDE = 1\n",
}
REACHED = sorted(set(PACKAGE) - {"my_pkg/unused.py"})


@pytest.fixture(autouse=True)
def afresh():
    """Hash anew in each test: in a process, code is hashed once."""
    source_sha256.cache_clear()
    yield
    source_sha256.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    home = tmp_path / "home"
    write(home, PACKAGE)
    monkeypatch.syspath_prepend(home)
    return home


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def hashed(target: str) -> str | None:
    source_sha256.cache_clear()
    importlib.invalidate_caches()
    return source_sha256(target)


@pytest.mark.parametrize("edited", REACHED)
def test_editing_any_module_that_a_target_reaches_changes_its_hash(package, edited):
    before = hashed("my_pkg.Net")
    assert before == hashed("my_pkg.Net")
    (package / edited).write_text(PACKAGE[edited] + "EDITED = 1\n")
    assert hashed("my_pkg.Net") != before


def test_a_module_that_is_not_imported_is_no_part_of_it(package):
    before = hashed("my_pkg.Net")
    (package / "my_pkg/unused.py").write_text("")
    assert hashed("my_pkg.Net") == before


def test_the_module_that_a_name_leads_through_may_be_named_itself(package):
    before = hashed("my_pkg.net.Net")
    assert before is not None
    (package / "my_pkg/net.py").write_text("class Net: pass\n")
    assert hashed("my_pkg.net.Net") != before


def test_code_that_is_moved_to_another_folder_keeps_its_hash(package, tmp_path, monkeypatch):
    before = hashed("my_pkg.Net")
    shutil.move(package, tmp_path / "moved")
    assert hashed("my_pkg.Net") is None
    monkeypatch.syspath_prepend(tmp_path / "moved")
    assert hashed("my_pkg.Net") == before


def test_nothing_is_imported(package):
    before = set(sys.modules)
    assert hashed("my_pkg.Net")
    assert not {"my_pkg", "beside"} & (set(sys.modules) - before)


def test_a_package_without_an_init_file_and_a_file_that_is_no_python_have_hashes_too(tmp_path, monkeypatch):
    write(tmp_path, {"spacious/inner/net.py": "import broken\n", "broken.py": "def ("})
    monkeypatch.syspath_prepend(tmp_path)
    before = hashed("spacious.inner.net.Net")
    (tmp_path / "broken.py").write_text("def )")
    assert hashed("spacious.inner.net.Net") not in (None, before)


def test_an_installed_package_counts_as_a_whole_and_a_lone_module_alone(tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    write(site, {**PACKAGE, "lone.py": "import beside"})
    monkeypatch.syspath_prepend(site)
    before = [hashed(name) for name in ("my_pkg.Net", "lone.Net")]
    (site / "beside.py").write_text("")
    assert [hashed(name) for name in ("my_pkg.Net", "lone.Net")] == before
    (site / "my_pkg/unused.py").write_text("")
    (site / "lone.py").write_text("")
    assert not {hashed(name) for name in ("my_pkg.Net", "lone.Net")} & {*before, None}


@pytest.mark.parametrize(
    "target",
    ["nowhere.Net", "math.sqrt", "sys.exit", "collections.OrderedDict", "functools.partial", "", "..x"],
)
def test_what_is_not_found_built_in_or_standard_has_no_hash(target):
    assert hashed(target) is None


# ---- in a cell -------------------------------------------------------------------------------------------------

OWN = "from gradbench.regularizers import Regularizer\n\n\ndef halve(inner=None):\n    return Regularizer()\n"
MINE = "name: mine\nfamily: clipping\nstrength: null\n_target_: own_code.halve\n"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    write(tmp_path, {"own_code.py": OWN, "conf/regularizer/mine.yaml": MINE})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_code", None)


def cell(home: Path, *words: str) -> Cell:
    hashed("")
    configs = Configs(home / "conf")
    chosen = () if any(word.startswith("regularizer=") for word in words) else ("regularizer=mine",)
    parsed = configs.parse(["model=mlp", *chosen, *words])
    (only,) = expand(configs, Experiment("x"), parsed, lambda _config: "f" * 64)
    return only


def test_an_edit_of_ones_own_regularizer_makes_another_cell_and_another_row(home):
    before = cell(home)
    (home / "own_code.py").write_text(OWN.replace("()", "( )"))
    after = cell(home)
    assert before.id != after.id
    assert before.config == after.config
    assert before.program == after.program, "a clipping shares the pass"
    assert before.regularizer_program != after.regularizer_program
    key = "regularizer._source_sha256"
    assert describe(before)[key] == before.sources["regularizer"] != describe(after)[key]
    assert key not in describe(cell(home, "regularizer=none"))


def test_a_version_stands_for_the_source_and_is_no_argument(home):
    before = cell(home, "+regularizer.version=1")
    (home / "own_code.py").write_text(OWN + "\n# a comment\n")
    after = cell(home, "+regularizer.version=1")
    assert before.id == after.id != cell(home, "+regularizer.version=2").id
    assert "regularizer._source_sha256" not in describe(after)
    assert describe(after)["regularizer.version"] == 1
    assert cell(home, "+regularizer.version=null").sources, "null names no version"
    assert instantiate_group(after.config, "regularizer")


def test_a_function_that_hydra_is_to_get_counts_with_its_source(home):
    inner = "act: {_target_: hydra.utils.get_method, path: own_act.act}\n"
    (home / "own_act.py").write_text("def act(x):\n    return x\n")
    (home / "conf/regularizer/mine.yaml").write_text(MINE + inner)
    before = cell(home)
    assert "regularizer.act" in before.sources
    (home / "own_act.py").write_text("def act(x):\n    return -x\n")
    assert cell(home).id != before.id


def test_a_loaders_version_is_its_argument():
    node = {"name": "mine", "_target_": "collections.ChainMap", "version": 2}
    with pytest.raises(UsageError, match=r"version"):  # which it does not accept
        instantiate_group({"data": node}, "data")


def test_a_target_within_a_group_has_its_own_hash_and_version(home):
    inner = "inner: {_target_: inner_code.one}"
    write(home, {"inner_code.py": "def one():\n    return 1\n", "conf/regularizer/mine.yaml": MINE + inner})
    before = cell(home)
    assert set(before.sources) == {"regularizer", "regularizer.inner"}
    assert describe(before)["regularizer.inner._source_sha256"] == before.sources["regularizer.inner"]
    (home / "inner_code.py").write_text("def one():\n    return 10\n")
    assert cell(home).id != before.id
    (home / "conf/regularizer/mine.yaml").write_text(MINE + inner.replace(".one", ".one, version: 1"))
    versioned = cell(home)
    assert set(versioned.sources) == {"regularizer"}
    assert instantiate_group(versioned.config, "regularizer")


def test_a_loader_of_ones_own_is_no_part_of_a_cell_for_its_data_are(home):
    loader = "name: mine\n_target_: own_code.{}\nroot: a\n"
    ids = set()
    for name in ("load", "load_faster"):
        write(home, {"conf/data/mine.yaml": loader.format(name)})
        ids.add(cell(home, "data=mine").id)
    assert len(ids) == 1


def test_a_target_that_is_not_found_is_refused_in_words_and_not_by_its_hash(home):
    write(home, {"conf/regularizer/mine.yaml": MINE.replace("own_code", "nowhere")})
    assert cell(home).sources == {}
    with pytest.raises(UsageError, match=r"regularizer=mine: cannot import nowhere\.halve"):
        make_plan(None, ["model=mlp", "regularizer=mine"], home / "out", home / "conf")


def test_another_of_gradbenchs_targets_under_a_shipped_name_is_another_cell(home):
    targets = ("clip_norm.clip_norm", "agc.agc")
    ids = []
    for target in targets:
        text = "name: clip_norm\nfamily: clipping\nstrength: threshold\nthreshold: 1.0\nnorm_type: 2.0\n"
        text += f"_target_: gradbench.regularizers.{target}\n"
        write(home, {"conf/regularizer/mine.yaml": text})
        ids.append(cell(home).id)
    assert cell(home, "regularizer=clip_norm").id == ids[0] != ids[1]
