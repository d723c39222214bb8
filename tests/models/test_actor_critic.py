"""CartPole, PPO and A2C: against Gymnasium, and against the published formulas written separately."""

import math
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
import torch
from small import CONFIGS, CPU, advance, cells, data_of
from stopping import StopError, always, assert_same_outcome, stop_at
from torch.distributions import Categorical

from gradbench.errors import UsageError
from gradbench.models import cartpole
from gradbench.models.actor_critic import (
    advantages,
    clipped_policy_loss,
    clipped_value_loss,
    entropy_of,
    explained_variance,
    first_returns,
    log_probability,
    mean_return,
    normalised,
)
from gradbench.models.networks.actor_critic import ActorCritic
from gradbench.training.bind import init_state
from gradbench.training.draws import CHUNK, draw_chunk
from gradbench.training.interaction import interact_one
from gradbench.training.loop import train
from gradbench.training.program import build
from gradbench.training.reference import as_tensor
from gradbench.training.setup import build_stack
from gradbench.training.telemetry import Telemetry

SIZES = {"model__environments": 3, "model__interactions": 40, "model__limit": 500, "model__epochs": 2}


def small(model="actor_critic", **values):
    """Return a cell, and its task."""
    (cell,) = cells(model, "none", **SIZES | values)
    return cell, build(cell.config, data_of(cell)).model


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(math.prod(shape)))


# ---- the environment -----------------------------------------------------------------------------------------


class Balancing(torch.nn.Module):
    """A policy that pushes to where the pole falls, and survives all 500 steps; or a random one."""

    def __init__(self, balances):
        super().__init__()
        self.balances = balances

    def forward(self, x):
        lean = 1e6 * self.balances * (x[..., 2] + 0.5 * x[..., 3] + 0.05 * x[..., 1] + 0.02 * x[..., 0])
        return torch.stack([-lean, lean], dim=-1), x.sum(-1)


@pytest.mark.parametrize("balances", [0, 1])
def test_every_transition_is_gymnasiums(balances):
    """Also its end, whether the pole falls or the episode is truncated after 500 steps."""
    _, task = small(model__interactions=1100)
    drawn = task.draw("interaction", 0, 0, 1, {})
    draws = {name: as_tensor(tensor[0], torch.float64) for name, tensor in drawn.items()}
    carry = {name: tensor.double() for name, tensor in task.carry().items()}
    ours, _ = interact_one(task, {"agent": Balancing(balances)}, carry, draws)
    falls = truncations = 0
    for e in range(3):
        environment, is_over = gymnasium.make("CartPole-v1"), True
        for t in range(1100):
            if is_over:
                environment.reset(seed=0)
                assert torch.equal(ours["state"][t, e], draws["start"][t, e])
                assert draws["start"][t, e].abs().max() <= 0.05
            else:
                assert torch.equal(ours["state"][t, e], ours["after"][t - 1, e])
            environment.unwrapped.state = ours["state"][t, e].numpy()  # else rounding errors grow
            _, reward, fallen, truncated, _ = environment.step(int(ours["action"][t, e]))
            np.testing.assert_allclose(
                ours["after"][t, e], environment.unwrapped.state, rtol=1e-13, atol=1e-15
            )
            is_over = fallen or truncated
            assert (reward, bool(ours["fallen"][t, e]), bool(ours["over"][t, e])) == (1.0, fallen, is_over)
            falls, truncations = falls + fallen, truncations + (truncated and not fallen)
    assert (falls > 100, truncations) == ((False, 6) if balances else (True, 0))


def test_the_limits_of_an_episode_are_gymnasiums():
    environment = gymnasium.make("CartPole-v1")
    assert environment.spec.max_episode_steps == CONFIGS.compose(("model=actor_critic",))[0]["model"]["limit"]
    assert environment.unwrapped.x_threshold == cartpole.POSITION_LIMIT
    assert environment.unwrapped.theta_threshold_radians == pytest.approx(cartpole.ANGLE_LIMIT, rel=1e-15)


def test_actions_have_the_probabilities_of_the_policy():
    _, task = small(model__interactions=4000, model__environments=1, model__minibatches=1)
    draws = {name: tensor[0] for name, tensor in task.draw("interaction", 0, 0, 1, {}).items()}

    def net(x):
        return torch.tensor([0.0, 1.0]).expand(*x.shape[:-1], 2), x.sum(-1)

    found, _ = interact_one(task, {"agent": net}, task.carry(), draws)
    assert float(found["action"].mean()) == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)


def test_an_episode_goes_on_where_the_last_training_step_left_it():
    (cell,) = cells("actor_critic", "none", **SIZES)
    context = build_stack([cell], data_of(cell), CPU)
    state, telemetry, draws = init_state(context), Telemetry(context), draw_chunk(context, 0)
    found = []
    interact = context.interact
    object.__setattr__(context, "interact", lambda *args: found.append(interact(*args)) or found[-1])
    for _ in range(3):
        advance(context, state, draws, telemetry)
    (first, _), (second, _), _ = found
    goes_on = first["over"][0, -1] == 0
    assert goes_on.any()
    assert torch.equal(second["state"][0, 0][goes_on], first["after"][0, -1][goes_on])
    assert float(state.carry["interactions"]) == 3 * 40 * 3


