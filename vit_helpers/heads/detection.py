"""An object detector: learned query tokens run with the patch tokens, and each says what it found, and where."""

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import nn

from .. import arguments
from ..data import normalize
from ..model import interpolate_positions
from ..runtime import in_eval_mode


def middles_of(grid):
    """The middles of the cells of a grid (rows, columns), in reading order: x and y from 0 to 1, float32 (cells, 2)."""
    y, x = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in grid), indexing="ij")
    return torch.stack([x, y], dim=2).reshape(-1, 2)


class Detector(nn.Module):
    """Images (B, C, H, W) -> for each of Q queries its logits (B, Q, K + 1), the last one "nothing", and box (B, Q, 4).

    Fang et al. 2021 (YOLOS): the queries are more tokens of the same encoder, any VisionTransformer. queries: (rows, columns)
    of the grid on which they start; each has the position of its place and looks for the box's middle from there (Wang et al.
    2022, Anchor DETR). Boxes are left, top, right, bottom as shares of the image's sides.
    Raises ValueError for a grid without queries.
    """

    def __init__(self, encoder, queries=(4, 4)):
        super().__init__()
        arguments.device_of(encoder, arguments.VIT)
        arguments.grid(queries=queries)
        self.encoder, Q = encoder, queries[0] * queries[1]
        D, K = encoder.norm.normalized_shape[0], encoder.config["num_classes"]
        self.register_buffer("anchors", middles_of(queries), persistent=False)           # where each query starts, (Q, 2)
        places = torch.zeros(Q, D)
        if encoder.pos_embed is not None:                # the patches' positions, stretched to the grid of the queries
            patches = encoder.pos_embed.detach()[:, -encoder.grid[0] * encoder.grid[1]:]
            places = interpolate_positions(patches, encoder.grid, queries)[0]
        self.queries = nn.Parameter(places + 0.02 * torch.randn(Q, D))
        self.label = nn.Linear(D, K + 1)
        self.box = nn.Sequential(nn.Linear(D, D), nn.GELU(), nn.Linear(D, 4))
        for layer in (self.label, self.box[2]):          # at first: nothing anywhere, boxes of a quarter at the anchors
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.label.bias[K] = 4.0
            self.box[2].bias[2:] = -1.1

    def forward(self, images, patches=False):
        """Logits and boxes of the queries; with patches=True also those of all patches, by the same heads: (B, N, ...)."""
        x = torch.cat([self.encoder.embed(images), self.queries.expand(len(images), -1, -1)], dim=1)
        x = self.encoder.drop(x)                                                         # (B, [1 +] N + Q, D)
        for block in self.encoder.blocks:
            x = block(x)
        x, Q, middles = self.encoder.norm(x), len(self.anchors), self.patch_middles.to(x.device)
        answers = self._read(x[:, -Q:], self.anchors)
        return (*answers, *self._read(x[:, -Q - len(middles):-Q], middles)) if patches else answers

    @property
    def patch_middles(self):
        """Where each patch stands, x and y from 0 to 1: float32 (N, 2), on the CPU."""
        return middles_of(self.encoder.grid)

    def _read(self, tokens, middles):
        shift, size = self.box(tokens).float().chunk(2, dim=2)                           # each (B, Q, 2)
        middle, size = (middles.logit() + shift).sigmoid(), size.sigmoid()
        return self.label(tokens).float(), torch.cat([middle - size / 2, middle + size / 2], dim=2)


def overlap(a, b):
    """IoU and GIoU of boxes a and b, float (..., 4), which broadcast: two tensors (...).

    IoU: the shared area over the area of both. GIoU (Rezatofighi et al. 2019) takes off the share of the smallest box around
    both that neither fills: it says how far apart two boxes are that share nothing, down to -1.
    Raises ValueError for boxes whose shapes do not go together.
    """
    arguments.shaped("... 4", "float", a=a, b=b)
    arguments.together(a=a, b=b)
    if any(m != n and 1 not in (m, n) for m, n in zip(a.shape[::-1], b.shape[::-1], strict=False)):
        raise ValueError(f"boxes {tuple(a.shape)} do not go with boxes {tuple(b.shape)}; give as many, or one for all")
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(dim=-1)
    around = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(dim=-1)
    both = (a[..., 2:] - a[..., :2]).prod(dim=-1) + (b[..., 2:] - b[..., :2]).prod(dim=-1) - shared
    iou = shared / both.clamp(min=1e-12)
    return iou, iou - (around - both) / around.clamp(min=1e-12)


