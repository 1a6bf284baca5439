"""A masked autoencoder: the encoder sees a quarter of the patches, a small decoder paints the others."""

from numbers import Real

import torch
from torch import nn

from .. import arguments
from ..model import EncoderBlock, sincos_positions
from ..patches import pair, patchify


def random_visible(images, grid, share=0.25, generator=None):
    """Which patches of each image stay visible, drawn at random: their numbers, int64 (B, n), n = share * N, at least one."""
    arguments.tensor("B C H W", images=images)
    arguments.grid(grid=grid)
    arguments.generator(generator)
    if not isinstance(share, Real) or not 0 < share < 1:
        raise ValueError(f"share={share!r} of visible patches is not between 0 and 1; choose 0.25, as in the paper")
    N = grid[0] * grid[1]
    return torch.rand(len(images), N, generator=generator).argsort(dim=1)[:, :max(1, round(N * share))].to(images.device)


class MaskedAutoencoder(nn.Module):
    """Images and the numbers of their visible patches -> all patches (B, N, C * P * P). He et al. 2022.

    The encoder, any VisionTransformer, works on the visible patches only, which makes a step cheap. The decoder, a few
    narrow blocks, gets the encoder's tokens at their places and one learned mask token at all others.
    """

    def __init__(self, encoder, width=96, depth=2, num_heads=4):
        super().__init__()
        arguments.device_of(encoder, arguments.VIT)
        arguments.whole(1, width=width)
        arguments.whole(0, 1000, depth=depth)
        self.encoder = encoder
        embed_dim, channels = encoder.norm.normalized_shape[0], encoder.config["in_channels"]
        height, length = pair(encoder.config["patch_size"])
        self.narrow = nn.Linear(embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("positions", sincos_positions(encoder.grid, width)[None], persistent=False)
        self.blocks = nn.ModuleList(EncoderBlock(width, num_heads, 4 * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.paint = nn.Linear(width, channels * height * length)

    def forward(self, images, visible):
        arguments.tensor("B C height width", images=images)
        arguments.tensor(f"{len(images)} visible", "whole", visible=visible)
        visible = visible.long()
        tokens = self.encoder.forward_features(images, keep_tokens=visible)              # (B, [1 +] n, D)
        tokens = self.narrow(tokens[:, -visible.shape[1]:])                              # (B, n, W), without CLS
        B, N, W = len(images), self.positions.shape[1], self.positions.shape[2]
        everywhere = self.mask_token.to(tokens.dtype).expand(B, N, W)
        x = everywhere.scatter(1, visible[..., None].expand(-1, -1, W), tokens)          # each token back at its place
        x = x + self.positions
        for block in self.blocks:
            x = block(x)
        return self.paint(self.norm(x))                                                  # (B, N, C * P * P)


def masked_loss(predicted, images, visible, patch_size):
    """Mean squared error over the pixels of the *hidden* patches only; a scalar.

    predicted: (B, N, C * P * P), in the units of normalized pixels, -1..1. What is said about visible patches does not count.
    Raises ValueError for predictions of another shape than the images' patches.
    """
    arguments.tensor("B C height width", "float", images=images)
    arguments.tensor("... pixels", "float", predicted=predicted)
    truth = patchify(images, patch_size)
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted must be {tuple(truth.shape)}, as the patches of images {tuple(images.shape)}, "
                         f"not {tuple(predicted.shape)}")
    error = (predicted.float() - truth).square().mean(dim=-1)                            # (B, N)
    arguments.tensor(f"{len(images)} n", "whole", visible=visible)
    arguments.in_range(0, truth.shape[1] - 1, visible=visible)
    hidden = torch.ones_like(error).scatter(1, visible.long(), 0.0)                      # 1 where hidden
    return (error * hidden).sum() / hidden.sum()
