"""An object detector: learned query tokens run with the patch tokens; each says what it found, and where."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import nn
from torchvision.ops import box_iou, generalized_box_iou, generalized_box_iou_loss

from ..data import normalize
from ..embedding import interpolate_positions
from ..runtime import eval_mode

COCO = tuple(np.linspace(0.5, 0.95, 10).tolist())        # the IoU thresholds that COCO's AP is a mean over


def middles_of(grid):
    """The middles of the cells of a grid (rows, columns), row by row: x and y, 0 to 1, float32 (cells, 2)."""
    y, x = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in grid), indexing="ij")
    return torch.stack([x, y], dim=2).reshape(-1, 2)


class Detector(nn.Module):
    """Images (B, C, H, W) -> of Q queries logits (B, Q, K + 1), the last for "nothing", and boxes (B, Q, 4).

    Queries are more tokens of any VisionTransformer (Fang et al. 2021, YOLOS); each looks for the middle of a
    box from its place on a grid (rows, columns) (Wang et al. 2022). Boxes: left, top, right, bottom, 0 to 1.
    """

    def __init__(self, encoder, queries=(4, 4)):
        super().__init__()
        self.encoder, Q = encoder, queries[0] * queries[1]
        D, K = encoder.norm.normalized_shape[0], encoder.config["num_classes"]
        self.register_buffer("anchors", middles_of(queries), persistent=False)   # where queries start, (Q, 2)
        places = torch.zeros(Q, D)
        if encoder.pos_embed is not None:        # the patches' positions, stretched to the queries' grid
            patches = encoder.pos_embed.detach()[:, -encoder.grid[0] * encoder.grid[1]:]
            places = interpolate_positions(patches, encoder.grid, queries)[0]
        self.queries = nn.Parameter(places + 0.02 * torch.randn(Q, D).to(places))
        self.label = nn.Linear(D, K + 1)
        self.box = nn.Sequential(nn.Linear(D, D), nn.GELU(), nn.Linear(D, 4))
        for layer in (self.label, self.box[2]):  # first: nothing anywhere, boxes of a quarter at the anchors
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.label.bias.data[K] = 4.0
        self.box[2].bias.data[2:] = -1.1

    def forward(self, images, patches=False):
        """Logits and boxes of the queries; with patches=True also those of the patches, by the same heads."""
        x = torch.cat([self.encoder.embed(images), self.queries.expand(len(images), -1, -1)], dim=1)
        x = self.encoder.drop(x)                                                 # (B, [1 +] N + Q, D)
        for block in self.encoder.blocks:
            x = block(x)
        x, Q, middles = self.encoder.norm(x), len(self.anchors), self.patch_middles.to(x.device)
        answers = self._read(x[:, -Q:], self.anchors)
        return answers + self._read(x[:, -Q - len(middles):-Q], middles) if patches else answers

    @property
    def patch_middles(self):
        """The middle of each patch, x and y from 0 to 1: float32 (N, 2), on the CPU."""
        return middles_of(self.encoder.grid)

    def _read(self, tokens, middles):
        shift, size = self.box(tokens).float().chunk(2, dim=2)                   # each (B, Q, 2)
        middle, size = (middles.logit() + shift).sigmoid(), size.sigmoid()
        return self.label(tokens).float(), torch.cat([middle - size / 2, middle + size / 2], dim=2)


def match(logits, boxes, true_classes, true_boxes):
    """The object, or -1, that each query of a scene answers for, int64 (Q,), the cheapest way in sum.

    A pair costs 5 * L1 + 2 * (1 - GIoU) - the query's probability of the class (Carion et al. 2020). logits
    (Q, K + 1), boxes (Q, 4), true classes int64 (k,), boxes (k, 4), on the CPU. ValueError for k > Q.
    """
    if len(true_classes) > len(logits):
        raise ValueError(f"{len(true_classes)} objects need as many queries, not {len(logits)}; choose more")
    far = (boxes[:, None] - true_boxes).abs().sum(dim=2)                         # (Q, k)
    apart = 1 - generalized_box_iou(boxes, true_boxes)                           # (Q, k)
    cost = 5 * far + 2 * apart - logits.softmax(dim=1)[:, true_classes]          # (Q, k)
    queries, objects = map(torch.from_numpy, linear_sum_assignment(cost.numpy(force=True)))
    return torch.full((len(logits),), -1).scatter(0, queries, objects)


def object_at(points, true_boxes):
    """The number of the object at each point x, y (n, 2), or -1: int64 (n,). Boxes (k, 4) do not overlap."""
    inside = (points[:, None] >= true_boxes[:, :2]) & (points[:, None] < true_boxes[:, 2:])  # (n, k, 2)
    return (inside.all(dim=2) * torch.arange(1, len(true_boxes) + 1)).sum(dim=1) - 1


def detection_loss(logits, boxes, true_classes, true_boxes, owners=None, nothing=1.0):
    """Mean cross-entropy of all queries of B scenes + mean 5 * L1 + 2 * (1 - GIoU) of those with an object.

    logits (B, Q, K + 1), boxes (B, Q, 4); of each scene true classes int64 (k,) and boxes (k, 4), k may be 0.
    owners: as from `match` for each scene. Queries without an object must say "nothing", which weighs
    `nothing`. Carion et al. 2020, equation 2. Raises ValueError for wrong truths.
    """
    K = logits.shape[2] - 1
    check_truths(true_classes, true_boxes, K)
    if owners is None:
        cpu = logits.detach().cpu(), boxes.detach().cpu()                        # SciPy works there; one move
        owners = [match(*scene) for scene in zip(*cpu, true_classes, true_boxes, strict=True)]
    target, wanted = torch.full(logits.shape[:2], K), []
    for row, owner, c, b in zip(target, owners, true_classes, true_boxes, strict=True):
        row[owner >= 0] = c[owner[owner >= 0]]
        wanted.append(b[owner[owner >= 0]])
    weight = torch.tensor([1.0] * K + [nothing], device=logits.device)
    named = F.cross_entropy(logits.float().flatten(0, 1), target.flatten().to(logits.device), weight)
    placed, wanted = boxes[target < K].float(), torch.cat(wanted).to(boxes.device)       # (M, 4) each
    off = 5 * (placed - wanted).abs().sum() + 2 * generalized_box_iou_loss(placed, wanted, reduction="sum")
    return named + off / max(1, len(wanted))


def check_truths(classes, boxes, num_classes):
    """Raises ValueError for classes (k,) and boxes (k, 4) that would be wrong without anybody noticing."""
    for i, (c, b) in enumerate(zip(classes, boxes, strict=True)):
        if b.shape != (len(c), 4) or not ((c >= 0) & (c < num_classes)).all():
            raise ValueError(f"scene {i} has classes {c.tolist()} and boxes {tuple(b.shape)}; each class, "
                             f"0 to {num_classes - 1}, needs a box (4,)")
        if not ((b[:, :2] < b[:, 2:]).all() and (b >= 0).all() and (b <= 1).all()):
            raise ValueError(f"scene {i} has boxes {b.tolist()}; left < right and top < bottom must be 0 "
                             "to 1: divide pixels by the side of the image")


def findings(logits, boxes, least=0.0):
    """Each image's boxes (m, 4), classes (m,), scores (m,) >= least, surest first, on the CPU."""
    scores, classes = logits.detach().cpu().softmax(dim=2)[..., :-1].max(dim=2)  # "nothing" is no finding
    found = []
    for box, kind, score in zip(boxes.detach().cpu().clamp(0, 1), classes, scores, strict=True):
        order = score.argsort(descending=True, stable=True)[:(score >= least).sum()]
        found.append((box[order], kind[order], score[order]))
    return found


