"""Exercises of lesson 02: which patch, other layouts, sizes that do not fit, overlapping patches."""

import torch
import torch.nn.functional as F

from ..patches import patchify
from .base import exercise


@exercise(
    cases=lambda: [(2, 3, 6, 2), (25, 42, 64, 8), (9, 30, 32, 4), (0, 0, 96, 16), (50, 17, 96, 16)],
    mistakes={
        "the patch row is multiplied by the patch size; each row of patches holds width // P of them, which "
        "for 64 and 8 is 8 as well.": lambda row, column, width, P: row // P * P + column // P,
        "row and column are swapped; count whole rows of patches first, then go along the row.":
            lambda row, column, width, P: column // P * (width // P) + row // P,
        "the patch row is multiplied by the width in pixels; each row of patches holds width // P of them.":
            lambda row, column, width, P: row // P * width + column // P,
        "pixels are counted, not patches; divide row and column by P first, dropping the remainder.":
            lambda row, column, width, P: (row * width + column) // (P * P),
    })
def patch_number(row, column, width, P):
    return row // P * (width // P) + column // P


def addressed_photo():
    """One photo of 4x4 pixels and 2 channels, each value its address: 100 x channel + 10 x row + column."""
    row, column, channel = torch.meshgrid(torch.arange(4), torch.arange(4), torch.arange(2), indexing="ij")
    return (100 * channel + 10 * row + column)[None]


def split_photos(photos, P):
    """(B, height, width, C) -> (B, rows, P, columns, P, C)."""
    B, height, width, C = photos.shape
    return photos.reshape(B, height // P, P, width // P, P, C)


@exercise(
    cases=lambda: [(addressed_photo(), 2), (torch.randn(2, 6, 12, 3), 3)],
    mistakes={
        "inside a patch the colors of a pixel are still side by side; channels come before "
        "rows and columns.":
            lambda photos, P: split_photos(photos, P).permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2),
        "there is no permute, so the pieces are cut along the lines of the photo; bring the grid's rows "
        "and columns to the front first.":
            lambda photos, P: photos.reshape(photos.shape[0], -1, photos.shape[3] * P * P),
        "inside a patch, row and column are swapped: every patch is mirrored across its diagonal.":
            lambda photos, P: split_photos(photos, P).permute(0, 1, 3, 5, 4, 2).flatten(3).flatten(1, 2),
        "the patches run down the columns of the grid; they should run along its rows, in reading order.":
            lambda photos, P: split_photos(photos, P).permute(0, 3, 1, 5, 2, 4).flatten(3).flatten(1, 2),
        "transpose(1, 3) brings the channels to the front, but swaps height and width too; "
        "photos.permute(0, 3, 1, 2) keeps rows before columns.":
            lambda photos, P: patchify(photos.transpose(1, 3), P),
    })
def patchify_photos(photos, P):
    return patchify(photos.permute(0, 3, 1, 2), P)


@exercise(
    cases=lambda: [(torch.arange(1.0, 7).reshape(1, 1, 2, 3), 2), (torch.randn(2, 3, 7, 16), 4),
                   (torch.randn(1, 2, 9, 5), 3), (torch.randn(1, 1, 5, 10), 4)],
    mistakes={
        "rows and columns are swapped: F.pad names the last axis first, (left, right, top, bottom).":
            lambda images, P: F.pad(images, (0, -images.shape[2] % P, 0, -images.shape[3] % P)),
        "a side that fits already gets a whole patch of zeros; use -size % P, which is 0 there.":
            lambda images, P: F.pad(images, (0, P - images.shape[3] % P, 0, P - images.shape[2] % P)),
        "the zeros are on the left and at the top, so all pixels move; put them on the "
        "right and at the bottom.":
            lambda images, P: F.pad(images, (-images.shape[3] % P, 0, -images.shape[2] % P, 0)),
        "what does not fit is cut off; add zeros, so that no pixel is lost.":
            lambda images, P: images[..., :images.shape[2] // P * P, :images.shape[3] // P * P],
        "size % P zeros are added, as many as there are leftover pixels; what the next multiple of P still "
        "needs is -size % P.":
            lambda images, P: F.pad(images, (0, images.shape[3] % P, 0, images.shape[2] % P)),
    })
def pad_to_fit(images, P):
    return F.pad(images, (0, -images.shape[3] % P, 0, -images.shape[2] % P))


def summed(patches, P, stride, grid):
    """The sum of all patches at each pixel."""
    size = [(n - 1) * stride + P for n in grid]
    return F.fold(patches.transpose(1, 2), size, kernel_size=P, stride=stride)


def each_at_its_place(patches, P, stride, grid):
    """(slices, patch (B, C, P, P)) for every patch, in reading order."""
    B, N, _ = patches.shape
    for n, patch in enumerate(patches.reshape(B, N, -1, P, P).unbind(1)):
        top, left = n // grid[1] * stride, n % grid[1] * stride
        yield (..., slice(top, top + P), slice(left, left + P)), patch


def last_wins(patches, P, stride, grid):
    images = torch.zeros_like(summed(patches, P, stride, grid))
    for place, patch in each_at_its_place(patches, P, stride, grid):
        images[place] = patch
    return images


def halved_again(patches, P, stride, grid):
    images, empty = (torch.zeros_like(summed(patches, P, stride, grid)) for _ in range(2))
    for place, patch in each_at_its_place(patches, P, stride, grid):
        images[place] = torch.where(empty[place] == 0, patch, (images[place] + patch) / 2)
        empty[place] += 1
    return images


@exercise(
    cases=lambda: [(torch.tensor([[[1.0, 1, 1, 1], [3, 3, 3, 3], [8, 8, 8, 8]]]), 2, 1, (1, 3)),
                   (torch.randn(2, 6, 3 * 16), 4, 2, (2, 3)), (torch.randn(1, 12, 25), 5, 2, (4, 3)),
                   (torch.randn(1, 6, 2 * 4), 2, 2, (3, 2))],
    mistakes={
        "the patches are added up; where several cover a pixel, divide by their number.": summed,
        "each patch overwrites what was there before, so the last one wins; add them up, "
        "and divide at the end.": last_wins,
        "everything is divided by the same number, but fewer patches cover pixels near the border; count "
        "them for each pixel.":
            lambda patches, P, stride, grid: summed(patches, P, stride, grid) / summed(
                torch.ones_like(patches), P, stride, grid).max(),
        "each patch is averaged with what is already there, again and again, so late patches count more "
        "than early ones; add up first, divide once.": halved_again,
    })
def stitch(patches, P, stride, grid):
    return summed(patches, P, stride, grid) / summed(torch.ones_like(patches), P, stride, grid)
