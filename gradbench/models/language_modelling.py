"""Language modelling with a network of the user's own; with a state, by truncated back-propagation.

B streams of text, T tokens unrolled, V vocabulary, E embedding, N tokens of a text.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradbench.errors import UsageError
from gradbench.functional.flat_params import Network
from gradbench.functional.seeding import generator
from gradbench.functional.torch_internals import tree_flatten, tree_unflatten
from gradbench.models import MeanLoss, Networks, Player, Tensors
from gradbench.models.factory import (
    TRIAL,
    NetworkFactory,
    add_own,
    check_tensor,
    check_values,
    load_functions,
    shape_text,
    try_network,
    type_text,
)
from gradbench.models.supervised import SPLITS, precise
from gradbench.models.text_windows import ROWS, choose_token, evaluation_windows

SAMPLE_TOKENS = 100
"""Tokens that a trained network writes, for the report."""


class LanguageModellingTask(MeanLoss):
    """Predict the next token; the loss is the MEAN over all B × T tokens, in nats.

    Each of B streams starts at a position drawn from the cell's seed and reads T tokens per step. The network maps
    tokens, int64 [B, T], to logits [B, T, V]. If its ``forward`` has an argument ``state``, it returns
    ``(logits, state)``, and the state (a tensor, or nested tuples of them) is carried from step to step without
    gradient; ``None`` is the zero state. Without one each window of T tokens is read alone. A gradient penalty is taken
    of each stream's mean cross-entropy with respect to its embedded tokens: the outputs of the network's one
    ``nn.Embedding`` of V tokens.

    Args:
        sizes: sizes of the data: ``vocabulary`` (V), and the number of characters of each split.
        unroll: T.
        batch_size: B.
        evaluation_tokens: tokens of each split that an evaluation reads, from its beginning, at most.
        network: node of the config that names the network; or a function that builds one.
        metrics: name -> node of a function ``(logits [N, V], targets [N]) -> [N]``, averaged over the tokens of a
            split; reported as ``train/name`` and ``test/name``.
        temperature: of the text that a trained network writes; 0 takes the most likely token.
        arrays: the data's, read for their lengths alone.
    """

    players: tuple[Player, ...] = (Player("network"),)
    probe_points = ("embeddings",)
    probe_around = "embeddings"

    def __init__(
        self,
        sizes: Mapping[str, int],
        unroll: int,
        batch_size: int,
        evaluation_tokens: int,
        network: object,
        metrics: Mapping[str, object] | None = None,
        temperature: float = 1.0,
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        if min(unroll, batch_size, evaluation_tokens) < 1:
            raise ValueError("model.unroll, batch_size, evaluation_tokens must be >= 1")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"model.temperature must be >= 0, got {temperature}")
        self.sizes, self.vocabulary = sizes, sizes["vocabulary"]
        if arrays is not None:
            check_length(len(arrays["train/tokens"]), unroll, batch_size)
        self.unroll, self.batch_size, self.evaluation_tokens = unroll, batch_size, evaluation_tokens
        self.temperature = temperature
        self.build = network if callable(network) else NetworkFactory(network, "model.network")
        self.typed = self.build.typed if isinstance(self.build, NetworkFactory) else "the network"
        self.own_metrics = load_functions(metrics, "model.metrics")
        self.has_own_code = bool(self.own_metrics) or not callable(network)

    def networks(self, fused: bool = False) -> dict[str, nn.Module]:
        """Return the user's network."""
        V = self.vocabulary
        return {self.players[0].name: self.build(vocabulary=V, inputs=V, outputs=V, shape=(self.unroll,))}

    def draw(
        self, purpose: str, seed: int, first: int, count: int, data: Mapping[str, np.ndarray]
    ) -> Tensors:
        """Draw the position of each stream in the text, int64 [count, B]; for an evaluation, what chooses tokens."""
        if purpose == "evaluation":
            drawn = torch.rand(count, SAMPLE_TOKENS, generator=generator(seed, "sample"), dtype=torch.float64)
            return {"uniform": drawn}
        tokens = len(data["train/tokens"])
        starts_B = torch.randint(tokens, (self.batch_size,), generator=generator(seed, "streams"))
        steps = torch.arange(first, first + count)
        return {"position": (starts_B + self.unroll * steps[:, None]) % tokens}

    def batch(self, player: str, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Cut inputs and targets out of the text, each int64 [B, T]; its end is followed by its beginning."""
        text = data["train/tokens"]
        offsets = torch.arange(self.unroll + 1, device=text.device)
        window = text[(draw["position"][:, None] + offsets) % text.shape[0]]
        return {"x": window[:, :-1], "y": window[:, 1:]}

    # ---- the state ---------------------------------------------------------------------------------------

    def read(self, net: Callable[..., Any], tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the logits [B, T, V], and the state after the last token; ``None`` if the network has none."""
        if not has_state(net):
            return precise(net(tokens)), None
        logits, state = net(tokens, state=state)
        return precise(logits), state

    @cached_property
    def state_layout(self) -> tuple[list[tuple[torch.Size, torch.dtype]], Any]:
        """Shapes and types of a state's tensors, and how they are nested; found by calling a network."""

        with torch.random.fork_rng(devices=[]), torch.no_grad():
            (network,) = self.networks().values()
            device = next(network.parameters()).device
            tokens = torch.zeros(self.batch_size, self.unroll, dtype=torch.int64, device=device)
            state = self.read(network, tokens, None)[1]
        tensors, structure = tree_flatten(state) if state is not None else ([], None)
        return [(tensor.shape, tensor.dtype) for tensor in tensors], structure

    def carry(self) -> Tensors:
        """Return the zero state, its tensors numbered; none if the network has no state."""
        return {
            str(index): torch.zeros(shape, dtype=dtype)
            for index, (shape, dtype) in enumerate(self.state_layout[0])
        }

    def state_of(self, carry: Tensors) -> Any:
        """Return the state that a network is called with, out of the carried tensors."""
        return tree_unflatten(list(carry.values()), self.state_layout[1]) if carry else None

    def carried(self, state: Any, carry: Tensors) -> Tensors:
        """Return the tensors that are carried on after an update, detached and of the types that they had before."""
        found = tree_flatten(state)[0] if carry else []
        return {
            name: tensor.detach().to(carry[name].dtype) for name, tensor in zip(carry, found, strict=True)
        }

    # ---- loss and penalty --------------------------------------------------------------------------------

    def loss(self, player: str, nets: Networks, batch: Tensors, carry: Tensors) -> tuple[Tensor, Tensors]:
        """Return the mean loss and the carried state."""
        logits, state = self.read(nets[player], batch["x"], self.state_of(carry))
        return cross_entropy(logits, batch["y"]).mean(dim=1).mean(), self.carried(state, carry)

    def losses(
        self, player: str, nets: Networks, batch: Tensors, carry: Tensors
    ) -> tuple[Callable[[Tensor], tuple[Tensor, Tensors]], Tensor]:
        """Return the function embedded tokens [B, T, E] -> each stream's mean cross-entropy [B], and these tokens.

        The function also returns the detached state.
        """
        net = nets[player]
        embedding = net.get_submodule(self.embedding_name(net))

        def stream_losses(embedded: Tensor) -> tuple[Tensor, Tensors]:
            with with_output(embedding, embedded):
                logits, state = self.read(net, batch["x"], self.state_of(carry))
            return cross_entropy(logits, batch["y"]).mean(dim=1), self.carried(state, carry)

        return stream_losses, embedding(batch["x"])

    def embedding_name(self, net: Network | nn.Module) -> str:
        """Return the name of the network's one embedding of the vocabulary.

        Raises:
            UsageError: if it has none or several.
        """
        names: list[str] = [
            name
            for name, part in module_of(net).named_modules()
            if isinstance(part, nn.Embedding) and part.num_embeddings == self.vocabulary
        ]
        if len(names) != 1:
            raise UsageError(
                f"a penalty is taken with respect to embedded tokens, and {self.typed} has "
                f"{', '.join(names) or 'no'} nn.Embedding of {self.vocabulary} tokens, expected one; "
                "choose a regularizer without penalty"
            )
        return names[0]

    # ---- evaluation --------------------------------------------------------------------------------------

    def evaluate(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Compute loss (nats per token), perplexity per token and bits per character on both splits.

        ``read`` is the share of a split's tokens that are predicted.
        """
        metrics: Tensors = {}
        for split in SPLITS:
            text = data[f"{split}/tokens"]
            tokens = min(text.shape[0] - 1, self.evaluation_tokens)
            found = self._means(nets[self.players[0].name], text[: tokens + 1])
            loss = metrics[f"{split}/loss"] = found.pop("loss")
            metrics[f"{split}/perplexity"] = loss.exp()
            if f"{split}/characters" in self.sizes:
                tokens_per_character = text.shape[0] / self.sizes[f"{split}/characters"]
                metrics[f"{split}/bits_per_character"] = loss * tokens_per_character / math.log(2)
            metrics[f"{split}/read"] = torch.full_like(loss, tokens / (text.shape[0] - 1))
            metrics |= {f"{split}/{name}": value for name, value in found.items()}
        return metrics

    def _means(self, net: Callable[..., Any], text: Tensor) -> Tensors:
        """Compute the means of loss and own metrics over all tokens of a text but the first, which nothing predicts."""
        tokens = text.shape[0] - 1
        positions, counts = evaluation_windows(tokens, self.unroll, has_state(net), text.device)
        sums: Tensors = {}
        for rows, counting in zip(torch.split(positions, ROWS), torch.split(counts, ROWS), strict=True):
            state: Any = None
            for at, counted in zip(
                torch.split(rows, self.unroll, dim=1), torch.split(counting, self.unroll, dim=1), strict=True
            ):
                logits, state = self.read(net, text[at], state)
                targets = text[at + 1]
                values = {"loss": cross_entropy(logits, targets)}
                for name, function in self.own_metrics.items():
                    of_tokens = function(logits.flatten(0, 1), targets.flatten())
                    values[name] = of_tokens.to(logits.dtype).view(targets.shape)
                for name, value in values.items():
                    part = torch.where(counted, value, 0.0).sum()
                    sums[name] = sums[name] + part if name in sums else part
        return {name: total / tokens for name, total in sums.items()}

    def sample(self, nets: Networks, data: Tensors, draw: Tensors) -> Tensors:
        """Let the network continue the first T tokens of the test text; both int64, [T] and [SAMPLE_TOKENS].

        Without a state it reads the last T tokens for each one that it writes.
        """
        net = nets[self.players[0].name]
        prompt = data["test/tokens"][: self.unroll]
        unread, state = prompt[None], None
        written = []
        for uniform in draw["uniform"].unbind():
            logits, state = self.read(net, unread, state)
            token = choose_token(logits[0, -1], uniform, self.temperature)
            written.append(token)
            before = unread[:, :0] if has_state(net) else unread
            unread = torch.cat([before, token.view(1, 1)], dim=1)[:, -self.unroll :]
        return {"prompt_tokens": prompt, "sample_tokens": torch.stack(written)}

    def summarize(
        self, arrays: Mapping[str, np.ndarray], data: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Keep the tokens of :meth:`sample`; no metrics."""
        return {}, dict(arrays)

    def metric_names(self, networks: Mapping[str, nn.Module]) -> frozenset[str]:
        """Return the names of all metrics, of both splits."""
        reported = ("loss", "perplexity", "read", "bits_per_character")
        names = add_own(reported, self.own_metrics) - {"bits_per_character"}
        found = {f"{split}/{name}" for split in SPLITS for name in names}
        return frozenset(
            found | {f"{split}/bits_per_character" for split in SPLITS if f"{split}/characters" in self.sizes}
        )

    def check_networks(self, networks: Mapping[str, nn.Module], penalised: bool) -> None:
        """Check the logits of a few windows, the state, the user's metrics, and where a penalty is measured."""
        (network,) = networks.values()
        if penalised:
            self.embedding_name(network)
        if not self.has_own_code:
            return
        device = next(network.parameters()).device
        tokens = torch.zeros(TRIAL, self.unroll, dtype=torch.int64, device=device)
        logits = self._try_reading(network, tokens)
        network.eval()
        self._try_reading(network, tokens[:1])  # as when it writes
        network.train()
        if penalised:
            self._check_embedding(network, tokens)
        for name, function in self.own_metrics.items():
            few = (logits[:, 0], tokens[:, 0])
            check_values(f"model.metrics.{name}", function, few, one_each=True)

    def _check_embedding(self, network: nn.Module, tokens: Tensor) -> None:
        """Raise ``UsageError`` unless the network gives its embedding the tokens as they are, once."""
        seen: list[torch.Size] = []
        embedding = network.get_submodule(self.embedding_name(network))
        hook = embedding.register_forward_hook(
            lambda _module, _inputs, output: seen.append(output.shape[:-1])
        )
        self.read(network, tokens, None)
        hook.remove()
        if seen != [tokens.shape]:
            came = " and ".join(map(shape_text, seen)) or "nothing"
            raise UsageError(
                f"a penalty is taken with respect to embedded tokens, and {self.typed} gives its nn.Embedding {came}, "
                f"expected the tokens {shape_text(tokens.shape)} once; choose a regularizer without penalty"
            )

    def _try_reading(self, network: nn.Module, tokens: Tensor) -> Tensor:
        """Return the logits of a few windows, read from the zero state and then, if there is one, from the next."""
        shape = (*tokens.shape, self.vocabulary)
        expected = f"logits {shape_text(shape)}"
        if not has_state(network):
            logits = try_network(self.typed, network, tokens)
            if isinstance(logits, tuple):
                raise UsageError(
                    f"{self.typed} returned a tuple of {len(logits)}, expected {expected} alone; a network with a "
                    "state takes it as an argument: def forward(self, tokens, state=None)"
                )
            check_tensor(self.typed, logits, expected, [shape])
            return precise(logits)
        state: Any = None
        for _ in range(2):  # the state that comes out must go in
            found = try_network(self.typed, network, tokens, state=state)
            if not isinstance(found, tuple | list) or len(found) != 2:
                came = f"a {type(found).__name__}"
                raise UsageError(f"{self.typed} takes a state and returned {came}, expected (logits, state)")
            check_tensor(f"{self.typed}, the first of two,", found[0], expected, [shape])
            self._check_state(before=state, after=found[1])
            state = found[1]
        return precise(found[0])

    def _check_state(self, before: Any, after: Any) -> None:
        """Raise ``UsageError`` for a state that cannot be carried from step to step."""
        tensors, structure = tree_flatten(after)
        for tensor in tensors:
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                came = (
                    f"{type_text(tensor)} numbers"
                    if isinstance(tensor, Tensor)
                    else f"a {type(tensor).__name__}"
                )
                raise UsageError(
                    f"{self.typed} has {came} in its state, expected tensors of floating numbers"
                )
        if before is not None:
            shapes, known = tree_flatten(before)
            if structure != known or [one.shape for one in tensors] != [one.shape for one in shapes]:
                raise UsageError(
                    f"{self.typed} returned a state of other shapes than the one before: it must be one that forward "
                    "takes as state"
                )


def check_length(tokens: int, unroll: int, batch_size: int) -> None:
    """Raise ``UsageError`` for a text that is too short to be trained on."""
    if tokens <= unroll:
        raise UsageError(
            f"the training text has {tokens} tokens, model.unroll={unroll} needs more: lower model.unroll, or use a "
            "longer text"
        )
    if tokens < batch_size:
        raise UsageError(
            f"the training text has {tokens} tokens, too few for streams at model.batch_size={batch_size} places: "
            "lower model.batch_size, or use a longer text"
        )


def module_of(net: Network | nn.Module) -> nn.Module:
    """Return the module behind a network."""
    return net.module if isinstance(net, Network) else net


def has_state(net: Any) -> bool:
    """Return whether a network's ``forward`` takes a state."""
    module = module_of(net)
    return (
        "state" in inspect.signature(module.forward if isinstance(module, nn.Module) else module).parameters
    )


@contextmanager
def with_output(part: Network | nn.Module, output: Tensor) -> Iterator[None]:
    """Let a part of a network return a given output inside the block."""
    hook = module_of(part).register_forward_hook(lambda *_: output)
    try:
        yield
    finally:
        hook.remove()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return each token's cross-entropy in nats. Shapes: [B, T, V], [B, T] -> [B, T]."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
