"""Exercises of lesson 05: attention in three lines, a head to design, heads, a whole attention layer."""

import torch
from torch import nn

from ..model import MultiHeadSelfAttention
from .base import exercise, take_weights


def scores_of(queries, keys):
    return queries @ keys.mT / queries.shape[-1] ** 0.5


def naive_softmax(scores):
    powers = scores.exp()
    return powers / powers.sum(-1, keepdim=True)


@exercise(
    cases=lambda: [(torch.tensor([[0.0, 0, 0, 0], [2, 0, 0, 0]]),
                    torch.tensor([[1.0986123, 0, 0, 0], [0, 1, 0, 0]]), torch.tensor([[4.0], [8.0]])),
                   (torch.randn(4, 5, 4), torch.randn(4, 4, 4), torch.randn(4, 4, 3)),
                   (torch.randn(2, 4, 8), torch.randn(2, 3, 8), torch.randn(2, 3, 5)),
                   (20 * torch.randn(3, 4, 4), 20 * torch.randn(3, 4, 4), torch.randn(3, 4, 2))],
    mistakes={
        "the scores are not divided by anything; divide by the square root of the head width.":
            lambda q, k, v: (q @ k.mT).softmax(-1) @ v,
        "the scores are divided by the width itself; it should be its square root, as for any standard "
        "deviation of a sum.":
            lambda q, k, v: (q @ k.mT / q.shape[-1]).softmax(-1) @ v,
        "the scores are divided by the root of the number of tokens; the sum runs over the width, the last "
        "axis.":
            lambda q, k, v: (q @ k.mT / q.shape[-2] ** 0.5).softmax(-1) @ v,
        "the scores are multiplied by the square root; they have to shrink, not grow.":
            lambda q, k, v: (q @ k.mT * q.shape[-1] ** 0.5).softmax(-1) @ v,
        "`keys.T` reverses all axes, the batch too; swap the last two only, `keys.transpose(-2, -1)`.":
            lambda q, k, v: (q @ k.permute(*reversed(range(k.ndim))) / q.shape[-1] ** 0.5).softmax(-1) @ v,
        "softmax runs over the queries (dim=-2): its columns sum to one, but each row has one unit of "
        "attention to give.":
            lambda q, k, v: scores_of(q, k).softmax(-2) @ v,
        "softmax runs over the first axis (dim=0), which is the batch as soon as there is one; dim=-1 is "
        "the row, whatever comes before it.": lambda q, k, v: scores_of(q, k).softmax(0) @ v,
        "softmax runs over axis 1, which is the row only where there is no batch; dim=-1 is the row "
        "in any case.":
            lambda q, k, v: scores_of(q, k).softmax(1) @ v,
        "there is no softmax: scores are not weights until each row sums to one.":
            lambda q, k, v: scores_of(q, k) @ v,
        "the scores are divided by their sum instead of going through softmax; negative scores would become "
        "negative weights.":
            lambda q, k, v: scores_of(q, k) / scores_of(q, k).sum(-1, keepdim=True) @ v,
        "the weights are transposed: row i of the weights says which tokens token i attends to.":
            lambda q, k, v: scores_of(q, k).softmax(-1).mT @ v,
        "e to the power of a large score is beyond float32 (from 89 on) and becomes infinite; PyTorch's "
        "softmax subtracts the largest score of each row first.":
            lambda q, k, v: naive_softmax(scores_of(q, k)) @ v,
    })
def attend(queries, keys, values):
    return scores_of(queries, keys).softmax(dim=-1) @ values


def weight_of_other_kind(answer, tokens):
    """Per token (N,), the weight of the tokens of the other kind; a token is water where it is more blue."""
    queries, keys = answer(tokens)
    weights = (queries @ keys.T).softmax(dim=-1)         # (N, N)
    water = tokens[:, 0] > tokens[:, 1]
    return (weights * (water[:, None] != water)).sum(dim=-1)


def preferred(answer, tokens):
    """Which tokens (N,) prefer the other kind, and whether all do with a weight of at least 0.9."""
    weight = weight_of_other_kind(answer, tokens)
    return weight > weight_if_equal(tokens) + 0.01, bool((weight >= 0.9).all())


def weight_if_equal(tokens):
    """Per token (N,), what the other kind gets with equal weights."""
    water = tokens[:, 0] > tokens[:, 1]
    return (water[:, None] != water).float().mean(dim=-1)


def says_who_does_not(result, tokens):
    prefers, enough = result
    if prefers.shape == (len(tokens),) and not prefers.all():
        which = (~prefers).nonzero().flatten().tolist()
        return f"These tokens do not prefer the other kind: {which}"
    return None if enough else "All tokens prefer the other kind, but not all with a weight of at least 0.9."


