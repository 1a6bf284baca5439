"""Scenes whose truth is known: mosaics, pasted objects, moving clips; for a test, make them of test tiles."""

import torch
import torch.nn.functional as F

from .runtime import smoke

MOTIONS = ("pan left", "pan right", "pan up", "pan down", "turn left", "turn right", "zoom in", "zoom out",
           "shuffled")


def _tiles_of(tiles, classes, generator):
    """A random tile of each of the classes int64 (...): its number, of the same shape."""
    count = torch.bincount(tiles.labels)
    which = (torch.rand(classes.shape, generator=generator) * count[classes]).long()   # of its class
    return tiles.labels.argsort(stable=True)[(count.cumsum(0) - count)[classes] + which]


def mosaics(tiles, n, size=64, regions=4, bend=0.0, generator=None):
    """Scenes of several kinds of land: images uint8 (n, 3, size, size), class masks int64 (n, size, size).

    Each of `regions` random points owns the pixels nearest to it (Voronoi cells): tiles of one class, a new
    one every tile's width. bend: 0 for straight borders, 0.15 (of `size`) for curved, None for both in turn.
    """
    n, side = min(n, 16) if smoke() else n, tiles.images.shape[-1]
    present = tiles.labels.unique()
    classes = present[torch.randint(len(present), (n, regions), generator=generator)]  # (n, R)
    points = torch.rand(n, regions, 2, generator=generator)                            # row, column: 0 to 1
    bend = (torch.arange(n) % 2 * 0.15)[:, None, None, None] if bend is None else bend
    waves = torch.randn(n, 2, 5, 5, generator=generator)
    waves = F.interpolate(waves, size, mode="bicubic", align_corners=True)             # (n, 2, size, size)
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    places = (torch.stack([row, column]) + 0.5) / size + bend * waves
    owner = torch.cdist(places.flatten(2).transpose(1, 2), points).argmin(dim=2).unflatten(1, (size, size))
    squares = -(-size // side)
    chosen = _tiles_of(tiles, classes[:, :, None, None].expand(-1, -1, squares, squares), generator)
    scene = torch.arange(n)[:, None, None]
    number = chosen[scene, owner, row // side, column // side]                         # (n, size, size)
    images = tiles.images[number, :, row % side, column % side]                        # (n, size, size, 3)
    return images.permute(0, 3, 1, 2).contiguous(), classes[scene, owner]


def objects(tiles, n, size=96, counts=(1, 6), sides=(16, 36), generator=None):
    """Small tiles as objects on a large one: images uint8 (n, 3, size, size), each scene's boxes and classes.

    boxes: n tensors float32 (k, 4), left, top, right, bottom, 0 to 1. classes: n int64 (k,). counts: least
    and most k. sides: of the square objects, in pixels. They do not overlap and are never of the background's
    class. Raises ValueError where they do not fit.
    """
    if not sides[0] <= sides[1] <= size or counts[1] > (size // sides[0]) ** 2:
        raise ValueError(f"counts={counts}, sides={sides}: these do not fit into {size} x {size} pixels")
    n, present = min(n, 16) if smoke() else n, tiles.labels.unique()
    ground = torch.randint(len(tiles), (n,), generator=generator)
    images = F.interpolate(tiles.images[ground], size, mode="bilinear", antialias=True)
    count = torch.randint(counts[0], counts[1] + 1, (n,), generator=generator)
    scene = torch.arange(n).repeat_interleave(count)                                   # of each of M objects
    places = _free_places(size, count, *sides, generator)                              # (M, 4)
    own = torch.searchsorted(present, tiles.labels[ground])[scene]                     # the ground's class
    other = torch.randint(len(present) - 1, scene.shape, generator=generator)
    classes = present[other + (other >= own)]                                          # any but that
    chosen, widths = _tiles_of(tiles, classes, generator), places[:, 2] - places[:, 0]
    for width in widths.unique().tolist():                                             # one call a size
        same = widths == width
        small = F.interpolate(tiles.images[chosen[same]], width, mode="bilinear", antialias=True)
        for i, (x1, y1, x2, y2), tile in zip(scene[same].tolist(), places[same].tolist(), small, strict=True):
            images[i, :, y1:y2, x1:x2] = tile
    return images, list((places / size).split(count.tolist())), list(classes.split(count.tolist()))


def _free_places(size, count, small, large, generator):
    """For n scenes `count` (n,) squares of whole pixels that do not overlap: int64 (count.sum(), 4)."""
    wanted = torch.arange(count.max() if len(count) else 0) < count[:, None]           # (n, K)
    found, left = torch.zeros(*wanted.shape, 4, dtype=torch.long), torch.arange(len(count))
    for attempt in range(200):                                                         # for the scenes left
        most, free = max(small, large - attempt // 4), torch.ones(len(left), dtype=torch.bool)
        boxes = torch.zeros(len(left), *found.shape[1:], dtype=torch.long)             # empty, in no way
        for k in range(boxes.shape[1]):
            side = torch.randint(small, most + 1, (len(left), 1, 1), generator=generator)
            corners = (torch.rand(len(left), 50, 2, generator=generator) * (size - side + 1)).long()
            tried = torch.cat([corners, corners + side], dim=2)                        # 50 tries at once
            low, high = tried[:, :, None].split(2, dim=3)                              # each (n, 50, 1, 2)
            apart = (low >= boxes[:, None, :, 2:]) | (high <= boxes[:, None, :, :2])   # (n, 50, K, 2)
            fits = apart.any(dim=3).all(dim=2)                                         # (n, 50)
            boxes[:, k] = tried[torch.arange(len(left)), fits.byte().argmax(dim=1)]    # the first that fits
            free &= fits.any(dim=1) | ~wanted[left, k]
        found[left[free]], left = boxes[free], left[~free]
        if not len(left):
            return found[wanted]
    raise ValueError(f"{count[left[0]]} objects of {small} pixels or more do not fit into {size} x {size}; "
                     "use fewer")


def clips(tiles, n, frames=8, size=32, generator=None):
    """Films over a mosaic: clips uint8 (n, frames, 3, size, size), motions int64 (n,), numbers of MOTIONS.

    The camera pans (1 to 3 pixels a frame; "left" is where it goes), turns (4 to 10 degrees) or zooms (5 to
    12%); or it does one of these, and the frames, at least 4, are shuffled. The frame in the middle,
    frames // 2, is the same whatever the motion.
    """
    assert frames >= 4, f"{frames} frames are too few to be shuffled"
    n = min(n, 16) if smoke() else n
    draw = torch.rand(6, n, generator=generator)
    motions = torch.randint(len(MOTIONS), (n,), generator=generator)
    moves = torch.where(motions < 8, motions, (draw[0] * 8).long())                    # before shuffling
    times = (torch.arange(frames) - frames // 2).repeat(n, 1)                          # 0 in the middle
    for clip in (motions == 8).nonzero().flatten().tolist():
        order, others = torch.randperm(frames - 1, generator=generator), times[clip].nonzero().flatten()
        if order.equal(torch.arange(frames - 1)):                                      # in order, by chance
            order = order.roll(1)
        times[clip, others] = times[clip, others[order]]
    step = torch.where(torch.arange(4)[:, None] == moves // 2, moves % 2 * 2.0 - 1, 0)  # -1: left, up, in
    across, down, turn, zoom = (step[:, :, None] * times)[..., None, None]            # each (n, frames, 1, 1)
    speed, *start = draw[1:4, :, None, None, None]                                     # each (n, 1, 1, 1)
    angle, zoom = turn * (4 + 6 * speed) * torch.pi / 180, (1.05 + 0.07 * speed) ** zoom
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    world = mosaics(tiles, 1, 16 * size, regions=64, bend=0.05, generator=generator)[0].float()
    ruler = torch.arange(size) - (size - 1) / 2                                        # 0 in the middle
    row = 3 * size + 10 * size * start[0] + down * (1 + 2 * speed) + sin * ruler + cos * ruler[:, None]
    column = 3 * size + 10 * size * start[1] + across * (1 + 2 * speed) + cos * ruler - sin * ruler[:, None]
    grid = torch.stack([column, row], dim=-1).reshape(1, -1, size, 2) / (16 * size - 1) * 2 - 1  # -1 to 1
    seen = F.grid_sample(world, grid, padding_mode="reflection", align_corners=True).round().to(torch.uint8)
    return seen.reshape(3, n, frames, size, size).permute(1, 2, 0, 3, 4).contiguous(), motions