def test_the_mean_return_counts_each_environment_step_with_the_return_of_its_episode():
    _, task = small(model__interactions=300, model__environments=3, model__minibatches=1)
    draws = {name: tensor[0] for name, tensor in task.draw("interaction", 0, 0, 1, {}).items()}
    found, carry = interact_one(task, {"agent": Balancing(False)}, task.carry(), draws)
    returns = []
    for over in found["over"].T.tolist():
        ends = [t + 1 for t, ended in enumerate(over) if ended] + [len(over)]
        for first, end in pairwise([0, *ends]):
            returns += [end - first] * (end - first)
    assert len(returns) == 900
    assert min(returns) < max(returns) < 300
    assert float(mean_return(carry["lengths"], carry["interactions"])) == pytest.approx(np.mean(returns))


def test_an_agent_that_is_stopped_within_an_episode_and_resumed_ends_as_one_that_never_was(tmp_path):
    stack = cells("actor_critic", "clip_norm", seed=[0, 1], **SIZES | {"steps": CHUNK + 10, "eval_every": 30})
    data, path = data_of(stack[0]), tmp_path / "stack.pt"
    whole = train(stack, data, CPU)
    with pytest.raises(StopError):
        train(stack, data, CPU, stop_at(31), always(path))
    saved = always(path).load(CPU)
    assert saved["state"]["carry"]["length"].max() > 1
    assert_same_outcome(train(stack, data, CPU, checkpoint=always(path)), whole)


def test_an_agent_whose_checkpoint_carries_other_values_starts_anew(tmp_path):
    stack = cells("actor_critic", "clip_norm", **SIZES | {"steps": 4, "eval_every": 2})
    data, path = data_of(stack[0]), tmp_path / "stack.pt"
    whole = train(stack, data, CPU)
    with pytest.raises(StopError):
        train(stack, data, CPU, stop_at(4), always(path))
    saved = always(path).load(CPU)
    del saved["state"]["carry"]["lengths"]
    always(path).save(saved)
    assert_same_outcome(train(stack, data, CPU, checkpoint=always(path)), whole)


def test_a_return_is_the_length_of_the_first_episode():
    over = torch.zeros(9, 3)
    over[2, 0] = over[5, 0] = over[8, 2] = 1
    assert first_returns(over).tolist() == [3, 9, 9]


# ---- formulas ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("discount", "decay"), [(0.99, 0.95), (0.9, 1.0), (0.99, 0.0)])
def test_advantages_are_exponentially_weighted_sums_of_returns(discount, decay):
    """Equation 14 of Schulman et al. (arXiv:1506.02438) as a mean of k-step returns, term by term."""
    T, E = 12, 4
    value = random(T, E)
    fallen = (random(T + 1, E)[:T] > 1).double()
    over = torch.maximum(fallen, (random(T + 2, E)[:T] > 1.2).double())
    # within an episode the state after an action is the next one
    following = torch.where(over > 0, random(E, T).T, torch.cat([value[1:], random(1, E)]))
    ours = advantages(value, following, fallen, over, discount, decay)
    for e in range(E):
        for t in range(T):
            end = next((s for s in range(t, T) if over[s, e]), T - 1)

            def returned(k, e=e, t=t):  # k rewards, and the value of the state after them
                last = t + k - 1
                rewards = sum(discount**i for i in range(k))
                return rewards + discount**k * float(following[last, e] * (1 - fallen[last, e]))

            longest = end - t + 1
            weights = [(1 - decay) * decay ** (k - 1) for k in range(1, longest)] + [decay ** (longest - 1)]
            expected = sum(weight * returned(k) for k, weight in enumerate(weights, start=1)) - float(
                value[t, e]
            )
            assert float(ours[t, e]) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_a_truncated_episode_is_worth_what_the_critic_says_and_a_fallen_pole_nothing():
    value, following = torch.zeros(2, 3), torch.full((2, 3), 10.0)
    fallen, over = torch.tensor([[1.0, 0, 0], [0, 0, 0]]), torch.tensor([[1.0, 1, 0], [0, 0, 0]])
    found = advantages(value, following, fallen, over, 0.9, 1.0)[0]
    assert found.tolist() == pytest.approx([1, 1 + 0.9 * 10, 1 + 0.9 * 10 + 0.9 * (1 + 0.9 * 10)])


def test_ppos_loss_is_the_published_one_case_by_case():
    change, advantage = 0.5 * random(200), random(201)[:200]
    terms = []
    for log_ratio, a in zip(change.tolist(), advantage.tolist(), strict=True):
        ratio = math.exp(log_ratio)
        bound = (1 + 0.2) * a if a >= 0 else (1 - 0.2) * a
        terms.append(min(ratio * a, bound))
    ours = clipped_policy_loss(change, advantage, 0.2)
    assert float(ours) == pytest.approx(-sum(terms) / 200, rel=1e-12)
    x = change.clone().requires_grad_()
    clipped_policy_loss(x, advantage, 0.2).backward()
    outside = ((change.exp() > 1.2) & (advantage > 0)) | ((change.exp() < 0.8) & (advantage < 0))
    assert torch.equal(x.grad == 0, outside)


