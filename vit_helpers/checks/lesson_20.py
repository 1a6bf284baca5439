"""Exercises of lesson 20: the other pairs to turn, packed gates, angles for films, shapes in one batch."""

import math

import torch

from .base import exercise


def turned(x, angles, sign=1, halves_in=False, halves_out=False, order=(0, 1), degrees=False):
    a, b = x.chunk(2, dim=-1) if halves_in else (x[..., 0::2], x[..., 1::2])
    angles = angles.deg2rad() if degrees else angles
    cos, sin = angles.cos(), sign * angles.sin()
    parts = a * cos - b * sin, a * sin + b * cos
    parts = [parts[i] for i in order]
    return torch.cat(parts, dim=-1) if halves_out else torch.stack(parts, dim=-1).flatten(-2)


@exercise(
    cases=lambda: [(torch.tensor([[1.0, 0.0, 3.0, 4.0]]), torch.tensor([[math.pi / 2, math.pi]])),
                   (torch.randn(2, 3, 5, 8), torch.randn(5, 4))],
    mistakes={
        "these are DINOv3's pairs, x[i] with x[i + d/2]; here neighbors are a pair: x[..., 0::2] with "
        "x[..., 1::2].":
            lambda x, angles: turned(x, angles, halves_in=True, halves_out=True),
        "the pairs are right, but the results are left in two halves; bring neighbors together again with "
        "torch.stack(..., dim=-1).flatten(-2).":
            lambda x, angles: turned(x, angles, halves_out=True),
        "the pairs are taken from the two halves and put back as neighbors; take neighbors to begin with.":
            lambda x, angles: turned(x, angles, halves_in=True),
        "it turns the wrong way; make (a, b) into (a cos - b sin, a sin + b cos).":
            lambda x, angles: turned(x, angles, sign=-1),
        "the two numbers of each pair have changed places.":
            lambda x, angles: turned(x, angles, order=(1, 0)),
        "the angles are radians already; do not convert them from degrees.":
            lambda x, angles: turned(x, angles, degrees=True),
    })
def rotate_neighbors(x, angles):
    return turned(x, angles)


def unpacked(state, swapped=False, every_other=False, weights_only=False, keep=False, columns=False):
    new = {}
    for name, value in state.items():
        if ".mlp.fc1." not in name or (weights_only and name.endswith("bias")):
            new[name] = value
            continue
        if keep:
            new[name] = value
        parts = (value[0::2], value[1::2]) if every_other else value.chunk(2, dim=-1 if columns else 0)
        gate, other = parts[::-1] if swapped else parts
        new[name.replace("fc1", "fc1_g")], new[name.replace("fc1", "fc1_x")] = gate, other
    return new


def packed_states():
    small = {"blocks.0.mlp.fc1.bias": torch.tensor([1.0, 2.0, 3.0, 4.0]), "norm.bias": torch.tensor([5.0])}
    large = {f"blocks.{i}.mlp.{name}": torch.randn(*shape) for i in (0, 11) for name, shape in
             (("fc1.weight", (8, 6)), ("fc1.bias", (8,)), ("fc2.weight", (6, 4)), ("fc2.bias", (6,)))}
    return [(small,), ({**large, "head.weight": torch.randn(3, 6)},)]


@exercise(
    cases=packed_states,
    mistakes={
        "gate and value are swapped; in timm's packed layer the first half of the rows is the gate.":
            lambda state: unpacked(state, swapped=True),
        "every other row is taken; the first half of the rows belongs together, so use chunk(2).":
            lambda state: unpacked(state, every_other=True),
        "the weights are split, but the biases are still packed.":
            lambda state: unpacked(state, weights_only=True),
        "the packed entries are still there, and strict=True does not take names that the model lacks.":
            lambda state: unpacked(state, keep=True),
        "the columns are split; a weight is (out, in), and gates and values are outputs: split the rows.":
            lambda state: unpacked(state, columns=True),
    })
def unpack_gates(state):
    return unpacked(state)


def centered(n):
    return (torch.arange(n) + 0.5) / n * 2 - 1


