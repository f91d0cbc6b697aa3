"""Sequence mixers: what stands in the place of self-attention, one class each.

What belongs here: the mixers, and what they share. A mixer is built from Hyperparameters and has a
line in `config/catalogue.py`; `models.contract.check_mixer` says whether it keeps to the following.

Notable:
* Time-major tensors `(L, b, d)`. A positional model then mixes a whole batch in one matrix
  product `(L, L) @ (L, b·d)`, without a batch × n × n tensor and without copies.
* A batch may be trimmed to its longest sequence, L ≤ n. Positions are counted from the right end
  of the n-window, so parameters over positions are used by their last L rows (and columns).
* `mask (L, b)` is True at items and False at padding; sequences are right-aligned, so an item's
  past is everything valid above it in its column. Rows at padding are unspecified but finite.
* The mixers do not know the network around them: `query` is LayerNorm(F), `value` is F (or
  LayerNorm(F), equation 5 to the letter), and they return what is added to the residual.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fparec_pipeline.config import Hyperparameters
from fparec_pipeline.config.catalogue import MIXERS, load
from fparec_pipeline.models.dropout import Dropout

# Exponents of the masked softmax are clamped here, so that no weight is a denormal number.
MIN_EXPONENT = -80.0


def glorot_linear(inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    """A linear layer with Glorot-uniform weights and zero biases, as the published code has it."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def truncated_normal(*shape: int, std: float) -> nn.Parameter:
    """A parameter drawn from a normal distribution cut at two standard deviations."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=std, a=-2 * std, b=2 * std))


class SelfAttention(nn.Module):
    """Scaled dot-product attention with one head (SASRec; equations 1 and 2, causal).

    Parameters: d² for each of query, key and value (Table 1: 3d²).
    """

    def __init__(self, h: Hyperparameters) -> None:
        super().__init__()
        self.query = glorot_linear(h.d, h.d)
        self.key = glorot_linear(h.d, h.d)
        self.value = glorot_linear(h.d, h.d)
        self.dropout = Dropout(h.dropout)
        self.scale = 1 / math.sqrt(h.d)

    def forward(
        self, query: Tensor, value: Tensor, mask: Tensor, last_only: bool = False
    ) -> Tensor:
        q = self.query(query[-1:] if last_only else query).transpose(0, 1)  # (b, Lq, d)
        k = self.key(value).transpose(0, 1)  # (b, L, d)
        v = self.value(value).transpose(0, 1)
        blocked = blocked_keys(mask, q.shape[1], q.dtype)  # (b, Lq, L)
        weights = torch.softmax(torch.baddbmm(blocked, q, k.mT, alpha=self.scale), dim=-1)
        return torch.bmm(self.dropout(weights), v).transpose(0, 1)


class LinearAttention(nn.Module):
    """Causal linear attention with φ(x) = elu(x) + 1 (Katharopoulos et al. 2020).

    Computed in its quadratic form: at L ≤ a few hundred and small d one masked L × L product is
    cheaper than a running d × d state for each position.
    """

    def __init__(self, h: Hyperparameters) -> None:
        super().__init__()
        self.query = glorot_linear(h.d, h.d)
        self.key = glorot_linear(h.d, h.d)
        self.value = glorot_linear(h.d, h.d)
        self.dropout = Dropout(h.dropout)

    def forward(
        self, query: Tensor, value: Tensor, mask: Tensor, last_only: bool = False
    ) -> Tensor:
        q = F.elu(self.query(query[-1:] if last_only else query)) + 1  # (Lq, b, d)
        k = (F.elu(self.key(value)) + 1) * mask.unsqueeze(-1)  # (L, b, d), padding keys are zero
        v = self.value(value).transpose(0, 1)
        scores = torch.bmm(q.transpose(0, 1), k.permute(1, 2, 0))  # (b, Lq, L)
        scores = scores.tril(mask.shape[0] - q.shape[0])
        # A padding row has no valid key and would divide by zero.
        total = scores.sum(-1, keepdim=True)
        weights = scores / total.masked_fill(total == 0, 1)
        return torch.bmm(self.dropout(weights), v).transpose(0, 1)


class TokenMixing(nn.Module):
    """MLP-Mixer's token mixing with both matrices masked to the lower triangle (Tolstikhin 2021).

    Hidden width n, no biases. As in the Mixer, the input is the LayerNormed one and has no value
    projection. A hidden unit belongs to a position, so padding gives gelu(0) = 0 and a trimmed
    window gives the same output.
    """

    def __init__(self, h: Hyperparameters) -> None:
        super().__init__()
        self.first = nn.Parameter(nn.init.xavier_uniform_(torch.empty(h.n, h.n)))
        self.second = nn.Parameter(nn.init.xavier_uniform_(torch.empty(h.n, h.n)))
        self.dropout = Dropout(h.dropout)

    def forward(
        self, query: Tensor, value: Tensor, mask: Tensor, last_only: bool = False
    ) -> Tensor:
        L, b, d = query.shape
        x = (query * mask.unsqueeze(-1)).reshape(L, b * d)
        hidden = self.dropout(F.gelu(self.first[-L:, -L:].tril() @ x))
        rows = self.second[-L:, -L:].tril()
        return ((rows[-1:] if last_only else rows) @ hidden).view(-1, b, d)


class PositionalMixer(nn.Module):
    """Attention whose logits depend on positions alone: Ã_ij ∝ exp(A_ij) over the valid past.

    Subclasses give `logits(L)`. Masked softmax as one product: with E = exp(A − causal row
    maximum), strictly upper part zero, the numerator is E·(m⊙V) and the denominator E·m. Dropout
    acts on E in the numerator only, with one mask a step shared by the batch: a mask for each
    sequence would need a batch × n × n tensor (a deviation from the published code).
    """

    def __init__(self, h: Hyperparameters) -> None:
        super().__init__()
        self.n = h.n
        self.value = glorot_linear(h.d, h.d)
        self.dropout = Dropout(h.dropout)
        self.all_columns = h.softmax == "all_columns"

    def logits(self, L: int) -> Tensor:
        """The last L rows of A, (L, n)."""
        raise NotImplementedError

    def forward(
        self, query: Tensor, value: Tensor, mask: Tensor, last_only: bool = False
    ) -> Tensor:
        L, b, d = value.shape
        valid = mask.to(value.dtype)  # (L, b)
        v = self.value(value) * valid.unsqueeze(-1)
        rows = slice(-1, None) if last_only else slice(None)
        if self.all_columns:
            weights = torch.softmax(self.logits(L), dim=-1)[:, -L:].tril()[rows]
            return (self.dropout(weights) @ v.view(L, b * d)).view(-1, b, d)
        weights = causal_exponentials(self.logits(L))[rows, -L:]
        numerator = (self.dropout(weights) @ v.view(L, b * d)).view(-1, b, d)
        denominator = weights @ valid  # (Lq, b), zero only where the row itself is padding
        return numerator / denominator.masked_fill(~mask[rows], 1).unsqueeze(-1)

    @torch.no_grad()
    def attention(self) -> Tensor:
        """The learned attention over a full window, (n, n), rows summing to 1."""
        weights = causal_exponentials(self.logits(self.n))
        return weights / weights.sum(-1, keepdim=True)


class Positional(PositionalMixer):
    """PARec (equation 6): a free matrix R of logits. Parameters: d² + n² (Table 1)."""

    def __init__(self, h: Hyperparameters) -> None:
        super().__init__(h)
        self.R = truncated_normal(h.n, h.n, std=0.01)
        self.scale = 1 / math.sqrt(h.d)

    def logits(self, L: int) -> Tensor:
        return self.R[-L:] * self.scale


class FactorizedPositional(PositionalMixer):
    """FPARec (equation 7): R = R₁R₂ᵀ of rank k. Parameters: d² + 2kn (Table 1)."""

    def __init__(self, h: Hyperparameters) -> None:
        super().__init__(h)
        # So that an entry of R₁R₂ᵀ has the standard deviation 0.01 of PARec's R.
        std = math.sqrt(0.01) / h.k**0.25
        self.R1 = truncated_normal(h.n, h.k, std=std)
        self.R2 = truncated_normal(h.n, h.k, std=std)
        self.scale = 1 / math.sqrt(h.d)

    def logits(self, L: int) -> Tensor:
        return (self.R1[-L:] @ self.R2.T) * self.scale


class HandcraftedMixer(PositionalMixer):
    """A fixed pattern a_ij (Appendix B) in the place of the learned one, as logits log a_ij."""

    def __init__(self, h: Hyperparameters) -> None:
        super().__init__(h)
        position = torch.arange(1, h.n + 1, dtype=torch.get_default_dtype())
        self.register_buffer("A", self.pattern(position[:, None], position[None, :]), False)

    @staticmethod
    def pattern(i: Tensor, j: Tensor) -> Tensor:
        """log a_ij for positions i (n, 1) and j (1, n), counted from 1."""
        raise NotImplementedError

    def logits(self, L: int) -> Tensor:
        return self.get_buffer("A")[-L:]


class Average(HandcraftedMixer):
    """a_ij = 1 (equation 12)."""

    @staticmethod
    def pattern(i: Tensor, j: Tensor) -> Tensor:
        return torch.zeros_like(i * j)


class LinearAnnealing(HandcraftedMixer):
    """a_ij = j, the absolute position in the n-window (equation 13)."""

    @staticmethod
    def pattern(i: Tensor, j: Tensor) -> Tensor:
        return j.log().expand(len(i), -1).clone()


class ExponentialAnnealing(HandcraftedMixer):
    """a_ij = exp(j − i) (equation 14)."""

    @staticmethod
    def pattern(i: Tensor, j: Tensor) -> Tensor:
        return j - i


def causal_exponentials(logits: Tensor) -> Tensor:
    """exp(A − causal row maximum), zero above the diagonal, for the last L rows: (L, n) → (L, n).

    The maximum is over the full window, so that trimming shared padding changes no output.
    """
    L, n = logits.shape
    future = torch.ones_like(logits, dtype=torch.bool).triu(1 + n - L)
    # A constant for the softmax, so it takes no gradient.
    top = logits.detach().masked_fill(future, -torch.inf).amax(-1, keepdim=True)
    return (logits - top).clamp(MIN_EXPONENT, 0.0).exp().masked_fill(future, 0)


def blocked_keys(mask: Tensor, queries: int, dtype: torch.dtype) -> Tensor:
    """−2³²+1 at keys that are padding or future, else 0: (b, queries, L), for the last queries.

    A large finite number, as in the published code, keeps rows at padding free of NaN.
    """
    L = mask.shape[0]
    past = torch.ones(queries, L, dtype=torch.bool, device=mask.device).tril(L - queries)
    allowed = mask.T.unsqueeze(1) & past
    zero, low = (torch.full((), x, dtype=dtype, device=mask.device) for x in (0, -(2.0**32) + 1))
    return torch.where(allowed, zero, low)


def build_mixer(h: Hyperparameters) -> nn.Module:
    """The mixer that the hyper-parameters name.

    Raises:
        ConfigError: a mixer of one's own that cannot be imported.
    """
    assert h.mixer  # noqa: S101 - a network without a mixer builds none
    mixer: nn.Module = load(h.mixer, MIXERS)(h)
    return mixer
