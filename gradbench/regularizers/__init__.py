"""What is done to gradients or to the loss: up to three pure functions, each written for ONE network.

P parameters, B points. The training loop adds the axis of K networks with ``vmap``; a hook that is absent
costs nothing. To add a regularizer, write one file with a function that returns a :class:`Regularizer`, and
one YAML in ``conf/regularizer``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from gradbench.functional.flat_params import Layout

State = dict[str, Tensor]
"""What a hook remembers from step to step; empty for most."""

Penalty = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]
"""``penalty(f, points, strength) -> scalar``: f maps points [B, ...] to one value each [B]."""

Transform = Callable[[Tensor, Tensor, State, Tensor, Layout], tuple[Tensor, State]]
"""``transform(gradient [P], strength, state, parameters [P], layout) -> gradient [P], state``."""

Project = Callable[[Tensor, Tensor, Layout], Tensor]
"""``project(parameters [P], strength, layout) -> parameters [P]``, after the step."""


def init_no_state(_parameters: Tensor, _layout: Layout) -> State:
    """Return the state of a transform that keeps none."""
    return {}


@dataclass(frozen=True)
class Regularizer:
    """The hooks of one regularizer; ``None`` where it has none.

    Args:
        penalty: is added to the loss before differentiation.
        transform: acts on the gradient, between backward and the optimizer's step.
        project: acts on the parameters after the step.
        rescales: whether ``transform`` multiplies the whole gradient by one number: its direction is kept.
        init: returns the state that ``transform`` keeps, ``init(parameters [P], layout) -> state``.
    """

    penalty: Penalty | None = None
    transform: Transform | None = None
    project: Project | None = None
    preserves_direction: bool = False
    init: Callable[[Tensor, Layout], State] = init_no_state

    @property
    def changes_direction(self) -> bool:
        """Whether the transform may change a gradient's direction."""
        return self.transform is not None and not self.preserves_direction
