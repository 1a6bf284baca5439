"""From pixels to tokens: patch embeddings and positions."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .patches import pair, patch_grid


class PatchEmbedding(nn.Module):
    """Images (B, C, height, width) -> a token for each patch (B, N, D): the flattened patch times one matrix.

    Done as a convolution whose stride is its kernel size (Dosovitskiy et al. 2021). patch_size: P or (P, Q).
    """

    def __init__(self, patch_size=8, in_channels=3, embed_dim=128):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=pair(patch_size), stride=pair(patch_size))
        # Inside an 8x8 patch of EuroSAT, normalized pixels differ by only 0.12 (standard deviation) from
        # their mean. This start lifts such detail to about 1; PyTorch's default leaves a fourteenth of that.
        nn.init.normal_(self.proj.weight, std=1 / (0.12 * math.sqrt(self.proj.weight[0].numel())))

    def forward(self, images):
        return self.proj(images).flatten(2).transpose(1, 2)  # (B, D, rows, columns) -> (B, D, N) -> (B, N, D)


class ConvStem(nn.Module):
    """Images (B, C, height, width) -> tokens (B, N, D) by small convolutions, as a CNN begins.

    For each halving two of 3x3 with batch norm and ReLU, the first with stride 2; at last one of 1x1. After
    Xiao et al. 2021. Raises ValueError unless patch_size is 2, 4, 8, ...
    """

    def __init__(self, patch_size=8, in_channels=3, embed_dim=128):
        super().__init__()
        halvings = {2**i: i for i in range(1, 11)}.get(patch_size)
        if halvings is None:
            raise ValueError(f"a convolutional stem needs a patch size of 2, 4, 8, 16, ..., not {patch_size}")
        layers, last = [], in_channels
        for left in reversed(range(halvings)):               # how many halvings are left after this one
            width = max(8, embed_dim // 2**left)
            for channels, stride in ((last, 2), (width, 1)):
                layers += [nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
                           nn.BatchNorm2d(width), nn.ReLU()]
            last = width
        self.proj = nn.Sequential(*layers, nn.Conv2d(last, embed_dim, 1))

    def forward(self, images):
        return self.proj(images).flatten(2).transpose(1, 2)  # (B, D, rows, columns) -> (B, D, N) -> (B, N, D)


def check_width(embed_dim, divisor, what):
    """Raise ValueError, naming the nearest widths that would do, unless `divisor` divides embed_dim."""
    if embed_dim % divisor:
        below = embed_dim - embed_dim % divisor
        raise ValueError(f"embed_dim={embed_dim} is not divisible by {what}; "
                         f"choose {below or 2 * divisor} or {below + divisor}")


def sincos_positions(grid, embed_dim, temperature=10000.0):
    """The 2-D sine-cosine table, float32 (rows * columns, D), one row for each patch, values in [-1, 1].

    With w_k = temperature ** (-k / (D/4)), k = 0 ... D/4 - 1, the patch at (row, column) gets
    [sin(row w_k), cos(row w_k), sin(column w_k), cos(column w_k)] (Vaswani et al. 2017, once for each axis).
    """
    check_width(embed_dim, 4, "4 (sine and cosine of row and column)")
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    frequencies = temperature ** (-torch.arange(embed_dim // 4) / (embed_dim // 4))
    by_row = rows.flatten()[:, None] * frequencies           # (N, D/4)
    by_column = columns.flatten()[:, None] * frequencies     # (N, D/4)
    return torch.cat([by_row.sin(), by_row.cos(), by_column.sin(), by_column.cos()], dim=1)


def interpolate_positions(positions, old_grid, new_grid):
    """Stretch positions (1, [1 +] rows * columns, D) from grid to grid, bicubically; a CLS row stays."""
    prefix = positions.shape[1] - old_grid[0] * old_grid[1]  # 1 with a CLS token, else 0
    image = positions[:, prefix:].transpose(1, 2).unflatten(2, old_grid)     # (1, D, rows, columns)
    kind = torch.promote_types(image.dtype, torch.float32)   # 16 bits are stretched in 32
    image = F.interpolate(image.to(kind), new_grid, mode="bicubic", antialias=True, align_corners=False)
    image = image.to(positions.dtype).flatten(2).transpose(1, 2)             # (1, new rows * new columns, D)
    return torch.cat([positions[:, :prefix], image], dim=1)


def sincos_table(config, grid):
    """The sine-cosine positions (1, N[+1], D) for the sizes in a model's config, stretched to `grid`."""
    built = patch_grid(config["img_size"], config["patch_size"])
    prefix = int(config["pool"] == "cls")
    table = F.pad(sincos_positions(built, config["embed_dim"]), (0, 0, prefix, 0))[None]
    return table if grid == built else interpolate_positions(table, built, grid)