@exercise(
    use=preferred,
    judge=says_who_does_not,
    cases=lambda: [(torch.tensor([[1.0, 0.0], [0.8, 0.2], [0.0, 1.0], [0.2, 0.8]]),),
                   (torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.0, 1.0], [1.0, 0.2], [0.2, 0.8]]),)],
    mistakes={
        "no token prefers the other kind. Let one of the two matrices swap blue and stripes, with large "
        "numbers; if both do, the swaps cancel.":
            lambda tokens: (3 * tokens, tokens),
        "only the water looks for the other kind, as in section 5.2; give the striped tokens a query too.":
            lambda tokens: (tokens @ torch.tensor([[0.0, 10.0], [0.0, 0.0]]), tokens),
        "only the fields look for the other kind; give the blue tokens a query too.":
            lambda tokens: (tokens @ torch.tensor([[0.0, 0.0], [10.0, 0.0]]), tokens),
        "the direction is right, but the scores differ too little; larger numbers in a matrix make softmax "
        "sharper.":
            lambda tokens: (tokens.flip(-1), tokens),
    })
def other_kind(tokens):
    return tokens @ torch.tensor([[0.0, 10.0], [10.0, 0.0]]), tokens


@exercise(
    cases=lambda: [(torch.arange(8.0).reshape(1, 2, 4), 2), (torch.randn(2, 5, 12), 3)],
    mistakes={
        "the reshape goes straight to (B, H, N, D/H), which cuts up the row of numbers regardless "
        "of tokens: a head then sees pieces of other tokens. Reshape to (B, N, H, D/H) first, then "
        "swap the axes.":
            lambda x, h: x.reshape(x.shape[0], h, x.shape[1], -1),
        "the heads take every H-th number of a token (D/H before H in the reshape); a head owns "
        "neighboring numbers.":
            lambda x, h: x.reshape(*x.shape[:2], -1, h).permute(0, 3, 1, 2),
        "the axes are still (B, N, H, D/H): heads have to come before tokens, so that each head compares "
        "its own tokens.":
            lambda x, h: x.reshape(*x.shape[:2], h, -1),
    })
def split_heads(tokens, num_heads):
    B, N, D = tokens.shape
    return tokens.reshape(B, N, num_heads, D // num_heads).transpose(1, 2)


class Layer(nn.Module):
    """The answer to the last exercise, with room for the mistakes."""

    def __init__(self, embed_dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def scale(self, D):
        return (D // self.num_heads) ** -0.5

    def merge(self, mixed):                              # (B, H, N, D/H) -> (B, N, D)
        return mixed.transpose(1, 2).flatten(2)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(self.merge((q @ k.mT * self.scale(x.shape[-1])).softmax(dim=-1) @ v))


class ModelWidth(Layer):
    def scale(self, D):
        return D ** -0.5


class NotScaled(Layer):
    def scale(self, D):
        return 1.0


class HeadsBeforeRoles(Layer):
    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (self.num_heads, 3, -1)).permute(3, 0, 2, 1, 4)
        return self.proj(self.merge((q @ k.mT * self.scale(x.shape[-1])).softmax(dim=-1) @ v))


class HeadsStayApart(Layer):
    def merge(self, mixed):
        B, H, N, d = mixed.shape
        return mixed.reshape(B, N, H * d)


class ForgetsProj(Layer):
    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.merge((q @ k.mT * self.scale(x.shape[-1])).softmax(dim=-1) @ v)


def with_known_weights(answer, embed_dim, num_heads, x):
    """The layer's output with the weights of the package's layer, so that only the computation differs."""
    layer = answer(embed_dim, num_heads)
    torch.manual_seed(2)
    return take_weights(layer, MultiHeadSelfAttention(embed_dim, num_heads).state_dict())(x)


@exercise(
    use=with_known_weights,
    cases=lambda: [(4, 2, torch.randn(1, 2, 4)), (24, 3, torch.randn(2, 5, 24))],
    mistakes={
        "the scores are divided by the root of the model width; each head sums over its own width, "
        "embed_dim // num_heads.":
            ModelWidth,
        "the heads are merged without swapping heads and tokens back: transpose (B, H, N, D/H) to (B, N, H, "
        "D/H) before the reshape, or tokens are mixed.": HeadsStayApart,
        "the last layer, proj, is there but not used.": ForgetsProj,
        "the scores are not divided by the root of the head width.": NotScaled,
        "the result of qkv is cut into heads first and only then into queries, keys and values; its first "
        "third is all queries.":
            HeadsBeforeRoles,
    })
class Attention(Layer):
    pass