def test_a_value_that_moved_too_far_has_the_larger_of_two_errors():
    value, old, target = (torch.tensor([x], dtype=torch.float64) for x in (2.0, 1.0, 3.0))
    assert float(clipped_value_loss(value, old, target, 0.2)) == pytest.approx((1.2 - 3) ** 2 / 2)
    assert float(clipped_value_loss(value, old, -target, 0.2)) == pytest.approx((2 + 3) ** 2 / 2)
    assert float(clipped_value_loss(value, old, target, 5.0)) == pytest.approx((2 - 3) ** 2 / 2)


def test_log_probabilities_and_entropy_are_those_of_torchs_distribution():
    logits, action = random(7, 5, 2), (random(7, 5) > 0).double()
    theirs = Categorical(logits=logits)
    torch.testing.assert_close(log_probability(logits, action), theirs.log_prob(action))
    torch.testing.assert_close(entropy_of(logits), theirs.entropy())


def test_normalised_advantages_are_numpys():
    advantage = random(9)
    expected = (advantage.numpy() - advantage.numpy().mean()) / (advantage.numpy().std(ddof=1) + 1e-8)
    np.testing.assert_allclose(normalised(advantage), expected, rtol=1e-12)
    assert normalised(torch.ones(1)).tolist() == [0.0]


def test_explained_variance_is_one_of_perfect_values_and_zero_of_constant_ones():
    target = random(6, 2)
    assert float(explained_variance(target, target)) == 1
    assert float(explained_variance(torch.ones(6, 2), target)) == pytest.approx(0, abs=1e-12)
    assert float(explained_variance(random(2, 6).T, torch.ones(6, 2))) == 0


def test_a2cs_gradient_is_that_of_the_log_probability_times_the_advantage():
    _, task = small("a2c")
    net = task.networks()["agent"].double()
    batch = {"state": random(8, 4), "action": (random(8) > 0).double()}
    batch |= {name: random(8) for name in ("advantage", "target", "value")}
    logits, values = net(batch["state"])
    policy = Categorical(logits=logits)
    theirs = -(policy.log_prob(batch["action"]) * batch["advantage"]).mean() - 0.01 * policy.entropy().mean()
    theirs = theirs + 0.5 * torch.nn.functional.mse_loss(values, batch["target"]) / 2
    old = log_probability(*net(batch["state"])[:1], batch["action"]).detach()
    loss, _ = task.loss(
        "agent", {"agent": net}, batch | {"log_probability": old, "explained_variance": torch.zeros(())}, {}
    )
    ours = torch.autograd.grad(loss, list(net.parameters()))
    for one, other in zip(ours, torch.autograd.grad(theirs, list(net.parameters())), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("model", ["actor_critic", "a2c"])
def test_updates_of_an_epoch_use_each_transition_once_and_begin_at_the_old_policy(model):
    _, task = small(model)
    index = task.draw("agent", 0, 0, 4, {})["index"]
    assert torch.equal(index[:2].flatten().sort().values, torch.arange(120))
    assert torch.equal(index[2:].flatten().sort().values, torch.arange(120))
    nets = task.networks()
    draws = {name: tensor[0] for name, tensor in task.draw("interaction", 0, 0, 1, {}).items()}
    experience, carry = interact_one(task, nets, task.carry(), draws)
    batch = task.batch("agent", nets, experience, {"index": index[0]})
    _, carry = task.loss("agent", nets, batch, carry)
    _, kl, clipped, _ = carry["monitored"].tolist()
    assert abs(kl) < 1e-6
    assert clipped == 0


def test_initial_weights_are_orthogonal_with_gains_and_the_first_policy_is_nearly_uniform():
    net = ActorCritic(4, 2, 64, 2, "tanh")
    for first, gain in (
        (net.actor[2], 2**0.5),
        (net.critic[2], 2**0.5),
        (net.critic[4], 1),
        (net.actor[4], 0.01),
    ):
        weight = first.weight.detach()
        torch.testing.assert_close(weight @ weight.T, gain**2 * torch.eye(len(weight)), atol=1e-5, rtol=0)
    assert all(not parameter.any() for name, parameter in net.named_parameters() if name.endswith("bias"))
    with torch.no_grad():
        assert float(entropy_of(net(random(50, 4).float())[0]).min()) > 0.693


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("algorithm", "trpo", "ppo, a2c"),
        ("minibatches", 7, "120 transitions"),
        ("environments", 0, "at least 1"),
        ("gae_lambda", 1.5, r"\[0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(key, value, match):
    with pytest.raises(UsageError, match=match):
        small(**{f"model__{key}": value})
