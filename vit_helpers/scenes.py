"""Scenes made from tiles, whose truth is known by construction: mosaics, pasted objects, moving clips.

All draws come from a CPU torch.Generator, so a seed gives the same scenes again. Make training scenes from training tiles
and test scenes from test tiles, and no tile is ever in both.
"""

import math

import torch
import torch.nn.functional as F

from . import arguments

MOTIONS = ("pan left", "pan right", "pan up", "pan down", "turn left", "turn right", "zoom in", "zoom out", "shuffled")


def _check(tiles, n, generator, **sizes):
    arguments.tiles(tiles=tiles)
    arguments.generator(generator)
    arguments.whole(-arguments.MOST, n=n, **sizes)
    if not len(tiles):
        raise ValueError("there are no tiles to build scenes from; the Tiles are empty")
    if n < 0:
        raise ValueError(f"n={n} scenes cannot be made; choose 0 or more")
    return torch.default_generator if generator is None else generator


def _tiles_of(tiles, classes, generator):
    """A random tile of each of the classes int64 (...): its number, of the same shape."""
    count = torch.bincount(tiles.labels, minlength=len(tiles.classes))
    order, first = tiles.labels.argsort(stable=True), count.cumsum(0) - count
    draw = (torch.rand(classes.shape, generator=generator) * count[classes]).long()
    return order[first[classes] + draw]


