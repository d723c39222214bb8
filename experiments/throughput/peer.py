"""Plain PyTorch under Hydra, which gradbench is measured against.

    python experiments/throughput/peer.py --multirun model=mlp folder=/tmp/peer hydra/launcher=joblib

trains the cells of one model of the experiment ``quick``, one after another in each process, with one process per core
(``hydra/launcher=joblib``) or one in all (``hydra/launcher=basic``), one thread each.

It is as fast as these tools allow:

- processes are reused from job to job (joblib's loky), import torch once, and load the data once; joblib's parent,
  which trains nothing, does not import torch;
- Hydra writes no logs and no config per job, and changes no folder;
- a network's parameters are views of one vector, so that clipping, norms and the optimizer's step (Adam's fused)
  are single operations; norms of SGD's updates and of clipped gradients follow from numbers that are known already;
- on a CPU, values become Python numbers at once, which is cheaper than keeping tensors since nothing has to wait, and
  a diverged cell stops at that step;
- batches are gathered ahead in one operation, and evaluations are single passes;
- a classifier's cross-entropy has its classes first, which takes a CPU half as long for ten classes;
- denormal numbers are flushed to zero: a saturated LSTM has so many that some processors take twice as long;
- freed memory is kept, as in gradbench's workers: ``bench.py`` sets glibc's ``MALLOC_…_THRESHOLD_``;
- the LSTM runs in oneDNN's kernel, except where it is differentiated twice: there in PyTorch's own composite, the
  fastest alternative (a loop over time steps takes as long).

``torch.optim`` and ``torch.nn.utils`` are called as they are, though they take a noticeable part of a short step, and
``torch.optim`` imports torch's compiler, which takes seconds in each process. Hydra's job is one cell, so each job
composes its config, and no two cells share an operation. Left out, in the peer's favour: checkpoints, the arrays for
figures, some of the evaluation's metrics, provenance, and the report.
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
