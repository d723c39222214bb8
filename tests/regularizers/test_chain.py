"""A composition is its parts, one after another."""

import pytest
import torch
from gradients import LAYOUT, P, follow, gradient_of, series

from gradbench.regularizers import Regularizer
from gradbench.regularizers.autoclip import autoclip
from gradbench.regularizers.chain import chain
from gradbench.regularizers.clip_norm import clip_norm
from gradbench.regularizers.clip_value import clip_value
from gradbench.regularizers.gradient_penalty import gradient_penalty
from gradbench.regularizers.weight_clip import weight_clip
from gradbench.regularizers.zclip import zclip

STATEFUL = {
    "two kinds of state": ((zclip(warmup=5), 1.0), (autoclip(15), 60.0)),
    "two of one kind": ((zclip(warmup=5), 2.0), (clip_norm(), 3.0), (zclip(warmup=9), 1.0)),
    "no state": ((clip_value(), 0.1), (clip_norm(), 0.5)),
}


@pytest.mark.parametrize("parts", STATEFUL.values(), ids=STATEFUL)
def test_each_transform_is_given_what_the_one_before_it_returns_and_keeps_a_state_of_its_own(parts):
    gradients = expected = series(40)
    for regularizer, strength in parts:
        expected, _ = follow(regularizer, expected, strength)
    composed = chain(*(regularizer for regularizer, _ in parts))
    strengths = torch.tensor([strength for _, strength in parts], dtype=torch.float64)
    parameters = gradient_of(0, 0.1)
    state = composed.init(parameters, LAYOUT)
    for gradient, one in zip(gradients, expected, strict=True):
        used, state = composed.transform(gradient, strengths, state, parameters, LAYOUT)
        torch.testing.assert_close(used, one, rtol=1e-12, atol=0)
    acted = [not torch.equal(one, gradient) for gradient, one in zip(gradients, expected, strict=True)]
    assert any(acted), "else nothing is held to anything"


def test_each_penalty_has_the_index_of_its_strength_and_a_part_without_hooks_takes_its_place():
    one, other = gradient_penalty(), gradient_penalty(center=0.0, points="real")
    assert chain(one, Regularizer(), clip_norm(), other).penalties == [(0, one), (3, other)]
    assert one.penalties == [(0, one)]
    assert chain(clip_norm(), Regularizer()).penalties == clip_norm().penalties == []


def test_each_transform_is_given_what_it_asks_for_by_name():
    def by_loss(gradient, strength, state, parameters, layout, loss):
        return gradient * loss, state

    def by_both(gradient, strength, state, parameters, layout, *, lr, loss):
        return gradient * lr + loss, state

    composed = chain(*(Regularizer(transform=one) for one in (by_loss, clip_norm().transform, by_both)))
    given = {"loss": torch.tensor(3.0), "lr": torch.tensor(0.5)}
    strengths, ones = torch.tensor([1.0, torch.inf, 1.0]), torch.ones(P)
    used, _ = composed.transformed(ones, strengths, {}, ones, LAYOUT, **given)
    assert torch.equal(used, torch.full((P,), 4.5))


@pytest.mark.parametrize(
    ("parts", "keeps"),
    [
        ((clip_norm(), zclip()), True),
        ((gradient_penalty(), weight_clip()), True),
        ((clip_norm(), clip_value()), False),
    ],
)
def test_a_composition_keeps_directions_if_all_its_parts_do(parts, keeps):
    composed = chain(*parts)
    assert composed.changes_direction is not keeps
    assert bool(composed.transform) == any(part.transform for part in parts)
    assert bool(composed.project) == any(part.project for part in parts)


def test_projections_follow_one_another():
    composed = chain(weight_clip(), clip_norm(), weight_clip())
    found = composed.project(torch.full((P,), 9.0), torch.tensor([5.0, 1.0, 2.0]), LAYOUT)
    assert torch.equal(found, torch.full((P,), 2.0))
