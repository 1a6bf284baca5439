"""Exercises of lesson 14: a table of overlaps, who answers for what, duplicates, average precision."""

import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou, generalized_box_iou

from ..heads import average_precision
from .base import exercise


def boxes_at(corners, sides):
    return torch.cat([corners, corners + sides], dim=1)


def areas(boxes):
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)


def shared_areas(first, second, least=0.0):
    return (torch.minimum(first[:, None, 2:], second[:, 2:])
            - torch.maximum(first[:, None, :2], second[:, :2])).clamp(min=least).prod(dim=2)


def without_clamp(first, second):
    shared = shared_areas(first, second, -torch.inf)
    return shared / (areas(first)[:, None] + areas(second) - shared)


@exercise(
    cases=lambda: [(torch.tensor([[0.0, 0.0, 4.0, 4.0]]),
                    torch.tensor([[2.0, 2.0, 6.0, 6.0], [5.0, 6.0, 8.0, 8.0]])),
                   (boxes_at(torch.rand(3, 2), torch.rand(3, 2)),
                    boxes_at(torch.rand(5, 2), torch.rand(5, 2))),
                   # Apart in one direction only: side by side, one above the other.
                   (torch.tensor([[0.0, 0.0, 4.0, 4.0]]),
                    torch.tensor([[6.0, 1.0, 8.0, 3.0], [1.0, 6.0, 3.0, 8.0]]))],
    mistakes={
        "the sides of the shared part may become negative, and two negative sides make a positive area; "
        "clamp them at 0 first.":
            without_clamp,
        "the shared part is in both areas, so their sum counts it twice; subtract it once.":
            lambda a, b: shared_areas(a, b) / (areas(a)[:, None] + areas(b)),
        "the shared area is divided by the area of the first box; a union is what either box covers.":
            lambda a, b: shared_areas(a, b) / areas(a)[:, None],
        "the table is transposed: rows belong to the first boxes, columns to the second.":
            lambda a, b: box_iou(b, a),
        "this is GIoU, which goes below 0; IoU subtracts nothing for the empty space in the box "
        "around both.":
            generalized_box_iou,
        "the area or the IoU is clamped, but by then two negative sides have become a positive area; clamp "
        "the sides.":
            lambda a, b: without_clamp(a, b).clamp(min=0),
    })
def iou_table(first, second):
    return box_iou(first, second)


def owners(cost, queries, objects):
    return torch.full((len(cost),), -1).scatter(0, torch.as_tensor(queries), torch.as_tensor(objects))


def one_by_one(cost):
    free, queries = cost.clone(), []
    for thing in range(cost.shape[1]):
        queries.append(int(free[:, thing].argmin()))
        free[queries[-1]] = torch.inf
    return owners(cost, queries, list(range(cost.shape[1])))


def one_for_several(cost):
    owner = torch.full((len(cost),), -1)
    for thing, query in enumerate(cost.argmin(dim=0).tolist()):
        owner[query] = thing
    return owner


@exercise(
    cases=lambda: [(torch.tensor([[1.0, 3.0], [2.0, 9.0], [8.0, 8.0]]),), (torch.rand(6, 4),),
                   (torch.rand(5, 5),)],
    mistakes={
        "the objects choose one after the other among the free queries; a good first choice can cost a "
        "later object dearly. Compare the sums of whole assignments.": one_by_one,
        "each object takes its cheapest query, even one that is taken, so objects are lost; a query answers "
        "for one object only.":
            one_for_several,
        "each query takes its cheapest object, so none gets -1 and objects get several queries; compare "
        "the sums of whole assignments.":
            lambda cost: cost.argmin(dim=1),
        "these are the queries, one for each object; return the objects, one for each "
        "query, and -1 for none.":
            lambda cost: torch.from_numpy(linear_sum_assignment(cost.T.numpy())[1]),
        "this is the most expensive assignment; find the cheapest.":
            lambda cost: owners(cost, *linear_sum_assignment(cost.numpy(), maximize=True)),
        "queries and objects are swapped; the first array holds the queries, rows of the table, so "
        "owner[queries] = objects.":
            lambda cost: owners(cost, *linear_sum_assignment(cost.numpy())[::-1]),
        "0 stands for \"none\", but it is also the number of the first object; start with a tensor full "
        "of -1.":
            lambda cost: assign.reference(cost).clamp(min=0),
    })
