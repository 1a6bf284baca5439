"""Mosaics and pasted objects: the truth is what the pixels show. (Clips are tested in test_video.py.)"""

import pytest
import torch

from vit_helpers import CLASSES, Tiles
from vit_helpers.scenes import mosaics, objects


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def plain():
    """Twenty tiles, each of one color that tells its class and its number: (class, number, 100)."""
    images = torch.full((20, 3, 64, 64), 100, dtype=torch.uint8)
    images[:, 0] = (torch.arange(20) % 10)[:, None, None]
    images[:, 1] = torch.arange(20)[:, None, None]
    return Tiles(images, torch.arange(20) % 10)


@pytest.fixture(scope="module")
def rulers():
    """Tiles whose pixels say where they come from: (class, row, column)."""
    row, column = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    images = torch.stack([torch.stack([torch.full_like(row, c), row, column]) for c in range(10)]).to(torch.uint8)
    return Tiles(images, torch.arange(10))


@pytest.mark.parametrize("bend", [0.0, 0.15, None])
@pytest.mark.parametrize("size", [32, 64, 150])
def test_the_mask_says_what_the_pixels_show(rulers, size, bend):
    images, masks = mosaics(rulers, 6, size, regions=5, bend=bend, generator=seeded())
    assert images.shape == (6, 3, size, size) and images.dtype == torch.uint8 and masks.dtype == torch.int64
    assert torch.equal(images[:, 0].long(), masks)
    assert torch.equal(images[:, 1, :, 0].long(), (torch.arange(size) % 64).expand(6, -1))       # pixels stay in place
    assert torch.equal(images[:, 2, 0, :].long(), (torch.arange(size) % 64).expand(6, -1))


def test_straight_borders_are_voronoi_cells(plain):
    _, masks = mosaics(plain, 3, 40, regions=6, generator=seeded(5))
    # The same draws again, then each pixel by itself.
    random = seeded(5)
    classes = torch.randint(10, (3, 6), generator=random)
    points = torch.rand(3, 6, 2, generator=random)
    for scene in range(3):
        for row in range(0, 40, 3):
            for column in range(0, 40, 3):
                place = torch.tensor([(row + 0.5) / 40, (column + 0.5) / 40])
                nearest = (points[scene] - place).square().sum(dim=1).argmin()
                assert masks[scene, row, column] == classes[scene, nearest]


def test_bent_borders_differ_and_none_bends_every_second_scene(plain):
    straight, bent, mixed = (mosaics(plain, 4, 64, bend=bend, generator=seeded())[1] for bend in (0.0, 0.15, None))
    assert (straight != bent).any()
    assert torch.equal(mixed[::2], straight[::2]) and torch.equal(mixed[1::2], bent[1::2])


def test_a_region_of_a_large_scene_shows_several_tiles_of_its_class(plain):
    images, masks = mosaics(plain, 1, 256, regions=1, generator=seeded())
    assert len(masks.unique()) == 1
    assert set(images[0, 1].unique().tolist()) == {masks[0, 0, 0].item(), masks[0, 0, 0].item() + 10}


def test_every_class_and_every_tile_comes_up(plain):
    images, masks = mosaics(plain, 200, 16, regions=4, generator=seeded())
    counts = torch.bincount(masks.flatten(), minlength=10) / masks.numel()
    assert ((counts > 0.07) & (counts < 0.13)).all()
    assert len(images[:, 1].unique()) == 20


def test_classes_that_the_tiles_lack_are_not_drawn(plain):
    few = plain.select(torch.tensor([3, 13, 7]))
    assert set(mosaics(few, 20, 32, generator=seeded())[1].unique().tolist()) == {3, 7}


def test_the_same_seed_gives_the_same_scenes(plain):
    for make in (lambda random: mosaics(plain, 5, generator=random), lambda random: objects(plain, 5, generator=random)):
        one, two, other = make(seeded(1)), make(seeded(1)), make(seeded(2))
        assert torch.equal(one[0], two[0]) and not torch.equal(one[0], other[0])
        assert all(torch.equal(a, b) for a, b in zip(one[1], two[1], strict=True))


