"""The clips of scenes.py, whose motion is known. Lesson 15 holds the classifier against its own lines."""

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from vit_helpers import load_tiles
from vit_helpers.scenes import MOTIONS, clips, mosaics

TILES = load_tiles("synthetic").subset(100, seed=0)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def steps(speed):
    """What a frame adds to the one before: pixels down and across, degrees to the left, a wider view."""
    pan, turn, zoom = 1 + 2 * speed, 4 + 6 * speed, 1.05 + 0.07 * speed
    return {"pan left": (0, -pan, 0, 1), "pan right": (0, pan, 0, 1), "pan up": (-pan, 0, 0, 1),
            "pan down": (pan, 0, 0, 1), "turn left": (0, 0, turn, 1), "turn right": (0, 0, -turn, 1),
            "zoom in": (0, 0, 0, 1 / zoom), "zoom out": (0, 0, 0, zoom), "shuffled": (0, 0, 0, 1)}


def test_each_motion_does_what_its_name_says(full):
    films, motions = clips(TILES, 60, generator=seeded(6))
    again = seeded(6)                                                        # the same draws
    draw = torch.rand(6, 60, generator=again)
    torch.randint(9, (60,), generator=again)
    for _ in range((motions == 8).sum()):
        torch.randperm(7, generator=again)
    world = mosaics(TILES, 1, 16 * 32, regions=64, bend=0.05, generator=again)[0][0].double().numpy()
    up, right = np.meshgrid(15.5 - np.arange(32), np.arange(32) - 15.5, indexing="ij")
    for film, motion, (_, speed, row, column, *_) in zip(films, motions, draw.T.tolist(), strict=True):
        down, across, degrees, wider = steps(speed)[MOTIONS[motion]]
        for t in (-4, -1, 0, 3) if motion < 8 else (0,):                     # the middle is a plain view
            point = (right + 1j * up) * wider**t * np.exp(1j * np.radians(degrees * t))
            where = 96 + 320 * row + down * t - point.imag, 96 + 320 * column + across * t + point.real
            view = np.stack([map_coordinates(channel, where, order=1) for channel in world])
            off = np.abs(film[t + 4].numpy() - view)
            assert off.max() < 1.5 and off.mean() < 0.3, (MOTIONS[motion], t)
    assert set(motions.tolist()) == set(range(9))


def test_motions_are_equally_probable_and_shuffled_films_are_never_in_order(full):
    films, motions = clips(TILES, 400, 4, 16, generator=seeded(2))
    first, _, _, last = torch.cdist(*[films.float().flatten(2)] * 2).unbind(1)       # how far apart, (n, T)
    in_order = (first.diff(dim=1) > 0).all(dim=1) & (last[:, 2] < last[:, 1])
    assert in_order[motions < 8].any() and not in_order[motions == 8].any() and motions.bincount().min() > 25