def detect(model, images, least=0.0, batch=256):
    """What a Detector finds in each of images uint8 (n, 3, H, W): boxes, classes, scores as in `findings`."""
    device, found = next(model.parameters()).device, []
    with eval_mode(model), torch.no_grad():
        for part in images.split(batch):
            found += findings(*model(normalize(part).to(device)), least)
    return found


def average_precision(detections, truths, num_classes, thresholds=COCO):
    """AP at each IoU threshold, float64 (T,), as COCO's: a mean over the classes that occur, NaN without any.

    detections: of each image boxes (m, 4), classes (m,), scores (m,); the 100 surest of a class count.
    truths: boxes (k, 4), classes (k,). Right is what reaches the threshold with a true box of its class that
    no surer detection took. `[0]` is AP50, `.mean()` COCO's AP.
    """
    check_truths([classes for _, classes in truths], [boxes for boxes, _ in truths], num_classes)
    curves = []
    for number in range(num_classes):
        right, scores, wanted = [], [], 0
        for (boxes, classes, sure), (true_boxes, true_classes) in zip(detections, truths, strict=True):
            mine, theirs = classes == number, true_boxes[true_classes == number].double()
            order = sure[mine].argsort(descending=True, stable=True)[:100]
            right.append(took_one(boxes[mine][order].double(), theirs, thresholds))
            scores.append(sure[mine][order])
            wanted += len(theirs)
        if wanted:
            order = torch.cat(scores).argsort(descending=True, stable=True)
            curves.append(area_under(torch.cat(right, dim=1)[:, order], wanted))
    return torch.stack(curves or [torch.full((len(thresholds),), torch.nan, dtype=torch.float64)]).mean(dim=0)


def took_one(boxes, true_boxes, thresholds):
    """Which boxes (m, 4), surest first, are right, bool (T, m): each takes the free true box of best IoU."""
    right, iou = torch.zeros(len(thresholds), len(boxes), dtype=torch.bool), box_iou(boxes, true_boxes)
    for t, least in enumerate(thresholds):
        free = torch.ones(len(true_boxes), dtype=torch.bool)
        for i in range(len(boxes) if len(true_boxes) else 0):
            best, taken = iou[i].where(free, -1.0).max(dim=0)
            if best >= least:
                right[t, i], free[taken] = True, False
    return right


def area_under(right, wanted):
    """Mean precision at recall 0, 0.01, ... 1 of answers right or wrong, surest first, bool (T, M): (T,)."""
    hits = right.double().cumsum(dim=1)
    precision = F.pad(hits / torch.arange(1, right.shape[1] + 1), (0, 1))        # where never reached: 0
    precision = precision.flip(1).cummax(dim=1).values.flip(1)                   # the best from here on
    levels = torch.from_numpy(np.linspace(0, 1, 101))    # NumPy's, as COCO's: torch's differ in the last bit
    return precision.gather(1, torch.searchsorted(hits / wanted, levels.repeat(len(right), 1))).mean(dim=1)
