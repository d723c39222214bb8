"""Plain PyTorch under Hydra: what gradbench is measured against.

    python experiments/throughput/peer.py --multirun model=mlp folder=/tmp/peer hydra/launcher=joblib

trains the cells of one model of the experiment ``quick``, one after another in each process, with as many processes
as there are cores (``hydra/launcher=joblib``) or with one (``hydra/launcher=basic``), one thread each.

It is meant to be as fast as these tools allow:

- processes are reused from job to job (joblib's loky), import torch once, and load the data once; joblib's parent,
  which trains nothing, does not import torch;
- Hydra writes no logs and no config per job, and changes no folder;
- a network's parameters are views of one vector, so that clipping, norms and the optimizer's step (Adam's fused)
  are single operations; norms of SGD's updates and of clipped gradients come from numbers that are there already;
- on a CPU, reading a value waits for nothing: values become Python numbers at once, which is cheaper than keeping
  tensors, and a cell that has diverged stops at that step;
- batches are gathered ahead in one operation, evaluations are single passes;
- a classifier's cross-entropy has its classes first, which takes a CPU half as long for ten of them;
- numbers below 1e-38 are zeros: a saturated LSTM has so many of them that some processors take twice as long;
- freed memory is kept, as gradbench's workers keep it: ``bench.py`` sets glibc's ``MALLOC_…_THRESHOLD_``;
- the LSTM runs in oneDNN's kernel where nothing is differentiated twice, and where something is, in PyTorch's own
  composite, the fastest of those that can be (a loop over time steps takes as long).

``torch.optim`` and ``torch.nn.utils`` are called as they are: they are a noticeable part of a short step, and
``torch.optim`` imports torch's compiler, seconds in each process. What Hydra does not allow: a job is one cell, so
each composes its config, and no two cells share an operation. What is left out, in the peer's favour: checkpoints,
the arrays for figures and some of the evaluation's metrics, provenance, the report.
"""

from importlib import import_module

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path=".", config_name="peer")
def main(config: DictConfig) -> None:
    """Train one cell."""
    import_module("peer_cell").run(config)


if __name__ == "__main__":
    main()
