"""Draw the figures of a report, one module each: tables in, pictures with their captions out.

Each module's ``draw`` returns its drawings. Reading tables and deciding what is better never belong here.
"""

import contextlib
import multiprocessing
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from multiprocessing.connection import Connection

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from gradbench import signals
from gradbench.cpu_count import cores
from gradbench.report.figures import (
    action,
    cost,
    critic,
    divergence,
    gradients,
    histograms,
    images,
    layers,
    learning,
    pairs,
    profiles,
    strengths,
)
from gradbench.report.figures.panels import NARROW, WIDE, Context, Drawing, Layout
from gradbench.report.figures.style import RC
from gradbench.report.render.blocks import Picture

__all__ = ["SECTIONS", "Context", "Drawing", "draw", "named", "render_pictures", "start_drawing"]

Draw = Callable[[Context], list[Drawing]]
Pictures = dict[str, list[Picture]]  # by section

SECTIONS: dict[str, tuple[Draw, ...]] = {
    "Strengths": (strengths.draw, pairs.draw, profiles.draw),
    "Learning": (learning.draw,),
    "Gradients": (gradients.draw, action.draw, histograms.draw),
    "Divergence": (divergence.draw,),
    "Cost": (cost.draw,),
    "Critic": (critic.draw, layers.draw),
    "Images": (images.draw,),
}
EFFORT: dict[Draw, int] = {
    gradients.draw: 6,
    learning.draw: 4,
    action.draw: 4,
    critic.draw: 4,
    strengths.draw: 3,
    pairs.draw: 2,
    profiles.draw: 3,
}
"""Relative drawing time of the slow figures; 1 for any other."""
WHITE = 252  # of 255: a palette's shade from which it is white


def named(name: str) -> list[Draw]:
    """Return what draws the figure of a name: one module, or all where the name does not tell which."""
    draws = [draw for group in SECTIONS.values() for draw in group]
    return [
        draw for draw in draws if name and name.startswith(_figure_name(draw).rpartition(".")[2])
    ] or draws


def draw(draws: Sequence[Draw], context: Context) -> dict[str, Drawing]:
    """Draw figures, by name."""
    with mpl.rc_context(RC):
        return {drawing.name: drawing for draw in draws for drawing in draw(context)}


def start_drawing(context: Context) -> Callable[[], Pictures]:
    """Start drawing in one process per core and return a function that waits for the pictures.

    The processes are forked, because importing and loading everything anew would take as long as the drawing. They
    use only NumPy and Matplotlib, which start no threads. The caller draws the figures of a process that fails, and
    all figures on a platform without a safe fork.
    """
    draws = [draw for group in SECTIONS.values() for draw in group]
    receivers = []
    if sys.platform == "linux" and cores() > 1:
        with contextlib.suppress(OSError):  # no more processes or file descriptors
            for batch in _share_out(draws, cores()):
                receivers.append(_start_process(context, batch))

    def finish() -> Pictures:
        found: dict[str, list[Picture]] = {}
        for receiver in receivers:
            with contextlib.suppress(EOFError, OSError):
                found |= receiver.recv()
            receiver.close()
        missing = [draw for draw in draws if _figure_name(draw) not in found]
        found |= {_figure_name(draw): _render_figure(draw, context) for draw in missing}
        sections = {
            section: [picture for draw in group for picture in found[_figure_name(draw)]]
            for section, group in SECTIONS.items()
        }
        return {section: pictures for section, pictures in sections.items() if pictures}

    return finish


def _share_out(draws: Sequence[Draw], count: int) -> list[list[Draw]]:
    """Distribute the figures over ``count`` batches, the slowest first, each to the batch with the least work."""
    batches: list[list[Draw]] = [[] for _ in range(min(count, len(draws)))]
    for draw in sorted(draws, key=lambda draw: -EFFORT.get(draw, 1)):
        min(batches, key=lambda batch: sum(EFFORT.get(other, 1) for other in batch)).append(draw)
    return batches


def _start_process(context: Context, batch: Sequence[Draw]) -> Connection:
    """Start a process that draws a batch, and return the connection on which its pictures arrive."""
    forking = multiprocessing.get_context("fork")
    receiver, sender = forking.Pipe(duplex=False)
    # As a daemon the process ends with a caller that fails before it reads, instead of keeping it waiting.
    child = forking.Process(target=_draw_and_send, args=(context, batch, receiver, sender), daemon=True)
    with warnings.catch_warnings():
        # Python warns of any fork in a process with threads; Arrow's and NumPy's are idle, and the child uses none.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        with signals.blocked():
            child.start()
    sender.close()
    return receiver


def _draw_and_send(context: Context, batch: Sequence[Draw], receiver: Connection, sender: Connection) -> None:
    """Draw a batch in a child process; on an error send nothing, so that the caller draws again and sees it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles the interrupt
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.SIGNALS)
    receiver.close()  # otherwise this process would wait forever to send to a parent that was killed
    with contextlib.suppress(Exception):
        # One message at the end, because sending blocks while the parent is busy.
        sender.send({_figure_name(draw): _render_figure(draw, context) for draw in batch})


def _figure_name(draw: Draw) -> str:
    return draw.__module__


def _render_figure(draw: Draw, context: Context) -> list[Picture]:
    return render_pictures(lambda layout: draw(replace(context, layout=layout)))


def render_pictures(draw: Callable[[Layout], list[Drawing]]) -> list[Picture]:
    """Draw figures and save each as PNG and SVG, and as a narrow PNG for phones."""
    with mpl.rc_context(RC):
        return [
            Picture(
                wide.name, wide.title, wide.caption, wide.alt, wide.table,
                png=save_figure(wide.figure, "png"), svg=save_figure(wide.figure, "svg"),
                narrow=save_figure(narrow.figure, "png"),
            )
            for wide, narrow in zip(draw(WIDE), draw(NARROW), strict=True)
        ]  # fmt: skip


def save_figure(figure: Figure, kind: str) -> bytes:
    """Save a figure as ``svg`` or ``png``, so that equal figures give equal files.

    A PNG has at most 256 colours: a third of the bytes of one with all.
    """
    buffer = BytesIO()
    if kind == "svg":
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        return buffer.getvalue()
    pixels, scale = BytesIO(), mpl.rcParams["savefig.dpi"]
    scale = figure.dpi if scale == "figure" else scale
    figure.savefig(pixels, format="rgba", dpi=scale)
    width, height = (int(inches * scale) for inches in figure.get_size_inches())
    image = Image.frombytes("RGBA", (width, height), pixels.getvalue()).convert("RGB")
    image = image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    image.putpalette([255 if value >= WHITE else value for value in image.getpalette() or ()])
    image.save(buffer, format="png")
    return buffer.getvalue()
