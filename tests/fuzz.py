"""What a person, a file or a stranger might hand to gradbench: words, experiments and tables, from Hypothesis."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import strategies as st

from gradbench.config.compose import Configs, leaves, shipped_folder
from gradbench.config.overrides import literal
from gradbench.storage.parquet import write_table

CONFIGS = Configs()
KEYS = sorted(
    {
        key
        for words in (
            ("model=lstm", "optimizer=adam"),
            ("model=wgan", "regularizer=gp"),
            ("model=mlp", "data=wine", "schedule=warmup_cosine"),
        )
        for key, _ in leaves(CONFIGS.compose(words)[0])
    }
    | {"regularizer.threshold", "regularizer.percentile", "data.path", "data.train", "data.seed"}
)
OPTIONS = {
    "model": CONFIGS.groups["model"],
    "regularizer": ["none", "clip_norm", "gp", "autoclip", "spectral_norm"],
    "optimizer": ["sgd", "adam", "muon"],
    "schedule": ["constant", "warmup_cosine", "milestones"],
    "data": ["digits", "gaussians8", "bible", "text", "ptb", "mnist", "npz", "csv", "loader"],
}


def among(words: str, *further: str) -> st.SearchStrategy[str]:
    """Draw one of the words, or of the further ones, which blanks would cut."""
    return st.sampled_from([*words.split(), *further])


# ---- values ------------------------------------------------------------------------------------------------------

numbers = among(
    "0 -1 1e400 nan inf -inf 1e-320 1_000 007 0x10 1.5 1e3 18446744073709551616",
    *("9" * 400, "9" * 5000),
)
interpolations = among(
    "${seed} ${model.name} ${nowhere} ${a ${} ${.seed} ${..steps} x${seed}y ${seed:} \\${seed} ??? "
    "${oc.env:HOME} ${oc.env:NOT_THERE} ${oc.env:} ${oc.decode:'['} ${oc.decode:'{a:[1,2]}'} "
    "${oc.select:seed} ${oc.dict.keys:model} ${oc.deprecated:seed} ${${model.name}} ${python:1} ${now:%Y} "
    "${hydra:runtime.cwd} ${oc.create:{_target_:os.system}} '${oc.create:{_target_:os.system}}'",
    "${oc.decode:'{_target_: os.system}'}",
)
odd = among(
    "null [] {} [[[[[]]]]] {a:{b:{c:{d:1}}}} ' \" 'a,b' é∑ [red] [/] = == , ,, [1, {a:1 {a:1,a:2} (( "
    "os.system builtins.eval ../../../etc / ~ true yes None ${ } \\",
    *("", "a b", "\u202e", "\x1b[2J", "\udcff", "x\ny", "\t", "\0"),
    *("a" * 3000, "[" * 200, "[" * 300 + "]" * 300, "{a:" * 60),
    *("{_target_:os.system,command:'touch PWNED'}", "[{_target_:os.system,command:'touch PWNED'}]"),
)
sweeps = among(
    "range(3) range(0,1e9) range(0,1,0) range(5,0,-1) range(0,3,1e-30) range(a) range() range(0,1,nan) "
    "range(-9999999999999999999,9999999999999999999) range(0,inf,inf) choice(1,2) choice() interval(0,1) "
    "choice(range(2)) glob(*) glob([a*,m*]) glob(*,exclude=*) glob([) sort(3,2,1) sort(a,1) tag(a,1,2) "
    "sort(a,b,reverse=true) shuffle(1,2) shuffle(range(1000000)) int(1.5) float(3) str(3) bool(x) "
    "json_str([1]) int(choice(1,2)) extend_list(1) 1,2,1",
)


def mixed(weights):
    """Draw from strategies in proportion to their weights."""
    all_of_them = [one for one, weight in weights.items() for _ in range(weight)]
    return st.integers(0, len(all_of_them) - 1).flatmap(
        lambda place: all_of_them[place]
    )  # its repr stays short


texts = mixed({st.text(max_size=12): 1, st.text("'\"\\ ,=:[]{}()$~+@/.*\n\t\0é∑ab10", max_size=12): 2})
quoted = st.recursive(texts | st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=5).map(
    literal
)
values = mixed(
    {
        numbers: 4,
        st.integers(0, 9).map(str): 4,
        st.integers().map(str): 1,
        st.floats().map(str): 2,
        interpolations: 4,
        sweeps: 4,
        odd: 3,
        quoted: 3,
        texts: 1,
    }
)

# ---- words of a command line ---------------------------------------------------------------------------------------

odd_keys = among(
    "hydra.run.dir hydra.searchpath hydra/launcher hydra hydra.mode hydra/job_logging seed. .seed a..b "
    "model._args_ regularizer._partial_ data._recursive_ optimizer._convert_ model.x._target_ ~ $ é 0 "
    "model@other regularizer@_global_ data@:other model@a:b optimizer@hydra /model model/ seed.x "
    "a[0] stack_width[cpu] config defaults experiments model.network model.network. model.network._target_ "
    "model.network.a model.networks model.networks.a model.networks.a.b model.metrics model.metrics.f model.weights "
    "data.loader data.loader.a data.input data.target",
    "",
)
keys = mixed(
    {
        st.sampled_from(KEYS): 12,
        st.sampled_from(KEYS).map(lambda key: key.rpartition(".")[0] or key): 2,
        st.sampled_from(KEYS).map(lambda key: f"{key}.deeper"): 1,
        odd_keys: 2,
        texts: 1,
    }
)
prefixes = st.sampled_from([*[""] * 12, "+", "++", "~", "~~", "+++", "-"])
choices = st.sampled_from(sorted(OPTIONS)).flatmap(
    lambda group: st.lists(st.sampled_from([*OPTIONS[group]]), min_size=1, max_size=2).map(
        lambda chosen: f"{group}={','.join(chosen)}"
    )
)
written = st.builds(lambda prefix, key, value: f"{prefix}{key}={value}", prefixes, keys, values)
sensible = among(
    "seed=range(3) steps=10 regularizer=gp regularizer.lambda=1,10 optimizer.lr=0.1,1e-3 model=lstm "
    "divergence={factor:2} ++note=[a,b] precision=float64 ~optimizer.nesterov model.hidden=4,8 "
    "data=text data.path=text.txt regularizer=glob(*clip*) stack_width.cpu=3"
)


@st.composite
def mutated(draw) -> str:
    """Draw a word that means something, and change a few characters of it."""
    word = draw(sensible | choices)
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, len(word)))
        word = word[:place] + draw(texts) + word[place + draw(st.integers(0, 3)) :]
    return word


deletions = keys.map(lambda key: f"~{key}")
added = st.builds("{}{}={}".format, st.sampled_from(["+", "++"]), st.just("note") | keys, values)
wild = mixed({written: 9, added: 4, mutated(): 2, deletions: 1, texts: 1})
words = st.builds(
    lambda plain, odd, order: order.sample([*plain, *odd], len(plain) + len(odd)),
    st.lists(sensible | choices, max_size=2, unique_by=lambda word: word.split("=")[0]),
    st.lists(wild, min_size=1, max_size=2, unique=True),
    st.randoms(use_true_random=False),
)

# ---- experiments -----------------------------------------------------------------------------------------------------

QUICK = (shipped_folder("experiments") / "quick.yaml").read_text()
PIECES = [
    *("&a [1, 2]", "*a", "<<: *a", "&a\n  x: *a", "!!python/object/apply:os.system ['touch PWNED']"),
    *("!!set {a}", "!!binary aGk=", "!!float x", "seed: 1\n    seed: 2", "? [a]\n: b", "- - - -", ": :"),
    *("[" * 60, "{a: " * 60, "---\n", "...\n", "%YAML 9.9\n", "\t", "\x00", "|", ">", "'", '"', "#", "~"),
    *("regularizer._target_: os.system", "_target_: os.system", "${oc.env:HOME}", "2026-11-22", "0o17"),
    *("1:30", "1e3", ".inf", ".nan", "null: 1", "true: 1", "1: 2", "[a, b]: c", "grid:", "grid: 3"),
    *("question: [1]", "device: [cpu, cuda]", "steps: range(1000000)"),
]
DOUBLED = "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40))
BOMB = f"a0: &a0 [1, 1]\n{DOUBLED}grid: {{seed: *a40}}\n"


@st.composite
def spliced(draw) -> bytes:
    """Draw the shipped experiment with pieces cut out and others put in."""
    text = draw(
        st.sampled_from(
            [QUICK, *["grid:\n  model: mlp\n  steps: 4\n", "grid: {seed: [0, 1], steps: 4}\n"] * 3]
        )
    )
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(text)))
        text = (
            text[:place] + draw(st.sampled_from(PIECES) | values) + text[place + draw(st.integers(0, 30)) :]
        )
    return text.encode("utf-8", "surrogatepass")


plain = st.none() | st.booleans() | st.integers() | st.floats() | texts | values
trees = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | texts, inner, max_size=3),
    max_leaves=8,
)
grids = st.builds(
    lambda grid, question: json.dumps({"question": question, "grid": grid}).encode(),
    st.dictionaries(keys, plain | trees, max_size=3)
    | st.lists(st.dictionaries(keys, plain, max_size=3), max_size=3),
    trees,
)
HOSTILE = [
    BOMB.encode(),
    b"grid: " + b"[" * 2000,
    b"grid: " + b"{a: " * 2000,
    b"\xff\xfe",
    QUICK.encode("utf-16"),
]
experiments = mixed(
    {
        spliced(): 12,
        grids: 12,
        trees.map(lambda tree: json.dumps(tree).encode()): 3,
        st.binary(max_size=200): 2,
        st.sampled_from(HOSTILE): 1,
    }
)

# ---- tables ------------------------------------------------------------------------------------------------


def unicode(text: str) -> str:
    """Return a text without lone surrogates, which no table can hold."""
    return text.encode("utf-8", "replace").decode()


@st.composite
def columns(draw, rows: int) -> pa.Array:
    """Draw a column of any type."""
    kind = draw(
        st.sampled_from(["words", "numbers", "floats", "mixed", "nulls", "nested", "bytes", "times", "small"])
    )
    several = {
        "words": texts | values,
        "numbers": st.integers(-(2**63), 2**63 - 1),
        "floats": st.floats() | st.none(),
        "nulls": st.none(),
        "nested": st.lists(st.integers(0, 3), max_size=2),
        "bytes": st.binary(max_size=5),
        "times": st.datetimes(),
        "small": st.booleans() | st.none(),
        "mixed": st.sampled_from(["completed", "diverged", "failed", "none", "0", None]),
    }[kind]
    drawn = draw(st.lists(several, min_size=rows, max_size=rows))
    return pa.array([unicode(item) if isinstance(item, str) else item for item in drawn])


@st.composite
def tables(draw, table: pa.Table) -> pa.Table:
    """Draw a table with columns dropped, renamed, added, of another type, and rows repeated or gone."""
    picked = draw(
        st.lists(st.integers(0, len(table) - 1), max_size=len(table) + 2) | st.just(range(len(table)))
    )
    table = table.take(pa.array(picked, pa.int64()))
    for _ in range(draw(st.integers(1, 3))):
        names = table.column_names
        place = draw(st.integers(0, len(names) - 1))
        others = st.sampled_from([*names, *KEYS, "a/b", "", "[red]", "regularizer.x"])
        name = unicode(draw(st.just(names[place]) | others | texts))
        do = draw(st.sampled_from(["drop", "rename", "set", "set", "set", "set", "add"]))
        if do == "drop" and len(names) > 1:
            table = table.remove_column(place)
        elif do == "rename":
            table = table.rename_columns([*names[:place], name, *names[place + 1 :]])
        elif do == "set":
            table = table.set_column(place, names[place], draw(columns(len(table))))
        else:
            table = table.append_column(name, draw(columns(len(table))))
    return table


@st.composite
def torn(draw, content: bytes) -> bytes:
    """Draw a file's content cut short, or with bytes changed, or something else altogether."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.binary(max_size=300))
    cut = content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content
    changed = bytearray(cut)
    for _ in range(draw(st.integers(0, 4)) if changed else 0):
        # a Parquet file's metadata stands at its end
        place = draw(
            st.integers(0, len(changed) - 1) | st.integers(max(0, len(changed) - 600), len(changed) - 1)
        )
        changed[place] = draw(st.integers(0, 255))
    return bytes(changed)


