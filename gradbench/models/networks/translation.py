"""Encoders and decoders for translation, with attention, as modules for one network.

B pairs, S source tokens, T target tokens, E width, H width of a direction, L layers, V target vocabulary.

A translator maps source tokens [B, S] and the decoder's inputs [B, T] to the logits [B, T, V] of the tokens that follow
these. It also returns its state, with which it can be called again with the inputs that come next, one at a time: the
source is not read again.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradbench.functional.special_tokens import PADDING
from gradbench.models.networks.attention import Attention, causal_mask, padding_mask
from gradbench.models.networks.gru import GRU
from gradbench.models.networks.recurrent import project
from gradbench.models.networks.transformer import Transformer, initialise

State = tuple[Tensor, ...]

# ---- recurrent -------------------------------------------------------------------------------------------------


class BidirectionalGRU(nn.Module):
    """GRU layers that read rows of different lengths from both ends; nothing depends on what fills the rows.

    ``nn.GRU(bidirectional=True)`` does the same to a packed sequence.

    Args:
        inputs: D.
        outputs: E, of both directions together; of an odd number the one from the beginning has one more.
        layers: L; each above the first reads both directions of the one below.
    """

    def __init__(self, inputs: int, outputs: int, layers: int = 1) -> None:
        super().__init__()
        sizes, half = [inputs, *[outputs] * (layers - 1)], outputs // 2
        self.forwards, self.backwards = (
            nn.ModuleList(GRU(size, hidden) for size in sizes) for hidden in (outputs - half, half)
        )

    def forward(self, x_BSD: Tensor, is_token_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Return the top layer's states [B, S, E], and each layer's last states [L, B, E]; of both directions.

        Args:
            x_BSD: inputs.
            is_token_BS: False where a row is only filled up, at its end.
        """
        last_B = (is_token_BS.sum(dim=1) - 1).clamp(min=0)
        places_S = torch.arange(x_BSD.shape[1], device=x_BSD.device)
        # turns around a row's tokens and leaves the rest where it is
        turned_BS = torch.where(is_token_BS, last_B[:, None] - places_S, places_S)
        ends = []
        for ahead, back in zip(self.forwards, self.backwards, strict=True):
            ahead_BSH, _ = ahead(x_BSD)
            turned_BSH, _ = back(gather_steps(x_BSD, turned_BS))
            ends.append(gather_steps(torch.cat([ahead_BSH, turned_BSH], dim=2), last_B[:, None])[:, 0])
            x_BSD = torch.cat([ahead_BSH, gather_steps(turned_BSH, turned_BS)], dim=2)
        return x_BSD, torch.stack(ends)


def gather_steps(x_BSD: Tensor, places_BT: Tensor) -> Tensor:
    """Gather steps of each row. Shapes: [B, S, D], int64 [B, T] -> [B, T, D]."""
    return x_BSD.gather(1, places_BT[..., None].expand(-1, -1, x_BSD.shape[2]))


class RecurrentTranslator(nn.Module):
    """A bidirectional GRU encoder, and a GRU decoder each of whose states attends to the encoder's states.

    The decoder begins with the encoder's last states. Its state and what that gathers are joined by a linear layer and
    tanh, before a linear layer to the logits.

    Args:
        source_vocabulary: number of different source tokens.
        target_vocabulary: V.
        width: E, of embedded tokens, of the decoder's state and of both directions of the encoder together.
        heads: heads of the attention.
        layers: L, of the encoder and of the decoder.
        dropout: probability of leaving out a number of an embedded token or of what the logits are made of, while
            training.

    Reference: Luong, Pham and Manning, "Effective approaches to attention-based neural machine translation",
    arXiv:1508.04025, 2015. Deviations: the encoder reads from both ends (Bahdanau et al., arXiv:1409.0473, 2014), the
    attention has the projections of ``nn.MultiheadAttention``, and nothing of it goes into the next input.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        width: int,
        heads: int,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.source_embedding = nn.Embedding(source_vocabulary, width)
        self.target_embedding = nn.Embedding(target_vocabulary, width)
        self.encoder = BidirectionalGRU(width, width, layers)
        self.decoder = GRU(width, width, layers)
        self.attention = Attention(width, heads)
        self.join = nn.Linear(2 * width, width)
        self.output = nn.Linear(width, target_vocabulary)
        self.dropout = dropout

    def forward(self, source: Tensor, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the logits [B, T, V] and the state: the encoder's states [B, S, E], the decoder's last [L, B, E].

        Args:
            source: tokens, int64 [B, S].
            inputs: tokens before those that are predicted, int64 [B, T].
            state: after the inputs before these; ``None`` if there are none.
        """
        is_token_BS = source != PADDING
        if state is None:
            embedded = F.dropout(self.source_embedding(source), self.dropout, self.training)
            state = self.encoder(embedded, is_token_BS)
        memory_BSE, h_LBE = state
        embedded = F.dropout(self.target_embedding(inputs), self.dropout, self.training)
        outputs_BTE, h_LBE = self.decoder(embedded, h_LBE)
        gathered_BTE = self.attention(outputs_BTE, memory_BSE, padding_mask(is_token_BS))
        joined_BTE = project(
            torch.cat([outputs_BTE, gathered_BTE], dim=2), self.join.weight, self.join.bias
        ).tanh()
        joined_BTE = F.dropout(joined_BTE, self.dropout, self.training)
        return project(joined_BTE, self.output.weight, self.output.bias), (memory_BSE, h_LBE)