def match(logits, boxes, true_classes, true_boxes):
    """Which object each query of a scene answers for: the object's number, or -1 for none, int64 (Q,).

    Of all ways to give each object one query of its own, the cheapest in sum ("Hungarian matching", Carion et al. 2020). A pair
    costs 5 * L1 + 2 * (1 - GIoU) - the query's probability of the object's class. logits (Q, K + 1), boxes (Q, 4); true classes
    int64 (k,) and boxes (k, 4), k at most Q. All on the CPU. Raises ValueError for shapes, classes and numbers that cannot be.
    """
    arguments.tensor("Q K+1", "float", logits=logits)
    arguments.tensor(f"{len(logits)} 4", "float", boxes=boxes)
    arguments.tensor("k", "whole", true_classes=true_classes)
    arguments.tensor(f"{len(true_classes)} 4", "float", true_boxes=true_boxes)
    arguments.in_range(0, logits.shape[1] - 2, true_classes=true_classes)
    if len(true_classes) > len(logits):
        raise ValueError(f"{len(true_classes)} objects are more than the {len(logits)} queries; give fewer")
    far = (boxes[:, None] - true_boxes).abs().sum(dim=2)                                 # (Q, k)
    apart = 1 - overlap(boxes[:, None], true_boxes)[1]                                   # (Q, k)
    cost = 5 * far + 2 * apart - logits.softmax(dim=1)[:, true_classes.long()]           # (Q, k)
    if not cost.isfinite().all():
        raise ValueError(f"a match would cost {cost[~cost.isfinite()][0]}: nan, inf or huge numbers in the logits or boxes")
    queries, objects = linear_sum_assignment(cost.numpy(force=True))
    return torch.full((len(logits),), -1).scatter(0, torch.from_numpy(queries), torch.from_numpy(objects))


def standing_on(middles, true_boxes):
    """The number of the object on which each point x, y (N, 2) stands, or -1: int64 (N,)."""
    arguments.tensor("n 2", "float", middles=middles)
    arguments.tensor("k 4", "float", true_boxes=true_boxes)
    arguments.no_nan(middles=middles, true_boxes=true_boxes)
    inside = ((middles[:, None] >= true_boxes[:, :2]) & (middles[:, None] < true_boxes[:, 2:])).all(dim=2)       # (N, k)
    return (inside * torch.arange(1, len(true_boxes) + 1)).sum(dim=1) - 1            # objects do not overlap


def detection_loss(logits, boxes, true_classes, true_boxes, owners=None, nothing=1.0):
    """The loss of B scenes: mean cross-entropy of all queries + mean 5 * L1 + 2 * (1 - GIoU) of those with an object.

    logits (B, Q, K + 1), boxes (B, Q, 4); for each scene true classes int64 (k,) and boxes (k, 4), k may be 0. owners: for each
    scene the object each query answers for, or -1, int64 (Q,); without them `match` decides. Who has no object must say
    "nothing"; such an answer counts `nothing` as much as others. Carion et al. 2020, equation 2.
    Raises ValueError for truths that do not fit together, and for more objects than queries.
    """
    arguments.tensor("N Q K+1", "float", logits=logits)
    arguments.tensor(f"{len(logits)} {logits.shape[1]} 4", "float", boxes=boxes)
    arguments.number(0, nothing=nothing)
    _check_some_class(logits)
    nothing = float(nothing)
    (B, Q, K), device = (logits.shape[0], logits.shape[1], logits.shape[2] - 1), logits.device
    check_truths(true_classes, true_boxes, B, K, Q if owners is None else None)
    if owners is None:
        cpu = logits.detach().cpu(), boxes.detach().cpu()                                # SciPy works there; one move
        owners = [match(*scene) for scene in zip(*cpu, true_classes, true_boxes, strict=True)]
    else:
        _check_owners(owners, true_classes, Q)
    owner, counts = torch.stack(list(owners)), torch.tensor([len(c) for c in true_classes])      # (B, Q), (B,)
    scene, query = (owner >= 0).nonzero(as_tuple=True)                                   # of the M answers with an object
    number = (counts.cumsum(0) - counts)[scene] + owner[scene, query]                    # in the list of all objects
    target = torch.full((B, Q), K)
    target[scene, query] = torch.cat(list(true_classes))[number]
    weight = torch.ones(K + 1, device=device)
    weight[K] = nothing
    named = F.cross_entropy(logits.float().flatten(0, 1), target.flatten().to(device), weight)
    placed, wanted = boxes[scene, query].float(), torch.cat(list(true_boxes))[number].to(device)        # (M, 4) each
    off = 5 * (placed - wanted).abs().sum() + 2 * (1 - overlap(placed, wanted)[1]).sum()
    return named + off / max(1, len(wanted))


