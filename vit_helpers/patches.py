"""Cuts images into patches and puts them back together."""

from math import gcd
from operator import index

from . import arguments


def pair(size):
    """(height, width) of a size given as one whole number or as two."""
    try:
        height, width = (index(side) for side in (size if isinstance(size, (tuple, list)) else (size, size)))
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1 or max(height, width) > arguments.MOST:
        raise ValueError(f"a size is a positive whole number or two of them (height, width), not {arguments.told(size)}")
    return height, width


def patch_grid(img_size, patch_size):
    """How many patches fit: (rows, columns) for `img_size` and `patch_size`, each one number or (height, width).

    Raises ValueError where the patches do not tile the image exactly; the message names sizes that do.
    """
    (height, width), (patch_height, patch_width) = pair(img_size), pair(patch_size)
    for side, length, patch in (("height", height, patch_height), ("width", width, patch_width)):
        if length % patch:
            shared = gcd(height, width) if patch_height == patch_width else length
            fits = [p for p in range(1, shared + 1) if shared % p == 0]
            near = sorted(sorted(fits, key=lambda p: abs(p - patch))[:3])
            raise ValueError(f"image {side} {length} is not divisible by patch size {patch}; "
                             f"choose a patch size such as {', '.join(map(str, near))}")
    return height // patch_height, width // patch_width


def patchify(images, patch_size):
    """Cut images (B, C, height, width) into patches (B, N, C * P * P), any dtype.

    Patches run row by row from the top left. Inside a patch the order is channel, row, column, as in the weight of
    a convolution. `patch_size` is P or (P_height, P_width). Raises ValueError where patches do not tile the image.
    """
    arguments.shaped("B C height width", images=images)
    B, C, height, width = images.shape
    rows, columns = patch_grid((height, width), patch_size)
    P, Q = pair(patch_size)
    cut = images.reshape(B, C, rows, P, columns, Q)              # (B, C, rows, P, columns, Q)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(B, rows * columns, C * P * Q)


def unpatchify(patches, patch_size, grid):
    """Put patches (B, N, C * P * P) back into images (B, C, rows * P, columns * P); the inverse of `patchify`.

    `grid` is (rows, columns) with rows * columns = N. Raises ValueError where the numbers do not fit together.
    """
    arguments.shaped("B N C*P*P", patches=patches)
    arguments.grid(grid=grid)
    B, N, length = patches.shape
    (rows, columns), (P, Q) = grid, pair(patch_size)
    if rows * columns != N:
        raise ValueError(f"grid {rows}x{columns} has {rows * columns} places for {N} patches")
    if length % (P * Q):
        raise ValueError(f"a patch of {length} values does not divide into channels of {P}x{Q} pixels")
    C = length // (P * Q)
    placed = patches.reshape(B, rows, columns, C, P, Q)          # (B, rows, columns, C, P, Q)
    return placed.permute(0, 3, 1, 4, 2, 5).reshape(B, C, rows * P, columns * Q)
