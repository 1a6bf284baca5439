"""Scenes whose truth is known: mosaics, pasted objects, moving clips; for a test, make them of test tiles."""

import torch
import torch.nn.functional as F
from torchvision.ops import box_iou

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
    images, all_boxes, all_classes = torch.empty(n, 3, size, size, dtype=torch.uint8), [], []
    for image in images:
        ground = torch.randint(len(tiles), (), generator=generator)
        image[:] = F.interpolate(tiles.images[ground][None], size, mode="bilinear", antialias=True)
        others = present[present != tiles.labels[ground]]
        count = torch.randint(counts[0], counts[1] + 1, (), generator=generator).item()
        boxes = _free_places(size, count, *sides, generator)
        classes = others[torch.randint(len(others), (count,), generator=generator)]
        pasted = tiles.images[_tiles_of(tiles, classes, generator)][:, None]           # (k, 1, 3, H, W)
        for (x1, y1, x2, y2), tile in zip(boxes.tolist(), pasted, strict=True):
            image[:, y1:y2, x1:x2] = F.interpolate(tile, x2 - x1, mode="bilinear", antialias=True)
        all_boxes.append(boxes / size)
        all_classes.append(classes)
    return images, all_boxes, all_classes


def _free_places(size, count, small, large, generator):
    """`count` squares of whole pixels that do not overlap: int64 (count, 4), left, top, right, bottom."""
    for attempt in range(200):
        boxes, most = torch.zeros(0, 4, dtype=torch.long), max(small, large - attempt // 4)
        while len(boxes) < count:
            side = torch.randint(small, most + 1, (), generator=generator)
            corners = torch.randint(int(size - side) + 1, (50, 2), generator=generator)  # 50 tries at once
            tried = torch.cat([corners, corners + side], dim=1)
            free = tried[(box_iou(tried, boxes) == 0).all(dim=1)]
            if not len(free):
                break
            boxes = torch.cat([boxes, free[:1]])
        else:
            return boxes
    raise ValueError(f"{count} objects of {small} pixels or more do not fit into {size} x {size}; use fewer")


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