def assign(cost):
    return owners(cost, *linear_sum_assignment(cost.numpy()))


def by_any_surer(boxes, scores, threshold):
    order = scores.argsort(descending=True)
    too_close = box_iou(boxes[order], boxes[order]) > threshold                      # (n, n)
    return order[~too_close.tril(-1).any(dim=1)]


def in_order_of(order, boxes, threshold, keep=torch.le):
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        order = rest[keep(box_iou(boxes[best][None], boxes[rest])[0], threshold)]
    return torch.stack(kept)


def crowd():
    """Fourteen boxes, two to five around each of four places, and their scores."""
    places = torch.tensor([[0, 0, 4, 4], [3, 3, 9, 6], [10, 0, 14, 8], [0, 9, 6, 15.0]])[torch.arange(14) % 4]
    return places + 0.8 * torch.rand(14, 4), torch.rand(14), 0.6


@exercise(
    cases=lambda: [(torch.tensor([[1.0, 0, 5, 4], [2, 0, 6, 4], [0, 0, 4, 4]]),
                    torch.tensor([0.8, 0.7, 0.9]), 0.5),
                   crowd(),
                   (torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2], [8, 8, 12, 12]]),
                    torch.tensor([0.9, 0.8, 0.7]), 0.5),
                   (torch.tensor([[0.0, 0, 4, 4], [2, 2, 6, 6]]), torch.tensor([0.9, 0.8]), 0.1),
                   # Small in large, either one surer: nothing goes.
                   (torch.tensor([[0.0, 0, 2, 2], [0, 0, 4, 4], [8, 0, 12, 4], [8, 0, 10, 2]]),
                    torch.tensor([0.9, 0.8, 0.7, 0.6]), 0.5)],
    mistakes={
        "a box goes as soon as it overlaps any surer box, even one that was thrown away itself; only boxes "
        "that are kept may throw others away.": by_any_surer,
        "the boxes are taken in the order of the list; the surest must come first.":
            lambda boxes, scores, least: in_order_of(torch.arange(len(boxes)), boxes, least),
        "the right ones are kept, but in the order of the list; return the surest first.":
            lambda boxes, scores, least: suppress.reference(boxes, scores, least).sort().values,
        "these are the boxes themselves; return their numbers, which pick out classes and scores too.":
            lambda boxes, scores, least: boxes[suppress.reference(boxes, scores, least)],
        "the comparison is the wrong way around: duplicates stay, and boxes elsewhere go.":
            lambda boxes, scores, least: in_order_of(scores.argsort(descending=True), boxes, least, torch.gt),
        "the least sure box comes first; argsort goes upward, so it needs descending=True.":
            lambda boxes, scores, least: in_order_of(scores.argsort(), boxes, least),
        "these are places in the sorted list; return the numbers that the boxes had before sorting.":
            lambda boxes, scores, least:
                in_order_of(torch.arange(len(boxes)), boxes[scores.argsort(descending=True)], least),
        "an overlap equal to the threshold stays; only larger ones go: keep where iou <= threshold.":
            lambda boxes, scores, least: in_order_of(scores.argsort(descending=True), boxes, least, torch.lt),
    })
def suppress(boxes, scores, threshold):
    return in_order_of(scores.argsort(descending=True), boxes, threshold)


def in_scenes(scenes, *parts):
    return [tuple(part[scenes == scene] for part in parts) for scene in range(8)]


def ap_of(right, wanted, best_from_here=True, levels=101):
    """Mean precision at 101 recalls, from right or wrong in order of score."""
    hits = right.double().cumsum(dim=0)
    precision, recall = hits / torch.arange(1, len(hits) + 1), hits / wanted
    if best_from_here:
        precision = precision.flip(0).cummax(dim=0).values.flip(0)
    levels = torch.arange(levels, dtype=torch.float64) / 100
    return torch.cat([precision, torch.zeros(1)])[torch.searchsorted(recall, levels)].mean().item()


def right_ones(boxes, scores, scenes, true_boxes, true_scenes, once=True, next_best=True):
    free, right = torch.ones(len(true_boxes), dtype=torch.bool), []
    for i in scores.argsort(descending=True).tolist():
        allowed = (free | (not next_best)) & (true_scenes == scenes[i])
        iou = box_iou(boxes[i][None], true_boxes)[0].where(allowed, 0.0)
        right.append(bool(iou.max() >= 0.5 and (free[iou.argmax()] or not once)))
        if right[-1] and once:
            free[iou.argmax()] = False
    return torch.tensor(right)


