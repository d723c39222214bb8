"""The catalog of models, regularizers, data, optimizers, schedules and experiments, generated from their YAML files.

    python -m gradbench.cli.catalog > conf/README.md

writes it as Markdown, with the comment of every key; a test checks that the file is up to date.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from gradbench.cli.own_data import OWN_DATA
from gradbench.config.comments import first_comment, header_comments, parse_comments
from gradbench.config.compose import Configs, leaves, shipped_folder
from gradbench.config.composite import typed
from gradbench.config.instantiate import NO_ARGUMENTS
from gradbench.config.neutral import NEUTRAL
from gradbench.config.overrides import REFERENCE
from gradbench.errors import UsageError, nearest

KINDS = {
    "models": "model",
    "regularizers": "regularizer",
    "data": "data",
    "optimizers": "optimizer",
    "schedules": "schedule",
    "launchers": "launcher",
}
"""Name of each group in ``gradbench info`` -> name of the config group."""


@dataclass(frozen=True)
class CatalogEntry:
    """One option: its name, the first comment of its file, and its keys with defaults."""

    name: str
    summary: str
    keys: str


@dataclass(frozen=True)
class CatalogSection:
    """The options of one group, or the experiments."""

    title: str
    entries: list[CatalogEntry]


def catalog_sections(kind: str | None, config_dir: Path | None) -> list[CatalogSection]:
    """Return the sections of ``gradbench info``: one kind, or all of them if ``kind`` is ``None``.

    Raises:
        UsageError: for an unknown kind.
    """
    kinds = [*KINDS, "experiments"]
    singular = {"experiment": "experiments"} | {group: title for title, group in KINDS.items()}
    kind = singular.get(kind, kind) if kind else None
    if kind is not None and kind not in kinds:
        raise UsageError(f"info lists {', '.join(kinds)}; got '{kind}'{nearest(kind, kinds)}")
    configs = Configs(config_dir)
    titles = [kind] if kind else kinds
    options = group_entries(configs, [KINDS[title] for title in titles if title in KINDS])
    sections = []
    for title in titles:
        if title == "experiments":
            entries = [experiment_entry(configs, name) for name in configs.experiments]
        else:
            entries = options[KINDS[title]]
        usage = "gradbench run NAME" if title == "experiments" else f"gradbench run {KINDS[title]}=NAME"
        sections.append(CatalogSection(f"{title} ({usage})", entries))
    return sections


def group_entries(configs: Configs, groups: Sequence[str]) -> dict[str, list[CatalogEntry]]:
    """Return the entries of each group's options.

    One config has a shipped option of every group, as composing takes long. Options of the user's folder are composed
    alone: they may be broken, or set keys of other groups.
    """
    shipped = Configs().groups
    own = [(group, name) for group in groups for name in configs.groups[group] if name not in shipped[group]]
    together = zip_longest(*(shipped[group] for group in groups))
    found = dict[tuple[str, str], CatalogEntry]()
    for chosen in [*([one] for one in own), *(zip(groups, names, strict=True) for names in together)]:
        options = [(group, name) for group, name in chosen if name is not None]
        config = configs.compose(tuple(f"{group}={name}" for group, name in options)).config
        found |= {(group, name): option_entry(configs, group, name, config) for group, name in options}
    return {group: [found[group, name] for name in configs.groups[group]] for group in groups}


def option_entry(configs: Configs, group: str, name: str, config: Mapping[str, Any]) -> CatalogEntry:
    """Return the entry of one option of a group, with its keys and their defaults in a config that has chosen it."""
    path = configs.path(group, name)
    text = path.read_text(encoding="utf-8")
    hidden = NO_ARGUMENTS[group] - {"lr"} | {"_target_"}
    found = ((typed(f"{group}.{key}"), value) for key, value in leaves(config[group]))
    values = {key.removeprefix(f"{group}."): value for key, value in found}
    keys = [f"{key}={format_default(value)}" for key, value in values.items() if key not in hidden]
    return CatalogEntry(name, first_comment(text), "  ".join(keys))


def experiment_entry(configs: Configs, name: str) -> CatalogEntry:
    """Return the entry of one experiment: its question and the keys that it sweeps."""
    experiment = configs.experiment(name)
    axes = (axis for product in experiment.products for axis in product)
    swept = dict.fromkeys(axis.key for axis in axes if len(axis.values) > 1)
    return CatalogEntry(name, experiment.question, "  ".join(swept))


def format_default(value: Any) -> str:
    """Format a default; one that refers to another key is shown as that key's name."""
    return REFERENCE.sub(lambda found: found[1], str(value))