def angles_of(grid, head_dim, temperature, places=centered, order=(0, 1, 2), turn=2 * math.pi, period=True,
              parts=6, interleaved=False):
    n = head_dim // parts
    periods = temperature ** (torch.arange(n) / n)
    where = torch.cartesian_prod(*(places(size) for size in grid)).reshape(-1, 3)[:, list(order)]
    angles = turn * (where[:, :, None] / periods if period else where[:, :, None] * periods)
    return (angles.transpose(1, 2) if interleaved else angles).flatten(1)


@exercise(
    cases=lambda: [((2, 1, 1), 6, 100.0), ((2, 3, 4), 12, 100.0), ((4, 2, 3), 48, 50.0)],
    mistakes={
        "the columns come first; make it frame, row, column.":
            lambda *case: angles_of(*case, order=(2, 1, 0)),
        "the places are whole numbers; let them run from -1 to 1, (i + 0.5) / n * 2 - 1.":
            lambda *case: angles_of(*case, places=lambda n: torch.arange(n).float()),
        "the first and last places are exactly -1 and 1; a patch is where its middle is, half a step inside.":
            lambda *case: angles_of(*case, places=lambda n: torch.linspace(-1, 1, n)),
        "the half is missing: the middle of patch i is at (i + 0.5) / n.":
            lambda *case: angles_of(*case, places=lambda n: torch.arange(n) / n * 2 - 1),
        "the factor 2 pi is missing; a period is a full turn.": lambda *case: angles_of(*case, turn=1),
        "the angles are multiplied by the periods; a longer period turns more slowly, so divide.":
            lambda *case: angles_of(*case, period=False),
        "the angles of the three directions are interleaved; all of the frame's come first, then the "
        "row's, then the column's.":
            lambda *case: angles_of(*case, interleaved=True),
    })
def video_angles(grid, head_dim, temperature):
    return angles_of(grid, head_dim, temperature)


def attended(q, k, v, lengths, after=False, zeros=False, queries=False, padding=True, scaled=True,
             same=False):
    B, _, N, d = q.shape
    lengths = torch.tensor([max(lengths)] * B if same else lengths)
    real = torch.arange(N) < lengths[:, None]                                    # (B, N)
    scores = q @ k.transpose(-2, -1) * (d**-0.5 if scaled else 1)                # (B, H, N, N)
    seen = real[:, None, :, None] if queries else real[:, None, None, :]
    if after:
        weights = scores.softmax(dim=-1) * seen
    else:
        weights = (scores * seen if zeros else scores.masked_fill(~seen, -1e9)).softmax(dim=-1)
    mixed = weights @ v
    return mixed * real[:, None, :, None] if padding else mixed


def batch_of_shapes(B, H, N, d, lengths):
    return (*torch.randn(3, B, H, N, d), lengths)


def one_real_token():
    ones = torch.ones(1, 1, 2, 1)
    return ones, ones, torch.tensor([2.0, 8.0]).reshape(1, 1, 2, 1), [1]


@exercise(
    cases=lambda: [one_real_token(), batch_of_shapes(2, 1, 3, 2, [3, 2]),
                   batch_of_shapes(3, 2, 6, 4, [2, 6, 5])],
    mistakes={
        "the weights on padding are set to zero after softmax, so the others do not sum to 1; hide the "
        "scores before it.":
            lambda *case: attended(*case, after=True),
        "hidden scores are set to 0, which softmax turns into a share like any other; set them to -inf.":
            lambda *case: attended(*case, zeros=True),
        "the queries of the padding are hidden, not its keys: the mask belongs to the last axis of the "
        "scores.":
            lambda *case: attended(*case, queries=True),
        "real tokens are right, but the rows of the padding must come out as zeros.":
            lambda *case: attended(*case, padding=False),
        "the scores are not divided by the root of the head width.":
            lambda *case: attended(*case, scaled=False),
        "all images are taken to be as long as the longest; each has a length of its own.":
            lambda *case: attended(*case, same=True),
    })
def attention_of_shapes(q, k, v, lengths):
    return attended(q, k, v, lengths)