# ---- transformer -----------------------------------------------------------------------------------------------


class DecoderBlock(nn.Module):
    """Self-attention, attention to the source, and a perceptron, each after a layer norm and added to its input.

    ``nn.TransformerDecoderLayer(activation="gelu", norm_first=True, bias=False)`` does the same.

    Args:
        width: E.
        heads: heads of each attention.
        dropout: probability of leaving out a number: of an attention, and of what each part adds.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm, self.source_norm, self.mlp_norm = (
            nn.LayerNorm(width, bias=False) for _ in range(3)
        )
        self.attention, self.source_attention = (Attention(width, heads, dropout) for _ in range(2))
        self.expand = nn.Linear(width, 4 * width, bias=False)
        self.reduce = nn.Linear(4 * width, width, bias=False)
        self.dropout = dropout

    def forward(
        self,
        x_BTE: Tensor,
        memory_BSE: Tensor,
        masks: tuple[Tensor, Tensor],
        past: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the new values of all positions, and what self-attention attends to, both [B, T, E].

        Args:
            x_BTE: values.
            memory_BSE: the encoder's values.
            masks: of the self-attention, and of the attention to the source.
            past: what self-attention attended to before, and True at the one position that is new.
        """
        normed = self.attention_norm(x_BTE)
        seen = normed if past is None else torch.where(past[1], normed, past[0])
        x_BTE = x_BTE + self._drop(self.attention(normed, seen, masks[0]))
        x_BTE = x_BTE + self._drop(self.source_attention(self.source_norm(x_BTE), memory_BSE, masks[1]))
        hidden = F.gelu(project(self.mlp_norm(x_BTE), self.expand.weight))
        return x_BTE + self._drop(project(hidden, self.reduce.weight)), seen

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class TransformerTranslator(nn.Module):
    """A transformer encoder and decoder with learned positions, and the normalisation before each part.

    Args:
        source_vocabulary: number of different source tokens.
        target_vocabulary: V.
        source_length: largest S.
        target_length: largest T.
        width: E.
        heads: heads of each attention.
        layers: L, of the encoder and of the decoder.
        dropout: as of :class:`DecoderBlock`; also of embedded tokens.

    Reference: Vaswani et al., "Attention is all you need", arXiv:1706.03762, 2017.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        source_length: int,
        target_length: int,
        width: int,
        heads: int,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.source_embedding = nn.Embedding(source_vocabulary, width)
        self.target_embedding = nn.Embedding(target_vocabulary, width)
        self.encoder = Transformer(source_length, width, heads, layers, dropout)
        self.positions = nn.Embedding(target_length, width)
        self.blocks = nn.ModuleList(DecoderBlock(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        self.output = nn.Linear(width, target_vocabulary, bias=False)
        self.dropout = dropout
        initialise(self, layers)

    def forward(self, source: Tensor, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the logits [B, T, V] and the state.

        The state is the encoder's values [B, S, E], what each self-attention attends to [L, B, longest T, E], and the
        number of inputs so far, [].

        Args:
            source: tokens, int64 [B, S].
            inputs: tokens before those that are predicted, int64 [B, T]; one per row where there is a state.
            state: after the inputs before these; ``None`` if there are none.
        """
        length, T = self.positions.num_embeddings, inputs.shape[1]
        masks_source = padding_mask(source != PADDING)
        places = torch.arange(length, device=inputs.device)
        pasts: list[tuple[Tensor, Tensor] | None] = [None] * len(self.blocks)
        if state is None:
            memory_BSE = self.encoder(self.source_embedding(source), masks_source)
            positions_TE, mask = self.positions.weight[:T], causal_mask(T, inputs.device)
            read = torch.full_like(places[0], T)
        else:
            memory_BSE, pasts_LBTE, before = state
            is_new, mask = places == before, (places <= before)[None]
            positions_TE = (is_new[:, None] * self.positions.weight).sum(dim=0, keepdim=True)
            pasts, read = [(past, is_new[:, None]) for past in pasts_LBTE.unbind()], before + 1
        x_BTE = F.dropout(self.target_embedding(inputs) + positions_TE, self.dropout, self.training)
        all_seen = []
        for block, past in zip(self.blocks, pasts, strict=True):
            x_BTE, seen = block(x_BTE, memory_BSE, (mask, masks_source), past)
            all_seen.append(F.pad(seen, (0, 0, 0, length - seen.shape[1])))
        logits = project(self.norm(x_BTE), self.output.weight)
        return logits, (memory_BSE, torch.stack(all_seen), read)
