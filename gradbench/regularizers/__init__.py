"""Regularizers: each is up to three pure functions of gradients, loss or parameters, written for ONE network.

P parameters, B points. The training loop adds the axis of K networks with ``vmap``; an absent hook costs nothing. No
regularizer knows models, optimizers or stacks. To add one, write one file with a function that returns a
:class:`Regularizer`, and one YAML in ``conf/regularizer``.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from gradbench.errors import UsageError
from gradbench.functional.flat_params import Layout
from gradbench.named_code import is_named

State = dict[str, Tensor]
"""State of a transform between steps, name -> tensor; empty for most."""

Penalty = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]
"""``penalty(f, points, strength) -> scalar``: f maps points [B, ...] to one value each [B]."""

Transform = Callable[..., tuple[Tensor, State]]
"""``transform(gradient [P], strength, state, parameters [P], layout) -> gradient [P], state``.

Further arguments named in :data:`ASKED_FOR` are passed where its signature has them.
"""

ASKED_FOR = ("loss", "lr")
"""What a transform may ask for by name: the loss of the batch without penalty, and the step's learning rate."""

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
        points: name of the model's points at which ``penalty`` is measured; ``None`` for the model's default.
        every: ``penalty`` is added at every so many steps, from the first on, with as many times its weight.
        parts: the regularizers that it composes, each with a strength of its own: its hooks take a vector of these.

    Raises:
        UsageError: for a transform with an argument that nothing gives it, or steps that are no whole number >= 1.
    """

    penalty: Penalty | None = None
    transform: Transform | None = None
    project: Project | None = None
    preserves_direction: bool = False
    init: Callable[[Tensor, Layout], State] = init_no_state
    points: str | None = None
    every: int = 1
    parts: tuple["Regularizer", ...] = ()

    def __post_init__(self) -> None:
        """Check the transform's signature, and the steps between penalties."""
        if type(self.every) is not int or self.every < 1:
            raise UsageError(
                f"regularizer.every must be a whole number >= 1, got {self.every}; 1 is every step"
            )
        if self.transform is not None:
            check_asked(self.transform)

    @property
    def acts(self) -> bool:
        """True if it has a hook."""
        return bool(self.penalties or self.transform or self.project)

    @property
    def changes_direction(self) -> bool:
        """True if the transform may change a gradient's direction."""
        return self.transform is not None and not self.preserves_direction

    @property
    def penalties(self) -> list[tuple[int, "Regularizer"]]:
        """The regularizers with a penalty, itself or parts of it, each with the index of its strength."""
        return [(index, part) for index, part in enumerate(self.parts or (self,)) if part.penalty]

    def due(self, step: int) -> frozenset[int]:
        """Return the indices of the penalties that are paid at a training step, counted from 0."""
        return frozenset(index for index, part in self.penalties if step % part.every == 0)

    def own(self, strength: Tensor) -> Tensor:
        """Return what its hooks take of strengths [..., S] of which it may have fewer: [...], or [..., several]."""
        return strength[..., : len(self.parts)] if self.parts else strength[..., 0]

    def transformed(
        self,
        gradient: Tensor,
        strength: Tensor,
        state: State,
        parameters: Tensor,
        layout: Layout,
        **given: Tensor,
    ) -> tuple[Tensor, State]:
        """Apply the transform, with those of the values given by name that it asks for."""
        assert self.transform is not None
        asked = {name: value for name, value in given.items() if name in self._asked}
        return self.transform(gradient, strength, state, parameters, layout, **asked)

    @cached_property
    def _asked(self) -> tuple[str, ...]:
        """What the transform asks for by name; a composition takes all, for its parts."""
        assert self.transform is not None
        names = ASKED_FOR if self.parts else inspect.signature(self.transform).parameters
        return tuple(name for name in ASKED_FOR if name in names)


def check_asked(transform: Transform) -> None:
    """Raise ``UsageError`` for a transform that asks for what there is not."""
    arguments = list(inspect.signature(transform).parameters.values())
    for one in arguments[5:]:
        if is_named(one) and one.default is one.empty and one.name not in ASKED_FOR:
            raise UsageError(
                f"{getattr(transform, '__qualname__', 'a transform')} has the argument {one.name}, which nothing gives "
                f"it; beside gradient, strength, state, parameters and layout it may ask for {' and '.join(ASKED_FOR)}"
            )
