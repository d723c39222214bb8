"""Recurrent layers and attention in plain operations, where torch's kernels cannot be stacked or differentiated twice.

B batch, T time, D inputs, H hidden, G gates.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

State = tuple[Tensor, ...]
"""Hidden state [B, H], and an LSTM's cell state."""


@contextmanager
def written_out() -> Iterator[None]:
    """Write out recurrent layers and attention inside the block: they work under ``vmap`` and have second derivatives.

    The numbers are those of ``nn.RNN``, ``nn.GRU``, ``nn.LSTM``, their cells, and of torch's attention, up to rounding.
    Packed sequences are left to torch's own kernels.
    """
    with sdpa_kernel(SDPBackend.MATH), Substitutes():
        yield


class Substitutes(TorchFunctionMode):
    """Call what stands for torch's recurrent kernels instead of them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function, or its substitute."""
        if func in CELLS:
            return cell_step(CELLS[func], *args)
        if func in LAYERS and not isinstance(
            args[2], Tensor
        ):  # packed sequences have their sizes in second place
            return layers(LAYERS[func], *args)
        return func(*args, **(kwargs or {}))


def gru(x_BG: Tensor, h_BG: Tensor, state: State) -> State:
    """One step of a gated recurrent unit, as ``nn.GRU`` defines it."""
    (r, z, n), (a, b, c) = x_BG.chunk(3, dim=-1), h_BG.chunk(3, dim=-1)
    z = torch.sigmoid(z + b)
    return ((1 - z) * torch.tanh(n + torch.sigmoid(r + a) * c) + z * state[0],)


def lstm(x_BG: Tensor, h_BG: Tensor, state: State) -> State:
    """One step of a long short-term memory."""
    i, f, g, o = (x_BG + h_BG).chunk(4, dim=-1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


Step = Callable[[Tensor, Tensor, State], State]


def tanh_rnn(x_BG: Tensor, h_BG: Tensor, _state: State) -> State:
    """One step of ``nn.RNN``."""
    return (torch.tanh(x_BG + h_BG),)


def relu_rnn(x_BG: Tensor, h_BG: Tensor, _state: State) -> State:
    """One step of ``nn.RNN`` with ``nonlinearity="relu"``."""
    return (torch.relu(x_BG + h_BG),)


LAYERS: dict[Any, Step] = {
    torch.rnn_tanh: tanh_rnn,
    torch.rnn_relu: relu_rnn,
    torch.gru: gru,
    torch.lstm: lstm,
}
CELLS: dict[Any, Step] = {
    torch.rnn_tanh_cell: tanh_rnn,
    torch.rnn_relu_cell: relu_rnn,
    torch.gru_cell: gru,
    torch.lstm_cell: lstm,
}


def cell_step(
    step: Step,
    x: Tensor,
    state: Tensor | Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Any:
    """One step of a cell, with the arguments of ``torch.gru_cell`` and its like."""
    own = (state,) if isinstance(state, Tensor) else tuple(state)
    after = step(F.linear(x, w_ih, b_ih), F.linear(own[0], w_hh, b_hh), own)
    return after if step is lstm else after[0]


def layers(
    step: Step,
    x: Tensor,
    state: Tensor | Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: bool,
    count: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """All layers over all steps, with the arguments and results of ``torch.gru`` and its like.

    Shapes: x [T, B, D], or [B, T, D] with ``batch_first``; states [layers * directions, B, H].
    """
    x_TBD = x.transpose(0, 1) if batch_first else x
    before = (state,) if isinstance(state, Tensor) else tuple(state)
    directions = 2 if bidirectional else 1
    last: list[State] = []
    per_direction = len(weights) // (count * directions)
    for layer in range(count):
        if layer and dropout and training:
            x_TBD = F.dropout(x_TBD, dropout)
        outputs = []
        for place in range(layer * directions, (layer + 1) * directions):
            own = weights[place * per_direction : (place + 1) * per_direction]
            start = tuple(one[place] for one in before)
            reverse = place % directions == 1
            h_TBH, end = direction_over_time(step, x_TBD, start, own, biases, reverse)
            outputs.append(h_TBH)
            last.append(end)
        x_TBD = torch.cat(outputs, dim=-1)
    top = x_TBD.transpose(0, 1) if batch_first else x_TBD
    return (top, *(torch.stack(one) for one in zip(*last, strict=True)))


def direction_over_time(
    step: Step, x_TBD: Tensor, state: State, weights: Sequence[Tensor], biases: bool, reverse: bool
) -> tuple[Tensor, State]:
    """One layer in one direction: its outputs [T, B, H] and its last state."""
    w_ih, w_hh, *rest = weights
    b_ih, b_hh = rest[:2] if biases else (None, None)
    projections = rest[2 * biases :]  # of an LSTM with ``proj_size``
    # one product for the inputs of all steps, in two dimensions: else ``vmap`` would copy the weight T times
    inputs = F.linear(x_TBD.flatten(0, 1), w_ih, b_ih).view(*x_TBD.shape[:2], -1)
    times = range(len(x_TBD))
    outputs: dict[int, Tensor] = {}
    for t in reversed(times) if reverse else times:
        state = step(inputs[t], F.linear(state[0], w_hh, b_hh), state)
        if projections:
            state = (F.linear(state[0], projections[0]), *state[1:])
        outputs[t] = state[0]
    return torch.stack([outputs[t] for t in times]), state