# ---- Markdown ----------------------------------------------------------------------------------------------

ABOUT = {
    "models": "A model brings its data, its optimizer and its budget; each of them can be overridden.",
    "regularizers": (
        "A *clipping* acts on the gradient, a *penalty* is added to the loss, a *projection* acts on the parameters "
        "after each step. The strength is the key that is on a figure's axis.\n\n"
        "g is a network's whole gradient, G that of one unit, u that of one tensor, W a weight matrix, w a parameter, "
        "σ a largest singular value, f what a model's penalty is taken of, x where.\n\n"
        "Several compose: `regularizer=gp+clip_norm regularizer.gp.lambda=1,10 regularizer.clip_norm.threshold=0.1,1`. "
        "Penalties are added to the loss, clippings act on the gradient from left to right, projections on the "
        "parameters after the step; so the order counts only among clippings and among projections. Each part has its "
        "keys under its name, and a lone `gp` in the same sweep takes `regularizer.gp.lambda` too. No part may be "
        "`none`, or given twice. Regularizers of your own compose as well.\n\n"
        "`regularizer.players` says which networks it acts on, where a model has several: `critic`, `generator` or "
        "`both`; in a composition each part says it, as in `regularizer.clip_norm.players=both`. A penalty is only "
        "measured of the network that the model says.\n\n"
        "`regularizer.points` says where a penalty is measured: of a GAN `between` real and generated points (the "
        "default), at `real` or `generated` ones, at `both`, or `around` real ones; of other models at `inputs` (a "
        "language model's `embeddings`) or `around` them. *Around* is x + a · std / 2 · u, with a ~ U[0, 1] for each "
        "point, u ~ U[0, 1] for each coordinate, and the standard deviation of all numbers of the batch. So "
        "`regularizer=gp_zero regularizer.points=real` is R1, `generated` R2, both with λ = γ / 2; `both` is the mean "
        "over both, R1 and R2 with λ = γ; and `regularizer=gp regularizer.points=around` is DRAGAN. An autoencoder "
        "offers its `code`, too: there `regularizer=gp` is the contractive penalty, λ · E ‖∂ code / ∂ image‖² (the "
        "squared Frobenius norm).\n\n"
        "`regularizer.every=16` adds a penalty at the first step and every 16th after it, with 16 times its weight: "
        "nearly the same on average, in little more time than none takes."
    ),
    "data": "What must be downloaded is downloaded on first use. The rest comes with the packages or is generated.",
    "optimizers": (
        "The formulas are those of torch.optim; Lion's are its authors'. Weight decay is added to the gradient (L2), "
        "or taken from the parameters (`decoupled`)."
    ),
    "schedules": (
        "The learning rate of a step as a share of `optimizer.lr`; it is recorded in the curves as `lr`. Numbers are "
        "swept within a stack, as the learning rate is: `schedule.warmup=0,100`."
    ),
    "launchers": (
        "Where cells are trained, which changes no cell's id: on this machine, or in a cluster. "
        "[From one laptop to a cluster](../gradbench/launchers/README.md)."
    ),
}
"""Text above each table of options."""

TITLE = """# Every choice and its keys

<!-- Made by `python -m gradbench.cli.catalog > conf/README.md` from the comments of the YAML files beside it. -->

`gradbench run model=mlp regularizer=clip_norm,gp regularizer.threshold=0.1,1` chooses and sweeps. Overrides are
[Hydra's grammar](https://hydra.cc/docs/advanced/override_grammar/basic/): `key=value`, `key=a,b`, `'key=range(5)'`;
`'regularizer.threshold=${optimizer.lr}'` has one key follow another. What nothing reads is refused.
`gradbench info` prints these tables in short.

Sections: [every cell](#every-cell) · [code of your own](#code-of-your-own) ·
[data of your own](#data-of-your-own) · [models](#models) · [regularizers](#regularizers) · [data](#data) ·
[optimizers](#optimizers) · [schedules](#schedules). To add an option, see [CONTRIBUTING](../CONTRIBUTING.md)."""


