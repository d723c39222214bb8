"""Schedules, against ``torch.optim.lr_scheduler`` step by step in float64. K cells."""

import math

import pytest
import torch
from small import CONFIGS
from torch.optim import lr_scheduler

from gradbench.config.instantiate import instantiate_group
from gradbench.grid.cell import schedule_numbers

STEPS, LR = 40, 0.3


def shares(words, numbers=None, steps=STEPS):
    """Return the share of the learning rate at each step, [steps, K]; ``numbers`` gives cells of their own."""
    config = CONFIGS.compose((*words.split(), "model=mlp"))[0]
    if config["schedule"].get("steps"):
        config["schedule"]["steps"] = STEPS
    schedule = instantiate_group(config, "schedule", without=schedule_numbers(config))
    given = {key: [value] for key, value in schedule_numbers(config).items()} | (numbers or {})
    width = max(map(len, given.values()))
    columns = {key: values * (width // len(values)) for key, values in given.items()}
    tensors = {key: torch.tensor(column, dtype=torch.float64)[:, None] for key, column in columns.items()}
    every = [schedule(torch.tensor(float(step), dtype=torch.float64), tensors) for step in range(steps)]
    assert all(share.shape == (width, 1) for share in every)
    return torch.cat(every, dim=1).T


def torchs(make, steps=STEPS):
    """Return the learning rates of a scheduler at each step, as shares."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=LR)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"] / LR)
        optimizer.step()
        scheduler.step()
    return torch.tensor(rates, dtype=torch.float64)


def rising(optimizer, warmup):
    return lr_scheduler.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)


def in_turn(optimizer, warmup, after):
    return lr_scheduler.SequentialLR(optimizer, [rising(optimizer, warmup), after], milestones=[warmup])


PAIRS = {
    "warmup": ("schedule.warmup=8", lambda o: rising(o, 8)),
    "step": ("schedule.every=7 schedule.factor=0.5", lambda o: lr_scheduler.StepLR(o, 7, 0.5)),
    "milestones": (
        "schedule.milestones=[3,4,20] schedule.factor=0.3",
        lambda o: lr_scheduler.MultiStepLR(o, [3, 4, 20], 0.3),
    ),
    "linear_decay": ("schedule.final=0.1", lambda o: lr_scheduler.LinearLR(o, 1, 0.1, STEPS)),
    "cosine": (
        "schedule.final=0.1",
        lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.1 * LR),
    ),
    "warmup_cosine": (
        "schedule.warmup=8 schedule.final=0.1",
        lambda o: in_turn(o, 8, lr_scheduler.CosineAnnealingLR(o, STEPS - 8, eta_min=0.1 * LR)),
    ),
    "inverse_sqrt": (
        "schedule.warmup=8",
        lambda o: in_turn(o, 8, lr_scheduler.LambdaLR(o, lambda step: math.sqrt(8 / (step + 9)))),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_schedule_follows_torchs_step_by_step(name):
    words, make = PAIRS[name]
    ours = shares(f"schedule={name} {words}")[:, 0]
    torch.testing.assert_close(ours, torchs(make), rtol=1e-12, atol=1e-13)


def test_every_schedule_but_the_constant_one_is_held_to_torchs():
    assert {*PAIRS, "constant"} == set(CONFIGS.groups["schedule"])


@pytest.mark.parametrize("name", PAIRS)
def test_a_cell_has_the_bits_of_its_own_numbers_in_a_stack_of_any_width(name):
    swept = {"warmup": ("warmup", 3.0), "step": ("every", 2.0), "milestones": ("factor", 0.1)}
    key, first = swept.get(name, ("warmup" if "warmup" in PAIRS[name][0] else "final", 0.0))
    values = [first + 0.01 * place if key in ("final", "factor") else first + place for place in range(19)]
    together = shares(f"schedule={name}", {key: values})
    for place, value in enumerate(values):
        assert torch.equal(together[:, place], shares(f"schedule={name}", {key: [value]})[:, 0])


def test_without_warmup_the_first_step_has_the_whole_learning_rate():
    for name in ("warmup", "warmup_cosine", "inverse_sqrt"):
        assert shares(f"schedule={name} schedule.warmup=0")[0] == 1.0


def test_a_cosine_ends_at_its_share_and_stays_there():
    ours = shares("schedule=cosine schedule.final=0.25", steps=2 * STEPS)[:, 0]
    assert ours[0] == 1.0
    assert (ours[1 : STEPS + 1] < ours[:STEPS]).all()
    assert (ours[STEPS:] == 0.25).all()


@pytest.mark.parametrize("name", CONFIGS.groups["schedule"])
def test_a_schedules_yaml_says_what_it_is_and_explains_its_keys(name):
    first, *lines = CONFIGS.path("schedule", name).read_text().splitlines()
    assert first.startswith("# ")
    assert {line.split(":")[0] for line in lines if "  # " not in line} == {"name", "_target_"}
