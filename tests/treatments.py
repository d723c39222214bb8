"""Regularizers as a user writes them, whose transforms ask for what there is of a step. P parameters."""

import torch

from gradbench.regularizers import Regularizer


def bounded_update():
    """Bound the norm of the learning rate times the gradient."""

    def transform(gradient_P, bound, state, parameters_P, layout, lr):
        return gradient_P * (bound / (lr * gradient_P.norm())).clamp(max=1.0), state

    return Regularizer(transform=transform, preserves_direction=True)


def skip_spikes(decay=0.8):
    """Use no gradient of a batch whose loss is more than a threshold above the running mean of losses."""

    def init(parameters_P, layout):
        return {"mean": torch.full_like(parameters_P[0], torch.inf)}

    def transform(gradient_P, threshold, state, parameters_P, layout, loss):
        is_first = state["mean"].isinf()
        mean = torch.where(is_first, loss, decay * state["mean"] + (1 - decay) * loss)
        is_spike = loss > state["mean"] + threshold
        return torch.where(is_spike, 0.0, gradient_P), {"mean": mean}

    return Regularizer(transform=transform, preserves_direction=True, init=init)
