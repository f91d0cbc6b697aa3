"""Sequence mixers and the network as naive float64 loops over their definitions.

One user at a time, always in the full n-window: `query` and `value` are (n, d), `valid` says which
of the n positions hold a real item. A weight function says how much position i takes of position j.
"""

import math

import numpy as np


def weighted_mean(weights, values, valid):
    """Row i: Σ_j w_ij v_j / Σ_j w_ij over the valid j ≤ i; zero where i is padding."""
    out = np.zeros_like(values)
    for i in np.flatnonzero(valid):
        keys = [j for j in range(i + 1) if valid[j]]
        total = sum(weights(i, j) for j in keys)
        out[i] = sum(weights(i, j) / total * values[j] for j in keys)
    return out


def self_attention(query, value, valid, p):
    """Equations 1 and 2, causal, padding keys masked; p holds query, key and value (out, in)."""
    Q, K, V = query @ p["query"].T, value @ p["key"].T, value @ p["value"].T
    logits = Q @ K.T / math.sqrt(Q.shape[1])
    highest = logits.max(axis=1)
    return weighted_mean(lambda i, j: math.exp(logits[i, j] - highest[i]), V, valid)


def linear_attention(query, value, valid, p):
    """Katharopoulos et al. 2020: sim(q, k) = φ(q)·φ(k), φ = elu + 1, causal."""

    def feature_map(x):
        return np.array([[v + 1 if v > 0 else math.exp(v) for v in row] for row in x])

    Q, K = feature_map(query @ p["query"].T), feature_map(value @ p["key"].T)
    return weighted_mean(lambda i, j: float(Q[i] @ K[j]), value @ p["value"].T, valid)


def token_mixing(query, value, valid, p):
    """MLP-Mixer's token mixing, both weights masked to the lower triangle."""
    n, d = query.shape
    hidden, out = np.zeros((n, d)), np.zeros((n, d))
    for i in range(n):
        for c in range(d):
            x = sum(p["first"][i, j] * query[j, c] for j in range(i + 1) if valid[j])
            hidden[i, c] = x * (1 + math.erf(x / math.sqrt(2))) / 2  # GELU
    for i in range(n):
        for j in range(i + 1):
            out[i] += p["second"][i, j] * hidden[j]
    return out


def positional(R, W, value, valid, softmax):
    """Equation 6 with R given in full; `softmax` masked or to the letter."""
    V = value @ W.T
    logits = R / math.sqrt(V.shape[1])
    if softmax == "masked":
        # The definition clamps the exponents, below the causal row's maximum, at −80.
        def weight(i, j):
            return math.exp(max(logits[i, j] - logits[i, : i + 1].max(), -80.0))

        return weighted_mean(weight, V, valid)
    out = np.zeros_like(V)
    for i in np.flatnonzero(valid):
        highest = logits[i].max()
        total = sum(math.exp(logits[i, j] - highest) for j in range(len(R)))  # all n columns
        for j in range(i + 1):
            if valid[j]:
                out[i] += math.exp(logits[i, j] - highest) / total * V[j]
    return out


def parec(query, value, valid, p, softmax="masked"):
    return positional(p["R"], p["value"], value, valid, softmax)


def fparec(query, value, valid, p, softmax="masked"):
    """Equation 7: R = R1 R2ᵀ."""
    return positional(p["R1"] @ p["R2"].T, p["value"], value, valid, softmax)


def average(query, value, valid, p):
    """Equation 12."""
    return weighted_mean(lambda i, j: 1.0, value @ p["value"].T, valid)


def linear_annealing(query, value, valid, p):
    """Equation 13: the weight is the absolute j of the n-window, counted from 1."""
    return weighted_mean(lambda i, j: j + 1.0, value @ p["value"].T, valid)


def exponential_annealing(query, value, valid, p):
    """Equation 14."""
    return weighted_mean(lambda i, j: math.exp(j - i), value @ p["value"].T, valid)


MIXERS = {
    "self_attention": self_attention,
    "linear_attention": linear_attention,
    "token_mixing": token_mixing,
    "positional": parec,
    "factorized_positional": fparec,
    "average": average,
    "linear_annealing": linear_annealing,
    "exponential_annealing": exponential_annealing,
}


def parameters(module):
    """The module's parameters as float64 arrays; `query` for `query.weight`."""
    return {
        name.removesuffix(".weight"): parameter.detach().double().numpy()
        for name, parameter in module.named_parameters()
    }


def layer_norm(x, norm):
    scale, shift = (t.detach().numpy() for t in (norm.weight, norm.bias))
    return np.array([(row - row.mean()) / math.sqrt(row.var() + 1e-8) * scale + shift for row in x])


def network(model, h, items):
    """F̂_L (eq. 9) of one user, (n, d); `items` is the left-padded n-window of ids, 0 is padding.

    `model` is the float64 network under test, of which only the parameters are read.
    """
    valid = np.array(items) > 0
    table = model.item_embedding.weight.detach().numpy()
    F = np.zeros((h.n, h.d))
    for i in np.flatnonzero(valid):
        F[i] = table[items[i]] * (math.sqrt(h.d) if h.scale_embedding else 1)
        if h.position_embedding:
            F[i] += parameters(model)["position_embedding"][i]
    for number, block in enumerate(model.blocks, start=1):
        q = layer_norm(F, block.attention_norm)
        source = F if h.value_source == "input" else q
        options = {"softmax": h.softmax} if "positional" in h.mixer else {}
        mixed = MIXERS[h.mixer](q, source, valid, parameters(block.mixer), **options)
        F = mixed + (q if h.residual == "normalized" else F)
        if h.feed_forward == "every_block" or number == h.blocks:
            F = feed_forward(F, block, h.residual)
    return layer_norm(F, model.output_norm)


def feed_forward(F, block, residual):
    """Equation 8 with its residual connection."""
    W1, b1, W2, b2 = (
        t.detach().numpy()
        for layer in (block.feed_forward.inner, block.feed_forward.outer)
        for t in (layer.weight, layer.bias)
    )
    x = layer_norm(F, block.feed_forward_norm)
    out = np.maximum(x @ W1.T + b1, 0) @ W2.T + b2
    return out + (x if residual == "normalized" else F)
