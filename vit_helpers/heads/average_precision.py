"""Average precision, the measure of object detection: found what is there, and nothing else, with the surest first."""

import numpy as np
import torch

from .. import arguments
from .detection import check_truths, overlap

COCO = tuple(np.linspace(0.5, 0.95, 10).tolist())        # the overlaps that COCO's AP is a mean over


def average_precision(detections, truths, num_classes, thresholds=COCO):
    """AP for each threshold of overlap, float64 (T,): the mean over the classes that occur. Equal to COCO's (Lin et al. 2014).

    detections: for each image boxes (m, 4), classes (m,), scores (m,), as `detect` gives them; the 100 surest of a class count.
    truths: for each image boxes (k, 4), classes (k,). A detection is right if it overlaps a true box of its class by at least
    the threshold (IoU) and no surer one took that box. `[0]` is AP50, `.mean()` over all ten COCO's AP. NaN without any object.
    Raises ValueError where detections and truths do not fit together.
    """
    arguments.whole(1, num_classes=num_classes)
    check_lists(detections, truths)
    if not isinstance(thresholds, (list, tuple)):
        raise TypeError(f"thresholds must be a list of numbers, not {arguments.told(thresholds)}")
    arguments.number(0, 1, **{f"thresholds[{i}]": each for i, each in enumerate(thresholds)})
    check_truths([c for _, c in truths], [b for b, _ in truths], len(detections), num_classes)
    curves = []
    for number in range(num_classes):
        right, scores, wanted = [torch.zeros(len(thresholds), 0, dtype=torch.bool)], [torch.zeros(0)], 0
        for (boxes, classes, sure), (true_boxes, true_classes) in zip(detections, truths, strict=True):
            mine, theirs = classes == number, true_boxes[true_classes == number].double()
            order = sure[mine].argsort(descending=True, stable=True)[:100]
            right.append(took_one(boxes[mine][order].double(), theirs, thresholds))
            scores.append(sure[mine][order])
            wanted += len(theirs)
        if wanted:
            order = torch.cat(scores).argsort(descending=True, stable=True)
            curves.append(area_under(torch.cat(right, dim=1)[:, order], wanted))
    return torch.stack(curves).mean(dim=0) if curves else torch.full((len(thresholds),), torch.nan, dtype=torch.float64)


def check_lists(detections, truths):
    """Raises TypeError or ValueError unless each image has (boxes, classes, scores), all numbers, and true (boxes, classes)."""
    for name, value, parts in (("detections", detections, 3), ("truths", truths, 2)):
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{name} must be a list with a tuple for each image, not {arguments.told(value)}")
        for i, each in enumerate(value):
            if not isinstance(each, (list, tuple)) or len(each) != parts:
                raise ValueError(f"{name}[{i}] must be {('boxes', 'classes', 'scores')[:parts]}, not "
                                 f"{len(each) if isinstance(each, (list, tuple)) else arguments.told(each)}")
    for i, (boxes, classes, scores) in enumerate(detections):
        arguments.tensor("k", "whole", **{f"classes of image {i}": classes})
        arguments.tensor(str(len(classes)), "float", **{f"scores of image {i}": scores})
        arguments.tensor(f"{len(classes)} 4", "float", **{f"boxes of image {i}": boxes})
        arguments.no_nan(**{f"scores of image {i}": scores, f"boxes of image {i}": boxes})
    for i, (boxes, classes) in enumerate(truths):
        arguments.tensor("k", "whole", **{f"true classes of image {i}": classes})
        arguments.tensor(f"{len(classes)} 4", **{f"true boxes of image {i}": boxes})
        arguments.no_nan(**{f"true boxes of image {i}": boxes})


def took_one(boxes, true_boxes, thresholds):
    """Which boxes (m, 4), the surest first, are right: bool (T, m). Each takes the free true box that it overlaps most."""
    right = torch.zeros(len(thresholds), len(boxes), dtype=torch.bool)
    iou = overlap(boxes[:, None], true_boxes)[0]                                         # (m, k)
    for t, least in enumerate(thresholds):
        free = torch.ones(len(true_boxes), dtype=torch.bool)
        for i in range(len(boxes) if len(true_boxes) else 0):
            best, taken = iou[i].where(free, -1.0).max(dim=0)
            if best >= least:
                right[t, i], free[taken] = True, False
    return right


def area_under(right, wanted):
    """Mean precision at recall 0, 0.01, ... 1, from right or wrong in order of score, bool (T, M): float64 (T,)."""
    hits = right.double().cumsum(dim=1)
    precision = hits / torch.arange(1, right.shape[1] + 1)
    recall = hits / wanted
    precision = precision.flip(1).cummax(dim=1)[0].flip(1) if precision.shape[1] else precision   # best from here on
    levels = torch.from_numpy(np.linspace(0, 1, 101))    # NumPy's, as in COCO's program: torch's differ in the last bit
    at = torch.searchsorted(recall, levels.repeat(len(right), 1))
    return torch.nn.functional.pad(precision, (0, 1)).gather(1, at).mean(dim=1)          # never reached: 0
