"""The figures of a report, one file each: numbers in, a picture with its words out."""

import contextlib
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from multiprocessing.connection import Connection

import matplotlib as mpl
from matplotlib.figure import Figure

from gradbench.report.figures import (
    action,
    cost,
    critic,
    divergence,
    gradients,
    histograms,
    layers,
    learning,
    profiles,
    strengths,
)
from gradbench.report.figures.panels import Context, Drawing
from gradbench.report.figures.style import RC
from gradbench.report.render.blocks import Picture

__all__ = ["SECTIONS", "Context", "begin", "pictures"]

Draw = Callable[[Context], list[Drawing]]
Pictures = dict[str, list[Picture]]  # by section

# In the order in which a reader asks.
SECTIONS: dict[str, tuple[Draw, ...]] = {
    "Strengths": (strengths.draw, profiles.draw),
    "Learning": (learning.draw,),
    "Gradients": (gradients.draw, action.draw, histograms.draw),
    "Divergence": (divergence.draw,),
    "Cost": (cost.draw,),
    "Critic": (critic.draw, layers.draw),
}
EFFORT: dict[Draw, int] = {
    gradients.draw: 6,
    learning.draw: 4,
    action.draw: 4,
    critic.draw: 4,
    strengths.draw: 3,
    profiles.draw: 3,
}
"""About how long each takes, beside 1 for any other."""


def start_drawing(context: Context) -> Callable[[], Pictures]:
    """Begin to draw, in as many processes as there are cores; return what waits for the pictures.

    The processes are forked: they start with everything imported and loaded, which a fresh one would need as
    long for as the drawing takes. They use NumPy and Matplotlib and nothing that has threads. A process that
    fails or is lost leaves its figures to the caller, and so does a platform without a safe fork.
    """
    draws = [draw for group in SECTIONS.values() for draw in group]
    receivers = []
    if sys.platform == "linux" and (cores := len(os.sched_getaffinity(0))) > 1:
        receivers = [_start_process(context, batch) for batch in _share_out(draws, cores)]

    def finish() -> Pictures:
        found: dict[str, list[Picture]] = {}
        for receiver in receivers:
            with contextlib.suppress(EOFError, OSError):
                found |= receiver.recv()
            receiver.close()
        sections = {
            section: [
                picture
                for draw in group
                for picture in (
                    found[_figure_name(draw)]
                    if _figure_name(draw) in found
                    else _render_figure(draw, context)
                )
            ]
            for section, group in SECTIONS.items()
        }
        return {section: pictures for section, pictures in sections.items() if pictures}

    return finish


def _share_out(draws: Sequence[Draw], count: int) -> list[list[Draw]]:
    """Share the figures out, the longest first, each to whom has the least to do."""
    batches: list[list[Draw]] = [[] for _ in range(min(count, len(draws)))]
    for draw in sorted(draws, key=lambda draw: -EFFORT.get(draw, 1)):
        min(batches, key=lambda batch: sum(EFFORT.get(other, 1) for other in batch)).append(draw)
    return batches


def _start_process(context: Context, batch: Sequence[Draw]) -> Connection:
    """Start a process that draws these, and return where its pictures arrive."""
    forking = multiprocessing.get_context("fork")
    receiver, sender = forking.Pipe(duplex=False)
    # A daemon: if the caller fails before it reads, its exit ends this process instead of waiting for it.
    child = forking.Process(target=_draw_and_send, args=(context, batch, receiver, sender), daemon=True)
    with warnings.catch_warnings():
        # Python warns of any fork beside threads; those of Arrow and of NumPy are idle, and the child wants none.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        child.start()
    sender.close()
    return receiver


def _draw_and_send(context: Context, batch: Sequence[Draw], receiver: Connection, sender: Connection) -> None:
    """Draw in a process of one's own; whoever gets nothing draws again, and then sees why."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the parent that is interrupted
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    receiver.close()  # else a parent that is killed would leave this one waiting to send
    with contextlib.suppress(Exception):
        # In one message at the end: a parent that is still busy must not hold up the drawing.
        sender.send({_figure_name(draw): _render_figure(draw, context) for draw in batch})


def _figure_name(draw: Draw) -> str:
    return draw.__module__


def _render_figure(draw: Draw, context: Context) -> list[Picture]:
    return render_pictures(lambda: draw(context))


def render_pictures(draw: Callable[[], list[Drawing]]) -> list[Picture]:
    """Draw, and turn what comes of it into files."""
    with mpl.rc_context(RC):
        return [
            Picture(
                drawing.name, drawing.title, drawing.caption, drawing.alt, drawing.table,
                png=_to_bytes(drawing.figure, "png"), svg=_to_bytes(drawing.figure, "svg"),
            )
            for drawing in draw()
        ]  # fmt: skip


def _to_bytes(figure: Figure, kind: str) -> bytes:
    """Return a figure as a file's bytes, without the date that would make each one different."""
    buffer = BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()