OWN_WORDS = {
    "`model.network=my_pkg.Net`": (
        "the network of a model that takes one: a subclass of `torch.nn.Module`, or a function annotated to return one"
    ),
    "`model.network.KEY=value`": "an argument of it",
    "`model.networks.NAME=my_pkg.Net`": "one of a model's several networks, such as `critic`; also with `.KEY`",
    "`model.loss=my_pkg.f`": "the loss of each example of a regression; also with `.KEY`",
    "`model.metrics.NAME=my_pkg.f`": "a further metric: a function, reported as `train/NAME` and `test/NAME` in "
    "the table of cells and the report's section “Further metrics”; `model.metric=test/NAME model.goal=max` (or `min`) "
    "compares by it",
    "`data.loader=my_pkg.load`": (
        "a function that returns [data of your own](#data-of-your-own); `data.loader.KEY=value` is an argument of it"
    ),
    "`model.weights=FILE`": "weights to start from, instead of random ones",
}
"""Word -> what it names."""

OWN_CODE = """A network is an ordinary `nn.Module`, a subclass or what a function annotated to return one returns.
`inputs`, `outputs` (or `num_classes`), `vocabulary` and `shape` of the data are passed where its signature has them.
Layers mean what they mean in PyTorch:

- Buffers, such as BatchNorm's running statistics, are each cell's own: they move once per batch, in the pass of the
  loss, are used by evaluations, and survive a kill. Evaluations run in `eval()` mode.
- Dropout and other random numbers inside modules are a function of the cell's seed, the batch and their place in it:
  treatments of one seed get the same masks. Parameters with `requires_grad=False` stay as they are.
- What changes from call to call belongs into a buffer: all cells share a module's other attributes. Parameters are
  float32 as PyTorch makes them, and `precision=float64` makes all of them finer. What breaks this is refused by name.
- A step is tried out at the plan, and by `--dry-run`. Cells train as one stack where that is possible and faster; else
  one network at a time, and a line names the operation that is the reason. What has no second derivative is refused
  under a penalty; recurrent layers and attention have one.
- `model.weights=FILE` (safetensors, or a state dict) starts every cell from given weights. Tensors that the file lacks,
  such as those of a new head, are drawn by the seed.

A dotted name is looked up where Python finds packages, then in the folder where you type the command.
Several are swept like any values: `model.network=my_pkg.A,my_pkg.B`. A KEY then goes to each of them, and one that does
not accept it is refused: give it a command of its own, with the same `--results`.

In a model's YAML file of your own, `network: my_pkg.Net` is short for `network: {_target_: my_pkg.Net}`, further keys
there are its arguments, and `network: ???` must be given. Another network that you type takes none of these arguments.

Only words that you type and files of your `--config-dir`, its `experiments/` included, may name code. A hash of its
source, and of the content of a weights file, is part of a cell's id: what is edited is trained again."""


def markdown() -> str:
    """Return the catalog of everything shipped with gradbench, as a page of Markdown."""
    configs = Configs()
    parts = [TITLE, *general_section(), *own_code_section(), "## Data of your own", OWN_DATA]
    for title, group in KINDS.items():
        rows = [overview_row(configs, group, name) for name in configs.groups[group]]
        parts += [
            f"## {title.capitalize()}",
            ABOUT[title],
            markdown_table(list(rows[0]), [[*row.values()] for row in rows]),
        ]
        for name in configs.groups[group]:
            parts += option_section(configs, group, name)
    return "\n\n".join(parts) + "\n"


def general_section() -> list[str]:
    """Return the section on keys that belong to no group."""
    from gradbench.grid.cell import RUNTIME

    text = (shipped_folder("conf") / "config.yaml").read_text(encoding="utf-8")
    values = dict(
        leaves(yaml.safe_load(text))
    )  # as written: composed, they would be those of the default model
    values = {key: value for key, value in values.items() if not {"defaults", NEUTRAL} & set(key.split("."))}
    runtime = {key: value for key, value in values.items() if key.split(".")[0] in RUNTIME}
    own = {key: value for key, value in values.items() if key not in runtime}
    comments = parse_comments(text)
    return [
        "## Every cell",
        "What a cell is, beside its model, data, optimizer, schedule and regularizer:",
        key_table(own, comments),
        "How it is run, which changes no cell's id:",
        key_table(runtime, comments),
    ]