def unsorted(boxes, scores, scenes, true_boxes, true_scenes):
    return ap50.reference(boxes, torch.linspace(1, 0.5, len(scores)), scenes, true_boxes, true_scenes)


def several_scenes():
    """Three scenes, seven objects; eleven answers: right, a bit or far off, twice, in the wrong scene."""
    places = torch.tensor([[0.0, 0, 0.2, 0.3], [0.3, 0.3, 0.6, 0.5], [0.7, 0.7, 1, 0.9], [0, 0.6, 0.3, 1]])
    which = torch.tensor([0, 1, 1, 2, 3, 0, 1, 2, 3, 2, 0])
    scenes = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 1, 2])
    off = 0.02 * torch.rand(11, 4) + torch.tensor([0, 0, 0, 0.3, 0, 0, 0.2, 0, 0, 0, 0])[:, None]
    true, true_scenes = torch.tensor([0, 1, 2, 0, 3, 2, 1]), torch.tensor([0, 0, 0, 1, 1, 2, 2])
    return (places[which] + off).clamp(0, 1), torch.rand(11), scenes, places[true], true_scenes


def close_calls():
    """Two objects that overlap by 0.6, in three scenes; what is taken first decides the second answer."""
    left, right = [0.125, 0, 0.625, 0.5], [0.25, 0, 0.75, 0.5]
    found = [right, [0, 0, 0.5, 0.5], left, [0.15625, 0, 0.65625, 0.5], left, [0.375, 0, 0.875, 0.5],
             [0.5, 0.5, 0.75, 0.75]]
    true = torch.tensor([left, right] * 3 + [[0.5, 0.5, 0.75, 1]])                       # the last: IoU 0.5
    return (torch.tensor(found), torch.tensor([0.9, 0.8, 0.95, 0.6, 0.85, 0.7, 0.5]),
            torch.tensor([0, 0, 1, 1, 2, 2, 3]), true, torch.tensor([0, 0, 1, 1, 2, 2, 3]))


@exercise(
    cases=lambda: [(torch.tensor([[0.5, 0.5, 1, 1], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.4]]),
                    torch.tensor([0.7, 0.9, 0.8]), torch.tensor([1, 0, 0]),
                    torch.tensor([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]), torch.tensor([0, 1])),
                   several_scenes(), close_calls(),
                   # The surest answer is wrong, in a scene without objects.
                   (torch.tensor([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]), torch.tensor([0.9, 0.8]),
                    torch.tensor([1, 0]), torch.tensor([[0.5, 0.5, 1, 1]]), torch.tensor([0]))],
    mistakes={
        "an object may be taken twice, so a duplicate counts as right; mark each object that is taken.":
            lambda *case: ap_of(right_ones(*case, once=False), len(case[3])),
        "the scenes are ignored: an answer may only take an object of its own scene.":
            lambda boxes, scores, scenes, true, true_scenes:
                ap_of(right_ones(boxes, scores, 0 * scenes, true, 0 * true_scenes), len(true)),
        "the answers are counted in the order in which they come; go from the surest to the least sure, "
        "over all scenes.":
            unsorted,
        "the precision at a recall is the one right there; take the best from there on, up to the "
        "last answer.":
            lambda *case: ap_of(right_ones(*case), len(case[3]), best_from_here=False),
        "the right answers are divided by the number of objects found; divide by the number of all true "
        "boxes.":
            lambda *case: ap_of(right_ones(*case), right_ones(*case).sum()),
        "an answer whose best box is taken counts as wrong; it may still take another free one that it "
        "overlaps enough.":
            lambda *case: ap_of(right_ones(*case, next_best=False), len(case[3])),
        "these are 100 recalls, 0 to 0.99; 1 belongs to them, as number 101 (arange stops before its end).":
            lambda *case: ap_of(right_ones(*case), len(case[3]), levels=100),
    })
def ap50(boxes, scores, scenes, true_boxes, true_scenes):
    found = in_scenes(scenes, boxes, torch.zeros(len(boxes), dtype=torch.int64), scores)
    truth = in_scenes(true_scenes, true_boxes, torch.zeros(len(true_boxes), dtype=torch.int64))
    return average_precision(found, truth, num_classes=1, thresholds=(0.5,)).item()
