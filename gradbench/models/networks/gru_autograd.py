"""The recurrence of a GRU, with hand-written first and second derivatives.

B batch, T time, H hidden, G = 3 H: the gates r, z, n of a step side by side, as in ``nn.GRU``.

As in ``lstm_autograd``, only the dependence of a step on its neighbour stays in a loop. With q = h W_n^T + b_n, one
step is

    r = sigmoid(p_r + h W_r^T + b_r)    z = sigmoid(p_z + h W_z^T + b_z)    n = tanh(p_n + r q)    h' = n + z (h - n)

With a = h W^T + b, the gradient of each state follows from that of the next, dh', by

    da = e_a + m (dh', dh', dh')        dh = e_h + z dh' + da W

with m the derivatives of h' with respect to a, and e the gradients that enter from outside the recurrence. This map is
linear; its own gradient is one more loop, from the first step to the last.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradbench.models.networks.lstm_autograd import shift_states, tanh, unbind_steps


class GRURecurrence(Function):
    """``(p [T, B, G], W [G, H], b [G], h [B, H]) -> h [T, B, H], gates [T, B, G], q [T, B, H]``.

    p is the contribution of inputs and their biases, h the state before the first step and after each step, and the
    gates are r, z and n. Can be differentiated twice, also under ``vmap`` and ``grad``.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(p_TBG: Tensor, w_GH: Tensor, b_G: Tensor, h_BH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run T steps."""
        hidden = w_GH.shape[1]
        b_rz, b_n = torch.split(b_G, [2 * hidden, hidden])
        p_TBrz, p_TBn = torch.split(p_TBG, [2 * hidden, hidden], dim=-1)
        w_HG, hs, gates, qs = w_GH.mT, [], [], []
        for p_rz, p_n in unbind_steps(p_TBrz + b_rz, p_TBn):
            a_rz, q = torch.split(h_BH @ w_HG, [2 * hidden, hidden], dim=-1)
            rz, q = torch.sigmoid(p_rz + a_rz), q + b_n
            r, z = rz.chunk(2, dim=-1)
            n = tanh(torch.addcmul(p_n, r, q))
            h_BH = torch.addcmul(n, z, h_BH - n)
            hs.append(h_BH)
            gates.append(torch.cat([rz, n], dim=-1))
            qs.append(q)
        return torch.stack(hs), torch.stack(gates), torch.stack(qs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Save W, the first state and all outputs."""
        ctx.save_for_backward(inputs[1], inputs[3], *output)

    @staticmethod
    def backward(ctx: Any, e_h: Tensor, e_gates: Tensor, e_q: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients with respect to p, W, b and h."""
        w, h_first, h, gates, q = ctx.saved_tensors
        r, z, n = gates.chunk(3, dim=-1)
        e_r, e_z, e_n = e_gates.chunk(3, dim=-1)
        before = shift_states(h_first, h)
        slope_r, slope_z, slope_n = r - r * r, z - z * z, 1 - n * n
        e_n = e_n * slope_n
        e_a = torch.cat([(e_n * q + e_r) * slope_r, e_z * slope_z, e_n * r + e_q], dim=-1)
        m_n = (1 - z) * slope_n
        m = torch.cat([m_n * q * slope_r, (before - n) * slope_z, m_n * r], dim=-1)
        dh = BackwardGRURecurrence.apply(e_h, e_a, w, z, m)
        da = e_a + m * thrice(dh)
        hidden = w.shape[1]
        dp = torch.cat([da[..., : 2 * hidden], e_n + m_n * dh], dim=-1)
        da_2d = da.flatten(0, 1)
        return dp, da_2d.mT @ before.flatten(0, 1), da_2d.sum(dim=0), z[0] * dh[0] + da[0] @ w


class BackwardGRURecurrence(Function):
    """``(e_h [T, B, H], e_a [T, B, G], W, z, m) -> dh [T, B, H]``: the gradient of each state."""

    generate_vmap_rule = True

    @staticmethod
    def forward(e_h: Tensor, e_a: Tensor, w: Tensor, z: Tensor, m: Tensor) -> Tensor:
        """Propagate the gradients from the last step to the first."""
        gradients = [e_h[-1]]
        for e_h_t, e_a_t, z_t, m_t in reversed(unbind_steps(e_h[:-1], e_a[1:], z[1:], m[1:])):
            da = torch.addcmul(e_a_t, m_t, thrice(gradients[-1]))
            gradients.append(torch.addcmul(e_h_t, z_t, gradients[-1]) + da @ w)
        return torch.stack(gradients[::-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Save all inputs but the first, and the output."""
        ctx.save_for_backward(*inputs[1:], output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients with respect to all inputs, given those with respect to dh."""
        e_a, w, z, m, dh = ctx.saved_tensors
        w_HG, states = w.mT, [g[0]]
        activations = [torch.zeros_like(m[0])]
        for g_t, z_t, m_t in unbind_steps(g[1:], z[1:], m[1:]):
            activations.append(states[-1] @ w_HG)
            r, z_, n = (m_t * activations[-1]).chunk(3, dim=-1)
            states.append(torch.addcmul(g_t + r + z_ + n, z_t, states[-1]))
        h, a = torch.stack(states), torch.stack(activations)
        da = e_a + m * thrice(dh)
        dw = da[1:].flatten(0, 1).mT @ h[:-1].flatten(0, 1)
        return h, a, dw, shift_states(torch.zeros_like(g[0]), h) * dh, a * thrice(dh)


def thrice(x: Tensor) -> Tensor:
    """Repeat H numbers for each of the three gates."""
    return torch.cat([x, x, x], dim=-1)
