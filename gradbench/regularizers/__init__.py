"""Regularizers: each is up to three pure functions of gradients, loss or parameters, written for ONE network.

P parameters, B points. The training loop adds the axis of K networks with ``vmap``; an absent hook costs nothing. No
regularizer knows models, optimizers or stacks. To add one, write one file with a function that returns a
:class:`Regularizer`, and one YAML in ``conf/regularizer``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from gradbench.functional.flat_params import Layout

State = dict[str, Tensor]
"""State of a transform between steps, name -> tensor; empty for most."""

Penalty = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]
"""``penalty(f, points, strength) -> scalar``: f maps points [B, ...] to one value each [B]."""

Transform = Callable[[Tensor, Tensor, State, Tensor, Layout], tuple[Tensor, State]]
"""``transform(gradient [P], strength, state, parameters [P], layout) -> gradient [P], state``."""

Project = Callable[[Tensor, Tensor, Layout], Tensor]
"""``project(parameters [P], strength, layout) -> parameters [P]``, after the step."""


def init_no_state(_parameters: Tensor, _layout: Layout) -> State:
    """Return the empty state of a stateless transform."""
    return {}


@dataclass(frozen=True)
class Regularizer:
    """The hooks of one regularizer; ``None`` for a hook that it does not have.

    Args:
        penalty: function whose value is added to the loss before differentiation.
        transform: function applied to the gradient, between backward and the optimizer's step.
        project: function applied to the parameters after the step.
        preserves_direction: whether ``transform`` multiplies the whole gradient by one number.
        init: ``init(parameters [P], layout) -> state`` of ``transform`` before the first step.
        strengths: number of strengths that the hooks take: one as a scalar, several as a vector.
    """

    penalty: Penalty | None = None
    transform: Transform | None = None
    project: Project | None = None
    preserves_direction: bool = False
    init: Callable[[Tensor, Layout], State] = init_no_state
    strengths: int = 1

    @property
    def acts(self) -> bool:
        """True if it has a hook."""
        return bool(self.penalty or self.transform or self.project)

    @property
    def changes_direction(self) -> bool:
        """True if the transform may change a gradient's direction."""
        return self.transform is not None and not self.preserves_direction

    def own(self, strength: Tensor) -> Tensor:
        """Return what its hooks take of strengths [..., S] of which it may have fewer: [...], or [..., several]."""
        return strength[..., 0] if self.strengths == 1 else strength[..., : self.strengths]
