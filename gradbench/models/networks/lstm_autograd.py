"""The recurrence of an LSTM, with hand-written first and second derivatives.

B batch, T time, H hidden, G = 4 H: the gates i, f, g, o of a step side by side, as in ``nn.LSTM``.

Autograd turns a loop over time into thousands of small operations, and a penalty differentiates each of them once
more. Here only the dependence of a step on its neighbour stays in a loop; everything else is done for all T steps at
once, and the weight's gradient is one product.

With a = p + h W^T the activations and s their sigmoids, the gradients of one step follow from those of the next by

    dh = e_h + da W        dc = e_c + n dh + f dc        da = e_a + m (dc, dc, dc, dh)

with f the forget gates, m the derivatives of c (of h, for the last gate) with respect to a, n that of h with respect to
c, and e the gradients that enter from outside the recurrence. This map is linear; its own gradient is one more loop,
from the first step to the last.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class Recurrence(Function):
    """``(p [T, B, G], W [G, H], h [B, H], c [B, H]) -> h [T, B, H], c [T, B, H], s [T, B, G]``.

    p is the contribution of inputs and biases to the gates, h and c are the states before the first step and after each
    step, and s the sigmoids of the gates (of 2 g for g). Can be differentiated twice, also under ``vmap`` and ``grad``.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(p_TBG: Tensor, w_GH: Tensor, h_BH: Tensor, c_BH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run T steps."""
        # tanh(x) = 2 sigmoid(2x) - 1, so one sigmoid serves all four gates.
        factor_G = gate_factors(w_GH)
        w_HG, hs, cs, gates = (w_GH * factor_G[:, None]).mT, [], [], []
        for p_BG in (p_TBG * factor_G).unbind():
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
        """Save all inputs but p, and all outputs."""
        ctx.save_for_backward(*inputs[1:], *output)

    @staticmethod
    def backward(ctx: Any, e_h: Tensor, e_c: Tensor, e_s: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients with respect to p, W, h and c."""
        w, h_first, c_first, h, c, s = ctx.saved_tensors
        i, f, g, o = s.chunk(4, dim=-1)
        u, slope = tanh(c), (s - s * s) * gate_factors(w)
        m = slope * torch.cat([2 * g - 1, shift_states(c_first, c), 2 * i, u], dim=-1)
        da, dc_first, _ = BackwardRecurrence.apply(e_h, e_c, e_s * slope, w, f, m, o - o * u * u)
        dw = da.flatten(0, 1).mT @ shift_states(h_first, h).flatten(0, 1)
        return da, dw, da[0] @ w, dc_first


class BackwardRecurrence(Function):
    """``(e_h, e_c, e_a, W, f, m, n) -> da [T, B, G], dc [B, H], (dc, dc, dc, dh) [T, B, G]``.

    The second output is the gradient before the first step. The third is a by-product and has no derivative.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        e_h: Tensor, e_c: Tensor, e_a: Tensor, w: Tensor, f: Tensor, m: Tensor, n: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Propagate the gradients from the last step to the first."""
        activations: list[Tensor] = []
        states: list[Tensor] = []
        # The gradients that later steps pass back; no step follows the last one.
        from_h, from_c = torch.zeros_like(e_h[0]), torch.zeros_like(e_c[0])
        for e_h_t, e_c_t, e_a_t, f_t, m_t, n_t in reversed(unbind_steps(e_h, e_c, e_a, f, m, n)):
            dh = e_h_t + from_h
            dc = torch.addcmul(e_c_t + from_c, n_t, dh)
            states.append(torch.cat([dc, dc, dc, dh], dim=-1))
            activations.append(torch.addcmul(e_a_t, m_t, states[-1]))
            from_h, from_c = activations[-1] @ w, f_t * dc
        return torch.stack(activations[::-1]), from_c, torch.stack(states[::-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Save the coefficients of the linear map, and its outputs."""
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(*inputs[3:], output[0], output[2])

    @staticmethod
    def backward(ctx: Any, q: Tensor, q_c: Tensor, _states: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients with respect to all inputs, given those with respect to da and dc."""
        w, f, m, n, da, states = ctx.saved_tensors
        hs, cs, activations, w_HG = [torch.zeros_like(q_c)], [q_c], [], w.mT
        for q_t, f_t, m_t, n_t in unbind_steps(q, f, m, n):
            activations.append(q_t + hs[-1] @ w_HG)
            i, f_, g, o = (m_t * activations[-1]).chunk(4, dim=-1)
            cs.append(torch.addcmul(i + f_ + g, f_t, cs[-1]))
            hs.append(torch.addcmul(o, n_t, cs[-1]))
        a, h, c = torch.stack(activations), torch.stack(hs[1:]), torch.stack(cs[1:])
        hidden = w.shape[1]
        dc, dh = states[..., :hidden], states[..., -hidden:]
        dw = da[1:].flatten(0, 1).mT @ h[:-1].flatten(0, 1)
        return h, c, a, dw, dc * shift_states(q_c, c), a * states, c * dh


def unbind_steps(*series: Tensor) -> list[tuple[Tensor, ...]]:
    """Split series [T, ...] into T tuples, one per step."""
    return list(zip(*(one.unbind() for one in series), strict=True))


def shift_states(first_BH: Tensor, states_TBH: Tensor) -> Tensor:
    """Return the state before each step, [T, B, H], given the first state and those after each step."""
    return torch.cat([first_BH[None], states_TBH[:-1]])


def tanh(x: Tensor) -> Tensor:
    """Return the hyperbolic tangent, from torch's sigmoid, which is several times faster than its tanh on a CPU."""
    return 2 * torch.sigmoid(2 * x) - 1


def gate_factors(w_GH: Tensor) -> Tensor:
    """Return the factor by which each gate's activation enters its sigmoid, [G]: 2 for g, 1 for i, f and o."""
    hidden = w_GH.shape[1]
    cell_gate = torch.arange(2 * hidden, 3 * hidden, device=w_GH.device)
    return torch.ones_like(w_GH[:, 0]).index_fill(0, cell_gate, 2.0)
