"""Exercises of lesson 06: a simpler norm, a block's two additions, a norm folded away, layer scale."""

import torch
from torch import nn

from ..model import MLP, EncoderBlock, MultiHeadSelfAttention
from .base import Wrong, exercise, take_weights


@exercise(
    cases=lambda: [(torch.tensor([[1.0, 1.0, 7.0, 7.0]]), torch.tensor([1.0, 1.0, 1.0, 2.0]), 1e-6),
                   (torch.randn(2, 3, 6) + 0.5, torch.rand(6) + 0.5, 0.2)],
    mistakes={
        "the mean is subtracted, as in layer norm; this norm only divides.":
            lambda x, scale, eps:
                (x - x.mean(-1, keepdim=True)) / (x.square().mean(-1, keepdim=True) + eps).sqrt() * scale,
        "the numbers are divided by the mean of the squares; take its root first.":
            lambda x, scale, eps: x / (x.square().mean(-1, keepdim=True) + eps) * scale,
        "the squares are added up; take their mean, or wide tokens come out smaller than narrow ones.":
            lambda x, scale, eps: x / (x.square().sum(-1, keepdim=True) + eps).sqrt() * scale,
        "the mean is taken over all tokens at once; each token has its own, over the last axis.":
            lambda x, scale, eps: x / (x.square().mean() + eps).sqrt() * scale,
        "eps is added after the root; it belongs under the root, beside the mean of the squares.":
            lambda x, scale, eps: x / (x.square().mean(-1, keepdim=True).sqrt() + eps) * scale,
    })
def rms_norm(x, scale, eps):
    return x / (x.square().mean(dim=-1, keepdim=True) + eps).sqrt() * scale


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


class ToyBlock(nn.Module):
    """A block whose parts only multiply, to be checked by hand."""

    def __init__(self):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = Times(0.5), Times(10.0), Times(2.0), Times(3.0)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@exercise(
    cases=lambda: [(ToyBlock(), torch.tensor([[[1.0]]])),
                   (lively(EncoderBlock(12, 3, 20)), torch.randn(2, 5, 12))],
    mistakes={
        "the MLP gets the tokens as they were before attention; give it x plus what attention added.":
            lambda block, x: (block.attn(block.norm1(x)), block.mlp(block.norm2(x))),
        "the MLP gets only what attention added; it works on the whole stream, x plus that.":
            lambda block, x: (a := block.attn(block.norm1(x)), block.mlp(block.norm2(a))),
        "these are the tokens after each half; return only what each half added to them.":
            lambda block, x: (y := x + block.attn(block.norm1(x)), y + block.mlp(block.norm2(y))),
        "the norms are left out; each half sees the stream through its own norm.":
            lambda block, x: (a := block.attn(x), block.mlp(x + a)),
        "norm1 comes before both halves; the MLP has a norm of its own, norm2.":
            lambda block, x: (a := block.attn(block.norm1(x)), block.mlp(block.norm1(x + a))),
    })
def additions(block, x):
    attended = block.attn(block.norm1(x))
    return attended, block.mlp(block.norm2(x + attended))


@exercise(
    cases=lambda: [(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 0.0]),
                    torch.tensor([[1.0, 1.0], [5.0, 0.0]]), torch.tensor([0.5, 0.0])),
                   (torch.randn(4), torch.randn(4), torch.randn(6, 4), torch.randn(6))],
    mistakes={
        "the shift is forgotten; it goes through the matrix and ends up in the bias.":
            lambda s, t, W, b: (W * s, b),
        "the shift goes through the scaled matrix; it is added after the scaling, so the old matrix "
        "applies to it.":
            lambda s, t, W, b: (W * s, b + (W * s) @ t),
        "the shift goes through the matrix but the old bias is lost; add both.":
            lambda s, t, W, b: (W * s, W @ t),
        "the weights are divided by the scale; multiply them: a place that the norm doubled needs twice "
        "the weight.":
            lambda s, t, W, b: (W / s, b + W @ t),
    })
def fold(scale, shift, weight, bias):
    return weight * scale, bias + weight @ shift


def lively(module):
    """The module with weights large enough for every part of it to matter."""
    torch.manual_seed(2)
    for name, p in module.named_parameters():
        nn.init.normal_(p, mean=1.0 if "norm" in name and "weight" in name else 0.0, std=0.4)
    return module


class Scaled(nn.Module):
    """The answer to the last exercise, with room for the mistakes."""

    eps = 1e-6

    def __init__(self, embed_dim, num_heads, mlp_dim, start):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(embed_dim, eps=self.eps), nn.LayerNorm(embed_dim, eps=self.eps)
        self.attn, self.mlp = MultiHeadSelfAttention(embed_dim, num_heads), MLP(embed_dim, mlp_dim)
        self.scale1 = nn.Parameter(torch.full((embed_dim,), start))
        self.scale2 = nn.Parameter(torch.full((embed_dim,), start))

    def forward(self, x):
        x = x + self.scale1 * self.attn(self.norm1(x))
        return x + self.scale2 * self.mlp(self.norm2(x))


class ScalesTheStream(Scaled):
    def forward(self, x):
        x = self.scale1 * (x + self.attn(self.norm1(x)))
        return self.scale2 * (x + self.mlp(self.norm2(x)))


class ScalesTheInput(Scaled):
    def forward(self, x):
        x = x + self.attn(self.scale1 * self.norm1(x))
        return x + self.mlp(self.scale2 * self.norm2(x))


class NormalizesTheStream(Scaled):
    def forward(self, x):
        x = self.norm1(x)
        x = self.norm2(x + self.scale1 * self.attn(x))
        return x + self.scale2 * self.mlp(x)


class PostNorm(Scaled):
    def forward(self, x):
        x = self.norm1(x + self.scale1 * self.attn(x))
        return self.norm2(x + self.scale2 * self.mlp(x))


class UsualEps(Scaled):
    eps = 1e-5


def with_known_weights(answer, embed_dim, num_heads, mlp_dim, start, x):
    """The block's output with known weights, so only the computation differs; its scales must start right."""
    block = answer(embed_dim, num_heads, mlp_dim, start)
    fresh = {name: value.clone() for name, value in block.state_dict().items() if name.startswith("scale")}
    take_weights(block, lively(Scaled(embed_dim, num_heads, mlp_dim, start)).state_dict())
    for name, value in fresh.items():
        if not torch.allclose(value, torch.tensor(start)):
            raise Wrong(f"{name} of a new block is {value.mean().item():.4g} on average; all its numbers "
                        f"should start at {start:g}, the argument `start`.")
    return block(x)


@exercise(
    use=with_known_weights,
    cases=lambda: [(4, 2, 4, 0.1, torch.randn(1, 2, 4)), (12, 3, 20, 0.01, torch.randn(2, 5, 12)),
                   (8, 2, 8, 0.5, 0.01 * torch.randn(1, 3, 8))],
    mistakes={
        "the scales multiply the whole stream; they belong to what each half adds, before it is added.":
            ScalesTheStream,
        "the scales multiply what goes into each half; they belong to what comes out of it.": ScalesTheInput,
        "the stream is overwritten by its norm; normalize only what goes into each half.":
            NormalizesTheStream,
        "the norms come after the additions; in a pre-norm block each comes before its layer, "
        "inside the branch.": PostNorm,
        "the norms use PyTorch's default eps of 1e-5; with `eps=1e-6` small tokens come out as they should.":
            UsualEps,
    })
class ScaledBlock(Scaled):
    pass
