"""Exercises of lesson 04: the school formula, a test for order, positions with a CLS token and in a video."""

import torch
import torch.nn.functional as F
from torch import nn

from ..model import MultiHeadSelfAttention, interpolate_positions
from .base import exercise

TWO_HANDS = torch.tensor([1.0, 0.1])


@exercise(
    cases=lambda: [(1, TWO_HANDS), (2, TWO_HANDS), (0, torch.tensor([1.0, 0.5, 0.25])),
                   (-5, 100.0 ** (-torch.arange(8) / 8))],
    mistakes={
        "this is the mean over the hands; a dot product is a sum.":
            lambda distance, speeds: torch.cos(distance * speeds).mean().item(),
        "the speeds are added up before the cosine is taken; each hand has a cosine of its own, and those "
        "are added up.":
            lambda distance, speeds: torch.cos(distance * speeds.sum()).item(),
        "this is the sine instead of the cosine; at distance 0 each hand agrees with itself fully, "
        "and cos 0 = 1.":
            lambda distance, speeds: torch.sin(distance * speeds).sum().item(),
        "the sine is added as well, but the formula contains it: cos a cos b + sin a sin b = cos(a - b).":
            lambda distance, speeds:
                (torch.cos(distance * speeds) + torch.sin(distance * speeds)).sum().item(),
    })
def place_similarity(distance, speeds):
    return torch.cos(distance * speeds).sum().item()


class AddsPlaces(nn.Module):
    """Adds 0 to the first token, 1 to the second, and so on."""

    def forward(self, tokens):
        return tokens + torch.arange(tokens.shape[1])[:, None]


class AddsNeighbors(nn.Module):
    """Adds to each token the one before it."""

    def forward(self, tokens):
        return tokens + tokens.roll(1, dims=1)


@exercise(
    cases=lambda: [(AddsPlaces(), torch.tensor([[[5.0], [7.0], [9.0]]]), torch.tensor([2, 0, 1])),
                   (MultiHeadSelfAttention(8, 2), torch.randn(2, 7, 8), torch.randperm(7)),
                   (AddsNeighbors(), torch.randn(3, 6, 4), torch.tensor([3, 5, 0, 1, 4, 2])),
                   (AddsPlaces(), torch.randn(1, 5, 2), torch.arange(5))],       # nothing is shuffled: no gap
    mistakes={
        "layer(tokens) is compared unshuffled, but a layer blind to the order shuffles its output with its "
        "input; shuffle that result too.":
            lambda layer, tokens, order: (layer(tokens[:, order]) - layer(tokens)).abs().max().item(),
        "both input and output of the first way are shuffled, but the same order twice does not undo it; "
        "shuffle the output of the other way.":
            lambda layer, tokens, order:
                (layer(tokens[:, order])[:, order] - layer(tokens)).abs().max().item(),
        "only the means over all tokens are compared; compare token by token.":
            lambda layer, tokens, order:
                (layer(tokens[:, order]).mean(1) - layer(tokens).mean(1)).abs().max().item(),
        "the sign is still there, so a large negative difference goes unnoticed; take .abs() before .max().":
            lambda layer, tokens, order: (layer(tokens[:, order]) - layer(tokens)[:, order]).max().item(),
        "this is the mean of the differences; return the largest.":
            lambda layer, tokens, order:
                (layer(tokens[:, order]) - layer(tokens)[:, order]).abs().mean().item(),
    })
def shuffle_gap(layer, tokens, order):
    return (layer(tokens[:, order]) - layer(tokens)[:, order]).abs().max().item()


def stretched(places, old_grid, new_grid):
    """Positions (1, N, D) of patches alone, from grid to grid."""
    return interpolate_positions(places, old_grid, new_grid)


