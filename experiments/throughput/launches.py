"""Count what a GPU would be asked for in a training step: launches, arithmetic, and bytes that go through its memory.

    python experiments/throughput/launches.py [--models transformer,cnn,actor_critic] [--widths 1,32,256]

Nothing is timed, and no GPU is needed: a step is traced on the CPU as for a GPU, and the operations of its replay are
counted, for one cell and for two; other widths follow from the line through them. K cells. Each operation but views
launches a kernel at least. Arithmetic is that of products and convolutions, 2 per multiply-add. Bytes are those of each
operation's arguments and results, as if no cache kept any of them. ``work`` is the time that an H100 would need for
either, whichever is longer, at the speed of its data sheet.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gradbench.functional.torch_internals import DispatchMode, schema_of, tree_leaves
from gradbench.sweep.plan import data_of, make_plan
from gradbench.training.bind import init_state
from gradbench.training.draws import draw_chunk
from gradbench.training.setup import build_stack
from gradbench.training.step import EagerStepper
from gradbench.training.telemetry import Telemetry

LAUNCH_SECONDS = {"eager": 5e-6, "graph": 1.5e-6}
"""About what a launch takes: called from Python, and as a node of a CUDA graph. Assumed, not measured."""

FLOPS, BYTES = 67e12, 3.35e12
"""Of an H100 SXM in a second, by its data sheet: float32 operations, and bytes from its memory."""


LOOKUPS = {"aten::index.Tensor", "aten::index_select", "aten::embedding", "aten::gather"}
"""Operations that read as much of their first argument as they return."""


class Counter(DispatchMode):
    """Count the operations that are no views, and the bytes of their arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.bytes = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count it."""
        result = operation(*args, **(kwargs or {}))
        returns = schema_of(operation).returns
        is_view = any(one.alias_info is not None and not one.alias_info.is_write for one in returns)
        if not is_view and not operation.name().startswith("aten::empty"):
            self.launches += 1
            read = (result, args[1:]) if operation.name() in LOOKUPS else (args, kwargs)
            tensors = [leaf for leaf in tree_leaves((read, result)) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.nbytes for tensor in tensors)
        return result


def count(model: str, width: int) -> tuple[int, int, int]:
    """Return the launches, floating-point operations and bytes of the third step of a stack."""
    words = [f"model={model}", "regularizer=clip_norm", f"seed=range({width})", "device=cpu"]
    cells = make_plan(None, words).cells
    context = build_stack(cells, data_of(cells[0]), torch.device("cpu"), kind="cuda")
    state, telemetry, stepper = init_state(context), Telemetry(context), EagerStepper(context)
    draws = draw_chunk(context, 0)
    for _ in range(2):  # traces it
        stepper.advance(state, draws, telemetry)
    with FlopCounterMode(display=False) as flops, Counter() as counter:
        stepper.advance(state, draws, telemetry)
    return counter.launches, int(flops.get_total_flops()), counter.bytes


def show(models: Sequence[str], widths: Sequence[int], console: Console) -> None:
    """Print a row per model and width."""
    shown = Table(title="A training step as a GPU is asked for it: counted, not timed", title_justify="left")
    for column in (
        "model",
        "K",
        "launches",
        "MFLOP",
        "MB",
        "FLOP per byte",
        "launches, ms",
        "in a graph",
        "work, ms",
    ):
        shown.add_column(column, justify="left" if column == "model" else "right")
    for model in models:
        (single, operations, bytes_1), (stacked, _, bytes_2) = (count(model, width) for width in (1, 2))
        for width in widths:
            launches = single if width == 1 else stacked
            moved, flops = bytes_1 + (width - 1) * (bytes_2 - bytes_1), width * operations
            eager, graph = (1e3 * launches * seconds for seconds in LAUNCH_SECONDS.values())
            work = 1e3 * max(flops / FLOPS, moved / BYTES)
            times = [f"{eager:.2f}", f"{graph:.2f}", f"{work:.3f}"]
            numbers = [f"{launches:,}", f"{flops / 1e6:,.0f}", f"{moved / 1e6:,.1f}", f"{flops / moved:.1f}"]
            shown.add_row(model, str(width), *numbers, *times)
    console.print(shown)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Count the launches and the arithmetic of a training step.")
    parser.add_argument(
        "--models", type=lambda text: text.split(","), default=["transformer", "cnn", "actor_critic"]
    )
    parser.add_argument(
        "--widths",
        type=lambda text: list(map(int, text.split(","))),
        default=[1, 32, 256],
        help="cells per stack",
    )
    given = parser.parse_args()
    show(given.models, given.widths, Console(width=120))
