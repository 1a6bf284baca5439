"""Mosaics, pasted objects and clips: the truth is what the pixels show."""


import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from vit_helpers import Tiles, load_tiles
from vit_helpers.scenes import MOTIONS, clips, mosaics, objects

pytestmark = pytest.mark.usefixtures("full")
TILES = load_tiles("synthetic").subset(100, seed=0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def plain():
    """Twenty tiles, each of one color that tells its class and its number: (class, number, number)."""
    number = torch.arange(20)
    colors = torch.stack([number % 10, number, number], dim=1).to(torch.uint8)
    return Tiles(colors[:, :, None, None].repeat(1, 1, 64, 64), number % 10)


@pytest.mark.parametrize(("size", "bend"), [(32, 0.0), (64, 0.15), (150, None)])
def test_the_mask_says_what_the_pixels_show(size, bend):
    row, column = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    rulers = torch.stack([torch.stack([torch.full_like(row, c), row, column]) for c in range(10)])
    tiles = Tiles(rulers.to(torch.uint8), torch.arange(10))           # pixels say where they come from
    images, masks = mosaics(tiles, 6, size, regions=5, bend=bend, generator=seeded())
    assert images.shape == (6, 3, size, size) and images.dtype == torch.uint8
    assert torch.equal(images[:, 0].long(), masks)                    # both int64
    assert torch.equal(images[:, 1, :, 0].long(), (torch.arange(size) % 64).expand(6, -1))
    assert torch.equal(images[:, 2, 0, :].long(), (torch.arange(size) % 64).expand(6, -1))


def test_bent_borders_differ_and_none_bends_every_second_scene(plain):
    straight, bent, mixed = (mosaics(plain, 4, 64, bend=b, generator=seeded())[1] for b in (0.0, 0.15, None))
    assert (straight != bent).any()
    assert torch.equal(mixed[::2], straight[::2]) and torch.equal(mixed[1::2], bent[1::2])


def test_every_class_and_tile_comes_up_and_a_large_region_shows_several_tiles(plain):
    images, masks = mosaics(plain, 200, 16, regions=4, generator=seeded())
    counts = torch.bincount(masks.flatten(), minlength=10) / masks.numel()
    assert ((counts > 0.07) & (counts < 0.13)).all() and len(images[:, 1].unique()) == 20
    images, masks = mosaics(plain, 1, 256, regions=1, generator=seeded())
    assert set(images[0, 1].unique().tolist()) == {masks[0, 0, 0].item(), masks[0, 0, 0].item() + 10}
    _, masks = mosaics(plain.select(torch.tensor([3, 13, 7])), 20, 32, generator=seeded())
    assert set(masks.unique().tolist()) == {3, 7}                     # classes that the tiles have


@pytest.mark.parametrize("make", [mosaics, objects, clips])
def test_a_seed_gives_its_scenes_again(plain, make):
    one, two, other = (make(plain, 20, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one[0], two[0]) and not torch.equal(one[0], other[0]) and len(make(plain, 0)[0]) == 0
    assert all(torch.equal(a, b) for a, b in zip(one[1], two[1], strict=True))


@pytest.mark.parametrize(("size", "counts", "sides"), [(200, (0, 6), (20, 60)), (96, (6, 6), (30, 36))])
def test_objects_are_where_their_boxes_say(plain, size, counts, sides):
    images, boxes, classes = objects(plain, 40, size, counts, sides, generator=seeded())
    assert images.shape == (40, 3, size, size) and {len(c) for c in classes} == set(range(counts[0], 7))
    for image, some, kinds in zip(images, boxes, classes, strict=True):
        assert some.shape == (len(kinds), 4) and some.dtype == torch.float32 and kinds.dtype == torch.int64
        ground = image[0].clone().long()
        for (x1, y1, x2, y2), kind in zip((some * size).round().long().tolist(), kinds, strict=True):
            assert sides[0] <= x2 - x1 == y2 - y1 <= sides[1] and min(x1, y1) >= 0 and max(x2, y2) <= size
            assert (ground[y1:y2, x1:x2] == kind).all()               # all of it is to be seen: no overlap
            ground[y1:y2, x1:x2] = -1
        assert len(ground[ground >= 0].unique()) == 1                 # the rest is background ...
        assert not (kinds == ground[ground >= 0][0]).any()            # ... of another class


@pytest.mark.parametrize(("make", "options", "message"), [
    (clips, {"frames": 3}, "3 frames"), (objects, {"counts": (1, 40)}, "do not fit"),
    (objects, {"sides": (36, 16)}, "do not fit"), (objects, {"sides": (90, 120)}, "do not fit"),
    (objects, {"counts": (16, 16), "sides": (24, 24)}, "16 objects of 24 pixels or more do not fit")])
def test_what_would_be_wrong_without_a_word_is_refused(plain, make, options, message):
    with pytest.raises((ValueError, AssertionError), match=message):
        make(plain, 1, generator=seeded(), **options)


def steps(speed):
    """What a frame adds to the one before: pixels down and across, degrees to the left, a wider view."""
    pan, turn, zoom = 1 + 2 * speed, 4 + 6 * speed, 1.05 + 0.07 * speed
    return {"pan left": (0, -pan, 0, 1), "pan right": (0, pan, 0, 1), "pan up": (-pan, 0, 0, 1),
            "pan down": (pan, 0, 0, 1), "turn left": (0, 0, turn, 1), "turn right": (0, 0, -turn, 1),
            "zoom in": (0, 0, 0, 1 / zoom), "zoom out": (0, 0, 0, zoom), "shuffled": (0, 0, 0, 1)}


def test_each_motion_does_what_its_name_says():
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


def test_motions_are_equally_probable_and_shuffled_films_are_never_in_order():
    films, motions = clips(TILES, 400, 4, 16, generator=seeded(2))
    first, _, _, last = torch.cdist(*[films.float().flatten(2)] * 2).unbind(1)       # how far apart, (n, T)
    in_order = (first.diff(dim=1) > 0).all(dim=1) & (last[:, 2] < last[:, 1])
    assert in_order[motions < 8].any() and not in_order[motions == 8].any() and motions.bincount().min() > 25