def without_transpose(positions, old_grid, new_grid):
    image = positions[:, 1:].reshape(1, -1, *old_grid)
    image = F.interpolate(image, size=new_grid, mode="bicubic", antialias=True)
    return torch.cat([positions[:, :1], image.reshape(1, -1, positions.shape[2])], dim=1)


def without_antialias(positions, old_grid, new_grid):
    image = positions[:, 1:].transpose(1, 2).reshape(1, -1, *old_grid)
    image = F.interpolate(image, size=new_grid, mode="bicubic")
    return torch.cat([positions[:, :1], image.flatten(2).transpose(1, 2)], dim=1)


@exercise(
    cases=lambda: [(torch.tensor([9.0, 0, 1, 2, 3]).reshape(1, 5, 1), (1, 4), (1, 8)),
                   (torch.randn(1, 1 + 6, 4), (2, 3), (4, 5)), (torch.randn(1, 1 + 48, 2), (6, 8), (3, 5))],
    mistakes={
        "row 0, the CLS token's, is missing from the result; put it back in front with torch.cat.":
            lambda positions, old_grid, new_grid: stretched(positions[:, 1:], old_grid, new_grid),
        "the CLS token's row ended up last; it belongs in front, where the model expects it.":
            lambda positions, old_grid, new_grid: torch.cat(
                [stretched(positions[:, 1:], old_grid, new_grid), positions[:, :1]], dim=1),
        "(1, N, D) is reshaped to (1, D, rows, columns) directly, which mixes places and features; "
        "transpose first.":
            without_transpose,
        "rows and columns of the grids are swapped; a grid is (rows, columns).":
            lambda positions, old_grid, new_grid: torch.cat(
                [positions[:, :1], stretched(positions[:, 1:], old_grid[::-1], new_grid[::-1])], dim=1),
        "antialias=True is missing in F.interpolate; without it, a table that shrinks is sampled at "
        "points, not averaged.":
            without_antialias,
    })
def resize_positions(positions, old_grid, new_grid):
    return interpolate_positions(positions, old_grid, new_grid)


def angles(grid, hands, temperature, indexing="ij", divisor=None):
    """The angles (N, hands) for time, row and column of each place in a video."""
    speeds = temperature ** (-torch.arange(hands) / (divisor or hands))
    places = torch.meshgrid(*map(torch.arange, grid), indexing=indexing)
    return [place.flatten()[:, None] * speeds for place in places]


def side_by_side(angles):
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)


@exercise(
    cases=lambda: [((1, 1, 2), 6), ((2, 3, 4), 24), ((3, 2, 2), 12, 100.0)],
    mistakes={
        "the width is still divided by 4; three axes, each with sine and cosine, make six parts.":
            lambda grid, embed_dim, temperature=10_000.0:
                side_by_side(angles(grid, embed_dim // 4, temperature)),
        "the places are not in reading order, frame by frame and row by row: meshgrid needs "
        "indexing=\"ij\".":
            lambda grid, embed_dim, temperature=10_000.0:
                side_by_side(angles(grid, embed_dim // 6, temperature, "xy")),
        "the parts are in the order column, row, time; it should be time, row, column.":
            lambda grid, embed_dim, temperature=10_000.0:
                side_by_side(angles(grid, embed_dim // 6, temperature)[::-1]),
        "all sines come first, then all cosines; put the sine and the cosine of each axis next to each "
        "other.":
            lambda grid, embed_dim, temperature=10_000.0: torch.cat(
                [wave(torch.cat(angles(grid, embed_dim // 6, temperature), dim=1))
                 for wave in (torch.sin, torch.cos)], dim=1),
        "the hands slow down too little: k is divided by the whole width; divide it by the number "
        "of hands, D/6.":
            lambda grid, embed_dim, temperature=10_000.0: side_by_side(
                angles(grid, embed_dim // 6, temperature, divisor=embed_dim)),
    })
def video_positions(grid, embed_dim, temperature=10_000.0):
    return side_by_side(angles(grid, embed_dim // 6, temperature))
