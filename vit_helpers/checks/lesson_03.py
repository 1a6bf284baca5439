"""Exercises of lesson 03: a matrix by hand, weights from elsewhere, gray images, any image size."""

import torch
import torch.nn.functional as F
from torch import nn

from ..model import PatchEmbedding
from .base import exercise, take_weights


@exercise(
    cases=lambda: [(2, 2), (3, 4), (3, 8)],
    mistakes={
        "it expects the colors of a pixel side by side; a flat patch holds all of channel 0 first, then all "
        "of channel 1.":
            lambda channels, P: torch.eye(channels).repeat(1, P * P) / (P * P),
        "these are sums, not means; divide by the number of pixels, P * P.":
            lambda channels, P: torch.eye(channels).repeat_interleave(P * P, dim=1),
        "sums are divided by the size of the whole patch; each mean is taken over one channel, P * P "
        "values.":
            lambda channels, P: torch.eye(channels).repeat_interleave(P * P, dim=1) / (channels * P * P),
        "rows and columns of the matrix are swapped; as in nn.Linear, each row makes one "
        "number of the token.":
            lambda channels, P: torch.eye(channels).repeat_interleave(P * P, dim=0) / (P * P),
        "all rows are alike and mix the channels; row c must be zero outside channel c.":
            lambda channels, P: torch.full((channels, channels * P * P), 1 / (channels * P * P)),
    })
def mean_color_matrix(channels, P):
    return torch.eye(channels).repeat_interleave(P * P, dim=1) / (P * P)


@exercise(
    cases=lambda: [(torch.tensor([[0.0, 100, 1, 101, 10, 110, 11, 111]]).T, 2, 2),
                   (torch.randn(12, 5), 3, 2)],
    mistakes={
        "the flat axis is cut into channel, row, column, but the matrix holds row, column, channel: take it "
        "apart in its own order, then permute.":
            lambda matrix, channels, P: matrix.T.reshape(-1, channels, P, P),
        "the matrix is reshaped as it is, which mixes weights of different filters; the width D is its last "
        "axis and has to come first.": lambda matrix, channels, P: matrix.reshape(-1, channels, P, P),
        "row and column are swapped: each filter is mirrored across its diagonal.":
            lambda matrix, channels, P: matrix.reshape(P, P, channels, -1).permute(3, 2, 1, 0),
        "the axes are still (P, P, C, D); a convolution in PyTorch wants (D, C, P, P).":
            lambda matrix, channels, P: matrix.reshape(P, P, channels, -1),
    })
def to_conv_weight(matrix, channels, P):
    return matrix.reshape(P, P, channels, -1).permute(3, 2, 0, 1)


@exercise(
    cases=lambda: [(torch.arange(12.0).reshape(1, 3, 2, 2),), (torch.randn(5, 3, 4, 4),)],
    mistakes={
        "the mean makes the tokens a third as large, before the bias; a convolution adds up its channels, "
        "so add up their weights.": lambda weight: weight.mean(dim=1, keepdim=True),
        "only the first channel's weights are kept; add up those of all three.": lambda weight: weight[:, :1],
        "the axis of the channels is gone; a convolution wants it, even with length 1: keepdim=True.":
            lambda weight: weight.sum(dim=1),
        "these factors turn colors into brightness, but here the images are gray already; just add up what "
        "each channel would have added.":
            lambda weight:
                (weight * torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)).sum(dim=1, keepdim=True),
    })
def gray_weight(weight):
    return weight.sum(dim=1, keepdim=True)


class Embedding(nn.Module):
    """The answer to the last exercise, with room for the mistakes."""

    def __init__(self, patch_size, in_channels, embed_dim):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=patch_size, stride=patch_size)

    def pad(self, images):
        height, width = images.shape[-2:]
        return F.pad(images, (0, -width % self.patch_size, 0, -height % self.patch_size))

    def tokens(self, maps):                              # (B, D, rows, columns) -> (B, N, D)
        return maps.flatten(2).transpose(1, 2)

    def forward(self, images):
        maps = self.proj(self.pad(images))
        return self.tokens(maps), tuple(maps.shape[-2:])


class LosesTheRest(Embedding):
    def pad(self, images):
        return images


class PadsFirst(Embedding):
    def pad(self, images):
        height, width = images.shape[-2:]
        return F.pad(images, (-width % self.patch_size, 0, -height % self.patch_size, 0))


class MixesTokens(Embedding):
    def tokens(self, maps):
        return maps.reshape(len(maps), -1, maps.shape[1])


class ColumnsFirst(Embedding):
    def forward(self, images):
        tokens, grid = super().forward(images)
        return tokens, grid[::-1]


class CountsWholePatches(Embedding):
    def forward(self, images):
        return super().forward(images)[0], tuple(side // self.patch_size for side in images.shape[-2:])


def with_known_weights(answer, patch_size, in_channels, embed_dim, images):
    """What the layer gives with the weights of the package's embedding, so only the computation differs."""
    layer = answer(patch_size, in_channels, embed_dim)
    torch.manual_seed(2)
    return take_weights(layer, PatchEmbedding(patch_size, in_channels, embed_dim).state_dict())(images)


@exercise(
    use=with_known_weights,
    cases=lambda: [(2, 1, 3, torch.arange(12.0).reshape(1, 1, 3, 4)), (4, 3, 8, torch.randn(2, 3, 10, 15)),
                   (4, 3, 8, torch.randn(2, 3, 8, 12))],
    mistakes={
        "what does not fill a whole patch is lost; add zeros with F.pad before the convolution.":
            LosesTheRest,
        "the zeros are on the left and at the top, so every patch is cut in the wrong place; F.pad takes "
        "(left, right, top, bottom).": PadsFirst,
        "the maps are reshaped to (B, N, D) directly, which mixes places and features: flatten the grid, "
        "then transpose.":
            MixesTokens,
        "the grid is (columns, rows); it should be (rows, columns), in the order of height and width.":
            ColumnsFirst,
        "the grid counts the whole patches of the image without its zeros; count after padding.":
            CountsWholePatches,
    })
class AnySizeEmbedding(Embedding):
    pass
