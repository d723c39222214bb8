"""The recurrence of an LSTM, with its derivatives written by hand.

B batch, T time, H hidden, G = 4 H: the gates i, f, g, o of a step side by side, as ``nn.LSTM`` has them.

Left to autograd, a loop over time becomes thousands of small operations, and a penalty differentiates each of them
once more. By hand, only what a step needs from its neighbour stays in a loop; all else is done for all T at once, the
weight's gradient in one product.

With a = p + h W^T the activations and s their sigmoids, a gradient is pulled through one step, from the next one's, by

    dh = e_h + da W        dc = e_c + n dh + f dc        da = e_a + m (dc, dc, dc, dh)

with f the forget gates, m the derivatives of c (of h, for the last gate) with respect to a, n that of h with respect to
c, and e what comes from outside the recurrence. That is linear; its own gradient runs the other way, from the first
step to the last, and is one more loop.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class Recurrence(Function):
    """``(p [T, B, G], W [G, H], h [B, H], c [B, H]) -> h [T, B, H], c [T, B, H], s [T, B, G]``.

    p is what the inputs and biases add to the gates, h and c are the states before the first step and after each; s are
    sigmoids of the gates, g's of the doubled one. Can be differentiated twice, under ``vmap`` and ``grad`` too.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(p_TBG: Tensor, w_GH: Tensor, h_BH: Tensor, c_BH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take T steps."""
        # tanh(x) = 2 sigmoid(2x) - 1, so that one sigmoid serves all four gates
        twice_G = doubled(w_GH)
        w_HG, hs, cs, gates = (w_GH * twice_G[:, None]).mT, [], [], []
        for p_BG in (p_TBG * twice_G).unbind():
            s_BG = torch.sigmoid(p_BG + h_BH @ w_HG)
            i, f, g, o = s_BG.chunk(4, dim=-1)
            c_BH = torch.addcmul(f * c_BH - i, i, g, value=2.0)
            h_BH = o * tanh(c_BH)
            hs.append(h_BH)
            cs.append(c_BH)
            gates.append(s_BG)
        return torch.stack(hs), torch.stack(cs), torch.stack(gates)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Keep all but p."""
        ctx.save_for_backward(*inputs[1:], *output)

    @staticmethod
    def backward(ctx: Any, e_h: Tensor, e_c: Tensor, e_s: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients with respect to p, W, h and c."""
        w, h_first, c_first, h, c, s = ctx.saved_tensors
        i, f, g, o = s.chunk(4, dim=-1)
        u, slope = tanh(c), (s - s * s) * doubled(w)
        m = slope * torch.cat([2 * g - 1, before(c_first, c), 2 * i, u], dim=-1)
        da, dc_first, _ = Pull.apply(e_h, e_c, e_s * slope, w, f, m, o - o * u * u)
        dw = da.flatten(0, 1).mT @ before(h_first, h).flatten(0, 1)
        return da, dw, da[0] @ w, dc_first


class Pull(Function):
    """``(e_h, e_c, e_a, W, f, m, n) -> da [T, B, G], dc [B, H]`` before the first step, and (dc, dc, dc, dh) of all.

    The last is a by-product, [T, B, G], of which no derivative is taken.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        e_h: Tensor, e_c: Tensor, e_a: Tensor, w: Tensor, f: Tensor, m: Tensor, n: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pull, from the last step to the first."""
        activations: list[Tensor] = []
        states: list[Tensor] = []
        # what comes from later steps: after the last one, nothing
        from_h, from_c = torch.zeros_like(e_h[0]), torch.zeros_like(e_c[0])
        for e_h_t, e_c_t, e_a_t, f_t, m_t, n_t in reversed(steps(e_h, e_c, e_a, f, m, n)):
            dh = e_h_t + from_h
            dc = torch.addcmul(e_c_t + from_c, n_t, dh)
            states.append(torch.cat([dc, dc, dc, dh], dim=-1))
            activations.append(torch.addcmul(e_a_t, m_t, states[-1]))
            from_h, from_c = activations[-1] @ w, f_t * dc
        return torch.stack(activations[::-1]), from_c, torch.stack(states[::-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what is linear, and what it was applied to."""
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(*inputs[3:], output[0], output[2])

    @staticmethod
    def backward(ctx: Any, q: Tensor, q_c: Tensor, _states: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients with respect to all inputs, given those with respect to da and dc."""
        w, f, m, n, da, states = ctx.saved_tensors
        hs, cs, activations, w_HG = [torch.zeros_like(q_c)], [q_c], [], w.mT
        for q_t, f_t, m_t, n_t in steps(q, f, m, n):
            activations.append(q_t + hs[-1] @ w_HG)
            i, f_, g, o = (m_t * activations[-1]).chunk(4, dim=-1)
            cs.append(torch.addcmul(i + f_ + g, f_t, cs[-1]))
            hs.append(torch.addcmul(o, n_t, cs[-1]))
        a, h, c = torch.stack(activations), torch.stack(hs[1:]), torch.stack(cs[1:])
        hidden = w.shape[1]
        dc, dh = states[..., :hidden], states[..., -hidden:]
        dw = da[1:].flatten(0, 1).mT @ h[:-1].flatten(0, 1)
        return h, c, a, dw, dc * before(q_c, c), a * states, c * dh


def steps(*series: Tensor) -> list[tuple[Tensor, ...]]:
    """Return series [T, ...] step by step."""
    return list(zip(*(one.unbind() for one in series), strict=True))


def before(first_BH: Tensor, states_TBH: Tensor) -> Tensor:
    """Return the state before each step, [T, B, H], from the first one and those after each step."""
    return torch.cat([first_BH[None], states_TBH[:-1]])


def tanh(x: Tensor) -> Tensor:
    """Return the hyperbolic tangent: on a CPU, torch's own is several times slower than its sigmoid."""
    return 2 * torch.sigmoid(2 * x) - 1


def doubled(w_GH: Tensor) -> Tensor:
    """Return 2 at the gates g, and 1 elsewhere, [G]."""
    hidden = w_GH.shape[1]
    cell_gate = torch.arange(2 * hidden, 3 * hidden, device=w_GH.device)
    return torch.ones_like(w_GH[:, 0]).index_fill(0, cell_gate, 2.0)
