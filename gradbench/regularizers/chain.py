"""Composition of several regularizers, as optax's ``chain`` composes transformations. S strengths, one per part."""

from torch import Tensor

from gradbench.functional.flat_params import Layout
from gradbench.regularizers import Regularizer, State


def chain(*parts: Regularizer) -> Regularizer:
    """Compose regularizers: penalties add up, transforms and then projections follow one another in the order given.

    Each penalty is measured at its own points. Each transform is given the gradient that the one before it returns, and
    keeps a state of its own.

    Args:
        parts: two or more, none of them composed itself.

    Returns:
        A regularizer whose hooks take the parts' strengths as a vector [S], in the order of the parts.
    """
    numbered = list(enumerate(parts))

    def init(parameters_P: Tensor, layout: Layout) -> State:
        states = [(i, part.init(parameters_P, layout)) for i, part in numbered]
        return {state_key(i, name): tensor for i, state in states for name, tensor in state.items()}

    def transform(
        gradient_P: Tensor,
        strength_S: Tensor,
        state: State,
        parameters_P: Tensor,
        layout: Layout,
        **given: Tensor,
    ) -> tuple[Tensor, State]:
        after = dict(state)
        for i, part in numbered:
            if part.transform:
                begin = state_key(i, "")
                own = {key.removeprefix(begin): one for key, one in state.items() if key.startswith(begin)}
                gradient_P, own = part.transformed(
                    gradient_P, strength_S[i], own, parameters_P, layout, **given
                )
                after |= {state_key(i, name): tensor for name, tensor in own.items()}
        return gradient_P, after

    def project(parameters_P: Tensor, strength_S: Tensor, layout: Layout) -> Tensor:
        for i, part in numbered:
            if part.project:
                parameters_P = part.project(parameters_P, strength_S[i], layout)
        return parameters_P

    return Regularizer(
        transform=transform if any(part.transform for part in parts) else None,
        project=project if any(part.project for part in parts) else None,
        preserves_direction=not any(part.changes_direction for part in parts),
        init=init,
        parts=parts,
    )


def state_key(part: int, name: str) -> str:
    """Return the key under which a composition keeps a tensor of the state of one of its parts."""
    return f"{part}.{name}"
