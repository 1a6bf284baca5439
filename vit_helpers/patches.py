"""Cuts images into patches and puts them back together."""

from math import gcd

import torch


def pair(size):
    """(height, width) of a size given as one number or as two."""
    return tuple(size) if isinstance(size, (tuple, list)) else (size, size)


def patch_grid(img_size, patch_size):
    """(rows, columns) of patches; sizes: a number or (height, width). ValueError where they do not tile."""
    (height, width), (patch_height, patch_width) = pair(img_size), pair(patch_size)
    for side, length, patch in (("height", height, patch_height), ("width", width, patch_width)):
        if patch < 1 or length < patch or length % patch:
            shared = gcd(height, width) if patch_height == patch_width else length
            fits = [p for p in range(1, shared + 1) if shared % p == 0]
            near = sorted(sorted(fits, key=lambda p: abs(p - patch))[:3])
            raise ValueError(f"image {side} {length} is not divisible by patch size {patch}; "
                             f"choose a patch size such as {', '.join(map(str, near))}")
    return height // patch_height, width // patch_width


def patchify(images, patch_size):
    """Cut images (B, C, height, width) into patches (B, N, C * P * P), any dtype.

    Patches run row by row from the top left; inside, the order is channel, row, column, as in the weight of a
    convolution. `patch_size`: P or (P_height, P_width). Raises ValueError where they do not tile the image.
    """
    B, C, height, width = images.shape
    rows, columns = patch_grid((height, width), patch_size)
    P, Q = pair(patch_size)
    cut = images.reshape(B, C, rows, P, columns, Q)              # (B, C, rows, P, columns, Q)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(B, rows * columns, C * P * Q)


def unpatchify(patches, patch_size, grid):
    """Put patches (B, N, C * P * P) back into images (B, C, rows * P, columns * P); grid: (rows, columns)."""
    (rows, columns), (P, Q) = grid, pair(patch_size)
    placed = patches.reshape(patches.shape[0], rows, columns, -1, P, Q)          # (B, rows, columns, C, P, Q)
    return placed.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)             # (B, C, height, width)


def random_patches(B, N, share, generator=None):
    """Numbers of a random `share` (0 to 1) of N patches, at least one, for each of B images: int64 (B, n)."""
    return torch.rand(B, N, generator=generator).argsort(dim=1)[:, :max(1, round(N * share))]
