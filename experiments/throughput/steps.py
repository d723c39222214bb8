"""Measure the CPU time of a training step of one cell: plain script, gradbench alone, and in a stack of usual width.

    python experiments/throughput/steps.py [--rounds 5]

One thread, telemetry included, in interleaved rounds; ratios are medians over rounds. Other processes disturb CPU time
less than a clock on the wall. Of the script two numbers of steps are run: set-up and evaluation cancel out.
"""

import argparse
import time
from importlib import import_module

import numpy as np
import torch
from peak import settings_of
from peer_cell import Treatment

from gradbench.launchers.worker import configure_process
from gradbench.profiling.timing import make_runner
from gradbench.sweep.plan import data_of, make_plan
from gradbench.training.setup import build_stack

SIZES = {"transformer": (2, 20, 50), "cnn": (8, 100, 200), "actor_critic": (8, 4, 10)}
"""Model -> width of the stacks that 16 cells make, and the two numbers of steps of the script."""


def measure(model: str, rounds: int) -> np.ndarray:
    """Return the seconds of a step of one cell by script, alone and in a stack: [rounds, 3]."""
    width, few, many = SIZES[model]
    device = torch.device("cpu")
    cells = make_plan(None, [f"model={model}", "regularizer=clip_norm", f"seed=range({width})"]).cells
    data = data_of(cells[0])
    script, settings = import_module(f"peer_{model}"), settings_of(model)
    given = script.load(settings["data"])
    alone, stack = (make_runner(build_stack(members, data, device)) for members in (cells[:1], cells))

    def plain(steps: int) -> float:
        began = time.process_time()
        script.train(settings | {"steps": steps, "eval_every": steps}, given, Treatment("clip_norm", 1.0), 0)
        return time.process_time() - began

    plain(few)
    return np.array(
        [
            ((plain(many) - plain(few)) / (many - few), sum(alone.run()), sum(stack.run()) / width)
            for _ in range(rounds)
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Measure steps of plain scripts, of single cells and of stacks."
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    configure_process(torch.device("cpu"))
    for model in SIZES:
        plain, alone, stack = measure(model, rounds).T
        print(
            f"{model}: in stacks {np.median(plain / stack):.2f} times as fast as a plain script, "
            f"{np.median(alone / stack):.2f} times as alone"
        )