@pytest.mark.parametrize(("arguments", "message"), [
    ({"size": 0}, "size=0"), ({"regions": 0}, "regions=0"), ({"n": -1}, "n=-1")])
def test_mosaics_refuse_what_cannot_be_made(plain, arguments, message):
    with pytest.raises(ValueError, match=message):
        mosaics(plain, **{"n": 1, **arguments})


def test_no_tiles_no_scenes(plain):
    none = plain.select(torch.arange(0))
    for make in (mosaics, objects):
        with pytest.raises(ValueError, match="no tiles"):
            make(none, 1)


def test_no_scenes_are_fine(plain):
    assert mosaics(plain, 0)[0].shape == (0, 3, 64, 64)
    assert objects(plain, 0)[0].shape == (0, 3, 96, 96)


def test_objects_stand_where_their_boxes_say(plain):
    images, boxes, classes = objects(plain, 40, size=96, generator=seeded())
    assert images.shape == (40, 3, 96, 96) and len(boxes) == len(classes) == 40
    for image, some, kinds in zip(images, boxes, classes, strict=True):
        assert some.shape == (len(kinds), 4) and some.dtype == torch.float32 and kinds.dtype == torch.int64
        assert 1 <= len(kinds) <= 6
        ground = image[0].clone().long()
        for (left, top, right, bottom), kind in zip((some * 96).round().long().tolist(), kinds, strict=True):
            assert 16 <= right - left == bottom - top <= 36 and left >= 0 and top >= 0 and right <= 96 and bottom <= 96
            assert (ground[top:bottom, left:right] == kind).all()            # the whole object is to be seen: no overlap
            ground[top:bottom, left:right] = -1
        assert len(ground[ground >= 0].unique()) == 1                        # the rest is background ...
        assert not (kinds == ground[ground >= 0][0]).any()                   # ... of another class


def test_boxes_are_shares_of_the_side(plain):
    _, boxes, _ = objects(plain, 30, size=200, sides=(20, 60), generator=seeded())
    sides = torch.cat([b[:, 2:] - b[:, :2] for b in boxes]) * 200
    assert sides.min() >= 19.9 and sides.max() <= 60.1 and sides.max() > 40
    assert (torch.cat(boxes) * 200 - (torch.cat(boxes) * 200).round()).abs().max() < 1e-3


def test_scenes_may_be_empty(plain):
    images, boxes, classes = objects(plain, 3, counts=(0, 0), generator=seeded())
    assert [b.shape for b in boxes] == [(0, 4)] * 3 and [c.shape for c in classes] == [(0,)] * 3
    assert all(len(image[0].unique()) == 1 for image in images)


def test_a_crowd_that_just_fits_is_placed(plain):
    _, boxes, _ = objects(plain, 3, size=96, counts=(6, 6), sides=(30, 36), generator=seeded())
    assert all(len(b) == 6 for b in boxes)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"counts": (1, 40), "sides": (16, 36)}, "40 objects .* at most 36"),
    ({"sides": (100, 120)}, "at most 0"),
    ({"counts": (16, 16), "sides": (24, 24)}, "fewer or smaller"),
    ({"counts": (3, 1)}, r"counts=\(3, 1\)"), ({"sides": (0, 5)}, r"sides=\(0, 5\)"), ({"counts": (-1, 2)}, "counts")])
def test_objects_that_do_not_fit_are_refused(plain, arguments, message):
    with pytest.raises(ValueError, match=message):
        objects(plain, 1, generator=seeded(), **arguments)


def test_objects_need_two_classes(plain):
    with pytest.raises(ValueError, match="two classes"):
        objects(plain.select(torch.tensor([3, 13])), 1)


def test_real_tiles_make_scenes(eurosat):
    train, test = eurosat.split()
    images, masks = mosaics(test, 2, generator=seeded())
    scene, where = images[0], masks[0]
    own = test.images[test.labels == where[0, 0]][:, :, 0, 0]
    assert (own == scene[:, 0, 0]).all(dim=1).any()                          # the corner pixel is some tile's corner
    assert len(CLASSES) == 10 and len(train) > len(test)