def check_truths(classes, boxes, scenes, num_classes, most=None):
    """Raises ValueError unless the classes (k,) and boxes (k, 4) of each scene fit together and are at most `most`."""
    for name, value in (("classes", classes), ("boxes", boxes)):
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{name} must be a list with a tensor for each scene, not {arguments.told(value)}")
    if not len(classes) == len(boxes) == scenes:
        raise ValueError(f"{scenes} scenes need as many lists of classes and of boxes, not {len(classes)} and {len(boxes)}")
    for i, (c, b) in enumerate(zip(classes, boxes, strict=True)):
        arguments.tensor("k", "whole", **{f"classes of scene {i}": c})
        arguments.tensor("...", **{f"boxes of scene {i}": b})
        arguments.real(**{f"boxes of scene {i}": b})
        if b.shape != (len(c), 4):
            raise ValueError(f"scene {i} has {len(c)} classes, so its boxes must be ({len(c)}, 4), not {tuple(b.shape)}")
        if most is not None and len(c) > most:
            raise ValueError(f"scene {i} has {len(c)} objects, more than the {most} queries; choose a Detector with at least "
                             f"{len(c)} queries")
    if sum(map(len, classes)):
        c, b = torch.cat(list(classes)), torch.cat(list(boxes))
        if not ((c >= 0) & (c < num_classes)).all():
            raise ValueError(f"classes must be 0 to {num_classes - 1}, not {c.min().item()} to {c.max().item()}")
        if not ((b[:, :2] < b[:, 2:]).all() and (b >= 0).all() and (b <= 1).all()):
            wrong = b[~((b[:, :2] < b[:, 2:]).all(dim=1) & ((b >= 0) & (b <= 1)).all(dim=1))][0].tolist()
            raise ValueError("boxes must be left, top, right, bottom from 0 to 1, with left < right and top < bottom, not "
                             f"{wrong}; divide pixels by the side of the image")


def _check_some_class(logits):
    if logits.shape[-1] < 2:
        raise ValueError(f"logits {tuple(logits.shape)} know no class but 'nothing'; give one for each class, and one more")


def _check_owners(owners, classes, queries):
    """Raises TypeError or ValueError unless each scene's queries answer for objects that it has, or for none (-1)."""
    if not isinstance(owners, (list, tuple)) or len(owners) != len(classes):
        raise ValueError(f"owners must be a list of {len(classes)} tensors, one for each scene, not "
                         f"{len(owners) if isinstance(owners, (list, tuple)) else arguments.told(owners)}")
    for i, (owner, c) in enumerate(zip(owners, classes, strict=True)):
        arguments.tensor(str(queries), torch.int64, **{f"owners of scene {i}": owner})
        arguments.in_range(-1, len(c) - 1, **{f"owners of scene {i}": owner})


def findings(logits, boxes, least=0.0):
    """The answers of B images (B, Q, K + 1) and (B, Q, 4) in plain words: for each boxes (m, 4), classes (m,), scores (m,).

    Each query says at most one thing: its most probable class, with that probability as score. The surest come first; answers
    below `least` are left out. On the CPU, boxes cut at the borders of the image.
    """
    arguments.tensor("B Q K+1", "float", logits=logits)
    arguments.tensor(f"{len(logits)} {logits.shape[1]} 4", "float", boxes=boxes)
    arguments.no_nan(logits=logits, boxes=boxes)
    _check_some_class(logits)
    arguments.number(least=least)
    scores, classes = logits.detach().cpu().softmax(dim=2)[..., :-1].max(dim=2)          # "nothing" is no finding
    found = []
    for box, kind, score in zip(boxes.detach().cpu().clamp(0, 1), classes, scores, strict=True):
        order = score.argsort(descending=True, stable=True)[:int((score >= least).sum())]
        found.append((box[order], kind[order], score[order]))
    return found


def detect(model, images, least=0.0, batch=256):
    """What a Detector finds in images uint8 (n, 3, H, W), for each image boxes, classes, scores as in `findings`."""
    device = arguments.device_of(model, ("anchors",))
    arguments.tensor("B C H W", images=images)
    arguments.whole(1, batch=batch)
    parts = images.split(int(batch)) if len(images) else ()
    return in_eval_mode(model, lambda: [of_one for part in parts
                                        for of_one in findings(*model(normalize(part).to(device)), least)])
