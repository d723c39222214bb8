"""An update of several batches: their mean gradient, transformed and used once. K cells."""

import torch
from small import CPU, advance, cells, data_of, in_suites

from gradbench.training.bind import init_state
from gradbench.training.draws import draw_chunk
from gradbench.training.setup import build_stack
from gradbench.training.telemetry import Telemetry

SEVERAL, BATCH, STEPS = 3, 4, 4
KINDS = ("none", "clip_norm", "gp", "zclip", "weight_clip")


def trained(stack, draws, steps=STEPS):
    """Train some steps with given random numbers; return every player's parameters and series."""
    context = build_stack(stack, data_of(stack[0]), CPU)
    state, telemetry = init_state(context), Telemetry(context)
    draws = draws or draw_chunk(context, 0)
    for _ in range(steps):
        advance(context, state, draws, telemetry)
    return state.parameters, telemetry.recorded(), draws


@in_suites(
    "model, regularizer",
    quick=[*(("mlp", name) for name in KINDS), ("wgan", "gp"), ("regressor", "clip_norm")],
    slow=[(model, name) for model in ("wgan", "regressor") for name in KINDS],
)
def test_several_batches_make_the_update_of_one_that_is_as_large(model, regularizer):
    given = {"seed": [0, 3], "optimizer": "adam", "optimizer__lr": 0.01}
    given |= {"optimizer__weight_decay": 0.1} | ({"regularizer__warmup": 2} if regularizer == "zclip" else {})
    small = cells(model, regularizer, accumulate=SEVERAL, model__batch_size=BATCH, **given)
    large = cells(model, regularizer, model__batch_size=SEVERAL * BATCH, **given)
    parameters, series, draws = trained(small, None)
    merged = {
        player: {
            name: tensor.reshape(len(tensor), -1, SEVERAL * BATCH, *tensor.shape[3:])
            for name, tensor in of_player.items()
        }
        for player, of_player in draws.items()
    }
    one, another, _ = trained(large, merged)
    for player in parameters:
        torch.testing.assert_close(parameters[player], one[player], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(series[player], another[player], rtol=1e-10, atol=1e-12)


def test_each_batch_of_an_update_is_another_one():
    alone, several = (
        trained(cells("mlp", "none", accumulate=count, model__batch_size=BATCH), None, steps=1)
        for count in (1, SEVERAL)
    )
    indices = several[2]["mlp"]["index"]
    assert indices[0, :SEVERAL].unique().numel() == SEVERAL * BATCH, "no example twice within an epoch"
    assert torch.equal(indices[0, 0], alone[2]["mlp"]["index"][0, 0])
    assert not torch.equal(several[0]["mlp"], alone[0]["mlp"])


def test_the_learning_rate_of_each_step_is_recorded_where_it_changes():
    rates = [0.1, 0.2]
    stack = cells("wgan", "none", schedule="warmup", schedule__warmup=4, optimizer="sgd", optimizer__lr=rates)
    _, series, _ = trained(stack, None, steps=6)
    expected = torch.tensor(rates, dtype=torch.float64) * torch.tensor([[0.25, 0.5, 0.75, 1, 1, 1]]).T
    torch.testing.assert_close(series["critic"][:, -1], expected, rtol=1e-14, atol=0)