def own_code_section() -> list[str]:
    """Return the section on words that name code of one's own."""
    words = "\n".join(f"- {word}: {meaning}" for word, meaning in OWN_WORDS.items())
    return ["## Code of your own", words, OWN_CODE]


def overview_row(configs: Configs, group: str, name: str) -> dict[str, str]:
    """Return the row of an option in the table of its group: column -> Markdown."""
    composed = configs.compose((f"{group}={name}",))
    node = composed.config[group]
    row = {
        "name": f"[`{name}`](#{group}{name})",
        "what it is": markdown_text(opening_lines(configs, group, name)[0]),
    }
    if group == "model":
        row["compared by"] = f"`{node['metric']}`"
        row |= {choice: f"`{composed.choices[choice]}`" for choice in ("data", "optimizer")}
    if group == "regularizer":
        row |= {"family": node["family"], "strength": f"`{node['strength']}`" if node["strength"] else "–"}
    return row


def option_section(configs: Configs, group: str, name: str) -> list[str]:
    """Return an option's heading, the rest of its file's opening comments, and its table of keys."""
    config = configs.compose((f"{group}={name}",)).config
    comments = parse_comments((shipped_folder("conf") / "config.yaml").read_text(encoding="utf-8"))
    beside = set(comments)
    for text in reversed([*inherited_files(configs, group, name)]):
        # the file of a model is at the top level of the config, and also sets keys outside its group
        prefix = "" if group == "model" else f"{group}."
        comments |= {f"{prefix}{key}": comment for key, comment in parse_comments(text).items() if comment}
        beside &= parse_comments(text).keys()
    hidden = {f"{group}.{key}" for key in NO_ARGUMENTS[group] - {"lr"} | {"_target_"}}
    values = {typed(f"{group}.{key}"): value for key, value in leaves(config[group])}
    if group == "model":
        values |= {key: value for key, value in leaves(config) if key in beside}
    values = {key: value for key, value in values.items() if key not in hidden}
    details = markdown_text(" ".join(opening_lines(configs, group, name)[1:]))
    table = key_table(values, comments) if values else "It has no keys."
    return [part for part in (f"### `{group}={name}`", details, table) if part]


def opening_lines(configs: Configs, group: str, name: str) -> list[str]:
    """Return the comments at the top of an option's file."""
    return header_comments(configs.path(group, name).read_text(encoding="utf-8"))


def inherited_files(configs: Configs, group: str, name: str) -> Iterator[str]:
    """Yield the text of an option's file, then of the files in its ``defaults`` list, recursively."""
    text = configs.path(group, name).read_text(encoding="utf-8")
    yield text
    for base in yaml.safe_load(text).get("defaults", []):
        if isinstance(base, str) and base in configs.groups[group]:
            yield from inherited_files(configs, group, base)


def key_table(values: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Return a table of keys with defaults and comments; commented parents of nested keys get a row too."""
    rows: dict[str, list[str]] = {}
    for key, value in values.items():
        above = [key[:end] for end, letter in enumerate(key) if letter == "."]
        for parent in above:
            if comments.get(parent):
                rows.setdefault(parent, [f"`{parent}.…`", "", markdown_text(comments[parent])])
        rows[key] = [f"`{key}`", markdown_default(value), markdown_text(comments.get(key, ""))]
    return markdown_table(["key", "default", "meaning"], list(rows.values()))


def markdown_default(value: Any) -> str:
    """Format a default as YAML in a Markdown code span."""
    if value == "???":
        return "required"
    if isinstance(value, str):
        return f"`{format_default(value)}`"
    return f"`{yaml.safe_dump(value, default_flow_style=True).removesuffix('...' + chr(10)).strip()}`"


def markdown_text(words: str) -> str:
    """Return words that Markdown shows as they are."""
    # Imported here because it imports Matplotlib, which other commands do not need.
    from gradbench.report.render.markdown import escape_markdown

    return escape_markdown(words)


def markdown_table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; its rows contain Markdown already."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(markdown(), end="")