def mosaics(tiles, n, size=64, regions=4, bend=0.0, generator=None):
    """Scenes of several kinds of land: images uint8 (n, 3, size, size) and the class of each pixel, int64 (n, size, size).

    Each of `regions` random points owns the pixels that are nearest to it (Voronoi cells) and gives them its class. bend: 0 for
    straight borders, about 0.15 for curved ones, a distance as a share of `size`; or None: every other scene is bent. A region
    shows one tile of its class, in scenes larger than a tile another one in each square. Classes are drawn from those that the
    tiles have, all with the same probability. Raises ValueError for no tiles, sizes below 1, no regions.
    """
    generator = _check(tiles, n, generator, size=size, regions=regions)
    if bend is not None:
        arguments.number(bend=bend)
    if tiles.images.shape[-1] != tiles.images.shape[-2]:
        raise ValueError(f"a mosaic needs square tiles, not {tuple(tiles.images.shape[-2:])}; use tiles.resized(64)")
    if size < 1 or regions < 1:
        raise ValueError(f"size={size} and regions={regions} must be at least 1; choose size=64 and regions=4")
    side = tiles.images.shape[-1]
    present = tiles.labels.unique()
    classes = present[torch.randint(len(present), (n, regions), generator=generator)]    # (n, R)
    points = torch.rand(n, regions, 2, generator=generator)
    axis = (torch.arange(size) + 0.5) / size
    place = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).expand(n, 2, size, size)  # (n, 2, size, size): row, column
    bent = (torch.arange(n) % 2 * 0.15) if bend is None else torch.full((n,), float(bend))
    waves = F.interpolate(torch.randn(n, 2, 5, 5, generator=generator), size, mode="bicubic", align_corners=True)
    place = place + bent[:, None, None, None] * waves                                    # where a pixel asks who is near
    apart = torch.cdist(place.flatten(2).transpose(1, 2), points)                        # (n, size * size, R)
    owner = apart.argmin(dim=2).unflatten(1, (size, size))                               # (n, size, size)
    cells = -(-size // side)
    chosen = _tiles_of(tiles, classes[:, :, None, None].expand(-1, -1, cells, cells), generator)  # (n, R, cells, cells)
    scene = torch.arange(n)[:, None, None]
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    number = chosen[scene, owner, row // side, column // side]                           # (n, size, size)
    images = tiles.images[number, :, row % side, column % side]                          # (n, size, size, 3)
    return images.permute(0, 3, 1, 2).contiguous(), classes[scene, owner]


def objects(tiles, n, size=96, counts=(1, 6), sides=(16, 36), generator=None):
    """Small tiles as objects on a large one: images uint8 (n, 3, size, size), and for each scene its boxes and classes.

    boxes: a list of n tensors float32 (k, 4), left, top, right, bottom as shares of the side, 0 to 1. classes: a list of n
    tensors int64 (k,). k is drawn from counts[0] to counts[1], 0 allowed; the side of each square object from sides[0] to
    sides[1] pixels. Objects do not overlap and are never of the background's class. Raises ValueError where so many or so large
    objects do not fit.
    """
    generator = _check(tiles, n, generator)
    arguments.whole(1, size=size)
    for name, value in (("counts", counts), ("sides", sides)):
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise ValueError(f"{name}={arguments.told(value)} must be (least, most), such as (1, 6) and (16, 36)")
        arguments.whole(-arguments.MOST, **{f"{name}[0]": value[0], f"{name}[1]": value[1]})
    (fewest, most), (small, large) = counts, sides
    if not 0 <= fewest <= most or not 1 <= small <= large:
        raise ValueError(f"counts={counts} and sides={sides} must be (least, most), such as (1, 6) and (16, 36)")
    room = (size // small) ** 2 if large <= size else 0
    if most > room:
        raise ValueError(f"{most} objects of {small} to {large} pixels do not fit into {size} x {size} pixels; "
                         f"at most {room} of the smallest would")
    if len(present := tiles.labels.unique()) < 2:
        raise ValueError("objects need tiles of at least two classes: one for the background, another for the objects")
    images, all_boxes, all_classes = torch.empty(n, 3, size, size, dtype=torch.uint8), [], []
    for image in images:
        ground = torch.randint(len(tiles), (), generator=generator)
        image[:] = _resized(tiles.images[ground], size)
        others = present[present != tiles.labels[ground]]
        boxes = _free_places(size, torch.randint(fewest, most + 1, (), generator=generator).item(), small, large, generator)
        classes = others[torch.randint(len(others), (len(boxes),), generator=generator)]
        for (left, top, right, bottom), number in zip(boxes.tolist(), _tiles_of(tiles, classes, generator), strict=True):
            image[:, top:bottom, left:right] = _resized(tiles.images[number], right - left)
        all_boxes.append(boxes / size)
        all_classes.append(classes)
    return images, all_boxes, all_classes


def _resized(image, size):
    return F.interpolate(image[None], (size, size), mode="bilinear", antialias=True)[0]


def _free_places(size, count, small, large, generator):
    """`count` squares of whole pixels that do not overlap: int64 (count, 4), left, top, right, bottom."""
    for attempt in range(200):
        boxes = torch.zeros(0, 4, dtype=torch.long)
        for _ in range(count):
            side = torch.randint(small, max(small, large - attempt // 4) + 1, (), generator=generator)  # smaller if need be
            corners = torch.randint(int(size - side) + 1, (50, 2), generator=generator)  # 50 tries at once
            tried = torch.cat([corners, corners + side], dim=1)
            free = ((tried[:, None, :2] >= boxes[:, 2:]) | (tried[:, None, 2:] <= boxes[:, :2])).any(dim=2).all(dim=1)
            if not free.any():
                break
            boxes = torch.cat([boxes, tried[free][:1]])
        if len(boxes) == count:
            return boxes
    raise ValueError(f"{count} objects of {small} to {large} pixels were not placed in {size} x {size} pixels in 200 tries; "
                     "choose fewer or smaller ones")


def clips(tiles, n, frames=8, size=32, generator=None):
    """Short films over a large mosaic: clips uint8 (n, frames, 3, size, size) and their motions int64 (n,), numbers of MOTIONS.

    The camera pans (1 to 3 pixels a frame), turns (4 to 10 degrees) or zooms (5 to 12 %); or it does one of these, and the
    frames are then shuffled. "left" and "right" say where the camera goes or turns to. Frame number frames // 2 is taken in the
    same way whatever the motion: that frame alone says nothing about it. Raises ValueError for fewer than 4 frames, or no size.
    """
    generator = _check(tiles, n, generator, frames=frames, size=size)
    if frames < 4 or size < 2:
        raise ValueError(f"frames={frames} must be at least 4, and size={size} at least 2; choose 8 and 32")
    draw = torch.rand(6, n, generator=generator)
    motions = torch.randint(len(MOTIONS), (n,), generator=generator)
    shuffled = motions == MOTIONS.index("shuffled")
    moves = torch.where(shuffled, (draw[0] * (len(MOTIONS) - 1)).long(), motions)        # before shuffling
    times = torch.arange(frames) - frames // 2                                           # 0 in the middle
    times = times.expand(n, frames).clone()
    others = torch.tensor([i for i in range(frames) if i != frames // 2])
    for clip in shuffled.nonzero().flatten().tolist():
        order = torch.randperm(frames - 1, generator=generator)
        if order.equal(torch.arange(frames - 1)):  # by chance in order: then the last one comes first
            order = order.roll(1)
        times[clip, others] = times[clip, others[order]]
    sign = moves % 2 * 2.0 - 1                                                           # left, up, in: -1; else +1
    kind = moves // 2  # 0 across, 1 up and down, 2 turn, 3 zoom
    along = (sign * (1 + 2 * draw[1]))[:, None] * times                                  # (n, frames), pixels
    across, down = along * (kind == 0)[:, None], along * (kind == 1)[:, None]
    angle = (sign * (4 + 6 * draw[1]))[:, None] * times * (kind == 2)[:, None] * math.pi / 180
    zoom = (1 + 0.05 + 0.07 * draw[1])[:, None] ** (sign[:, None] * times * (kind == 3)[:, None])
    world = 16 * size
    scene = mosaics(tiles, 1, world, regions=64, bend=0.05, generator=generator)[0].float()  # (1, 3, world, world)
    margin = 3 * size
    start = margin + (world - 2 * margin) * draw[2:4]                                    # (2, n): the view's middle, in pixels
    ruler = torch.arange(size) - (size - 1) / 2
    y, x = torch.meshgrid(ruler, ruler, indexing="ij")                                   # each (size, size)
    cos, sin = (f(angle)[..., None, None] * zoom[..., None, None] for f in (torch.cos, torch.sin))
    row = start[0][:, None, None, None] + down[..., None, None] + sin * x + cos * y      # (n, frames, size, size)
    column = start[1][:, None, None, None] + across[..., None, None] + cos * x - sin * y
    grid = torch.stack([column, row], dim=-1) / (world - 1) * 2 - 1                      # -1..1, as grid_sample wants it
    seen = F.grid_sample(scene, grid.reshape(1, -1, size, 2), padding_mode="reflection", align_corners=True)
    seen = seen.reshape(3, n, frames, size, size).permute(1, 2, 0, 3, 4)                 # (n, frames, 3, size, size)
    return seen.round().to(torch.uint8).contiguous(), motions
