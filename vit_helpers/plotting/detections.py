"""Pictures of object detection: boxes on scenes, and where each query looks."""

import torch
from matplotlib.patches import Rectangle

from .. import arguments
from ..heads.average_precision import check_lists
from ..heads.detection import overlap
from .base import COLORS, as_pixels, new_picture, several, show


def draw_box(axis, box, pixels, **style):
    height, width = pixels.shape[:2]
    left, top, right, bottom = (float(v) for v in box)
    axis.add_patch(Rectangle((left * width - 0.5, top * height - 0.5), (right - left) * width, (bottom - top) * height,
                             fill=False, **style))


def detections(images, found, truth, classes, title="", columns=4, labels=None, names=True):
    """Images (n, 3, H, W) with the boxes that were found, solid, over the true ones, dashed in black and white.

    found: for each image boxes (m, 4), shares of the sides, classes (m,), scores (m,). truth: boxes (k, 4), classes (k,). A
    found box is blue if it is right: it overlaps a true box of its class by half; else orange and dotted. names=True writes
    class and score above it. labels: a text above each image.
    """
    several(images=images)
    arguments.whole(1, columns=columns)
    check_lists(found, truth)
    arguments.as_many(len(images), found=found, truth=truth, labels=labels)
    arguments.names(None, classes=classes)
    arguments.in_range(0, len(classes) - 1, **{f"classes of image {i}": each[1] for i, each in enumerate(found)})
    rows, facts = -(-len(images) // columns), []
    picture, axes = new_picture(title, "", rows, columns, figsize=(3.1 * columns, 3.2 * rows + 0.4))
    for axis in axes.flat:
        axis.axis("off")
    for i, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        pixels, (boxes, kinds, scores), (true_boxes, true_kinds) = as_pixels(image), found[i], truth[i]
        show(axis, pixels, "" if labels is None else labels[i])
        for box in true_boxes:
            draw_box(axis, box, pixels, color="white", linewidth=3)
            draw_box(axis, box, pixels, color="black", linewidth=1.5, linestyle=(0, (3, 3)))
        hits = [is_right(box, kind, true_boxes, true_kinds) for box, kind in zip(boxes, kinds, strict=True)]
        for box, kind, score, right in zip(boxes, kinds.tolist(), scores.tolist(), hits, strict=True):
            color = COLORS[0] if right else COLORS[1]
            draw_box(axis, box, pixels, color=color, linewidth=2, linestyle="-" if right else (0, (1, 1)))
            if names:
                name = classes[kind] if len(classes[kind]) <= 11 else classes[kind][:9] + "…"
                place = box[:2].clamp(0, 0.75) * torch.tensor(pixels.shape[1::-1]) - 0.5
                axis.text(*place.tolist(), f"{name} {score:.0%}", color="white", fontsize=6, va="bottom",
                          bbox={"color": color, "alpha": 0.85, "pad": 0.5})
        facts.append(f"{len(true_boxes)} true, {len(boxes)} found, {sum(hits)} right")
    picture.alt = f"{title}. {len(images)} scenes with true boxes dashed and found boxes solid: {'; '.join(facts)}."
    return picture


def is_right(box, kind, true_boxes, true_kinds):
    """Whether a box overlaps a true box of its class by half: an IoU of at least 0.5."""
    return bool(((overlap(box, true_boxes)[0] >= 0.5) & (true_kinds == kind)).any())


def query_places(boxes, used, grid, anchors, title=""):
    """Where each query looks: the middles of its boxes (n, Q, 4) in n scenes where `used` (n, Q), one panel for each query.

    The panels stand as the queries do, in a grid (rows, columns); a cross marks where a query starts, (Q, 2). The larger the
    dot, the larger the box. Above: the share of the scenes in which the query found something.
    """
    arguments.grid(grid=grid)
    rows, columns = grid
    boxes, used, anchors = (each.detach() for each in arguments.array(boxes=boxes, used=used, anchors=anchors))
    arguments.tensor(f"n {rows * columns} 4", "float", boxes=boxes)
    arguments.no_nan(boxes=boxes)
    arguments.tensor(f"{len(boxes)} {rows * columns}", torch.bool, used=used)
    arguments.tensor(f"{rows * columns} 2", anchors=anchors)
    arguments.real(anchors=anchors)
    boxes, anchors = boxes.float(), anchors.float()
    middles, sides = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).mean(dim=2)
    picture, axes = new_picture(title, "", rows, columns, figsize=(1.6 * columns, 1.75 * rows + 0.4))
    off = []
    for q, axis in enumerate(axes.flat):
        x, y = middles[used[:, q], q].T
        axis.scatter(x, y, s=60 * sides[used[:, q], q].clamp(min=0), color=COLORS[0], alpha=0.35, linewidth=0)
        axis.plot(*anchors[q].tolist(), "+", color=COLORS[1], markersize=11, markeredgewidth=2)
        axis.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect="equal")
        axis.set_title(f"query {q}: {used[:, q].float().mean():.0%}", fontsize=8)
        if used[:, q].any():
            off.append((middles[used[:, q], q] - anchors[q]).norm(dim=1).mean().item())
    mean = f"they lie {sum(off) / len(off):.0%} of the side from the cross on average" if off else "no query found anything"
    picture.alt = (f"{title}. {rows} x {columns} panels, one for each query, with a cross where it starts and a dot at the "
                   f"middle of each box that it found: {mean}.")
    return picture