def write_results(folder: Path, ids: list[str]) -> None:
    """Write results such as a run leaves, a row per cell, sealed as it seals them."""
    count = len(ids)
    row = {
        "model": "mlp", "model.metric": "test/accuracy", "model.goal": "max", "model.unit": "accuracy",
        "data": "digits", "regularizer": "clip_norm", "regularizer.family": "clipping",
        "regularizer.strength": "threshold", "regularizer.threshold": 1.0, "optimizer": "sgd", "optimizer.lr": 0.1,
        "steps": 4, "test/accuracy": 0.9, "step_seconds": 1e-3, "seconds": 0.1, "width": count, "gradbench": "0.1.0",
        "torch": "2.6.0", "device": "cpu", "finished": "2026-11-22", "error": None, "diverged_at": None,
        "command": "gradbench run model=mlp", "data_sha256": "0", "format": 1,
    }  # fmt: skip
    cells = pd.DataFrame([{"cell": cell, **row} for cell in ids])
    cells["seed"], cells["status"] = np.arange(count) // 2, "completed"
    cells.loc[::2, ["regularizer", "regularizer.threshold", "regularizer.strength"]] = ["none", None, None]
    curves = pd.DataFrame({"cell": np.repeat(ids, 4), "step": np.tile(np.arange(1, 5), count), "loss": 1.0})
    for name, table in (("cells", cells), ("curves", curves)):
        (folder / name).mkdir(parents=True)
        write_table(folder / name / "a.parquet", pa.Table.from_pandas(table, preserve_index=False))
    (folder / "arrays").mkdir()
    np.savez(folder / "arrays" / f"{ids[0]}.npz", samples=np.zeros((5, 2)))
    (folder / "experiment.yaml").write_text("experiment: x\nquestion: y\ncommand: gradbench run quick\n")
