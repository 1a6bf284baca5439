"""How good a classifier is: accuracy, per-class figures, confusion matrix, calibration."""

import math
from dataclasses import dataclass

import torch

from .data import batches, eight_views


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: `logits` float32 (N, K) and `labels` int64 (N,), on the CPU, and the `classes` by name."""

    logits: torch.Tensor
    labels: torch.Tensor
    classes: tuple

    @property
    def probabilities(self):
        """Softmax of the logits, float32 (N, K), rows sum to 1."""
        return self.logits.softmax(dim=1)

    @property
    def predictions(self):
        """The most probable class of each image, int64 (N,)."""
        return self.logits.argmax(dim=1)

    @property
    def accuracy(self):
        """Share of right predictions, 0 to 1."""
        return (self.predictions == self.labels).float().mean().item()

    @property
    def loss(self):
        """Mean cross-entropy in nats; a uniform guess has ln(K)."""
        return torch.nn.functional.cross_entropy(self.logits, self.labels).item()

    @property
    def confusion(self):
        """Counts, int64 (K, K): row = true class, column = predicted class."""
        K = len(self.classes)
        return torch.bincount(self.labels * K + self.predictions, minlength=K * K).reshape(K, K)

    @property
    def per_class(self):
        """precision, recall, f1 (0 to 1) and support (a count), each a tensor (K,); 0 where nothing was predicted."""
        right, true, said = self.confusion.diagonal(), self.confusion.sum(dim=1), self.confusion.sum(dim=0)
        return {"precision": right / said.clamp(min=1), "recall": right / true.clamp(min=1),
                "f1": 2 * right / (true + said).clamp(min=1), "support": true}

    def calibration(self, bins=10):
        """Confidence against accuracy by equal bins of the top probability: (count, confidence, accuracy), each (bins,).

        Empty bins hold nan. Guo et al. 2017, "On calibration of modern neural networks".
        """
        confidence, predictions = self.probabilities.max(dim=1)
        bin_of = (confidence * bins).long().clamp(max=bins - 1)
        count = torch.bincount(bin_of, minlength=bins)
        mean = [torch.bincount(bin_of, weights=values.double(), minlength=bins) / count
                for values in (confidence, predictions == self.labels)]
        return count, *mean

    def __str__(self):
        rows = [f"accuracy {self.accuracy:.1%} on {len(self.labels):,} images", f"{'':22}precision  recall    f1  images"]
        numbers = zip(self.classes, *self.per_class.values(), strict=True)
        rows += [f"{name:22}{p:9.1%}{r:8.1%}{f:6.3f}{n:8,}" for name, p, r, f, n in numbers]
        return "\n".join(rows)


def check_classes(logits, tiles):
    """Raise ValueError unless `logits` (B, K) have one column for each class of the tiles."""
    if logits.shape[1:] != (len(tiles.classes),):
        raise ValueError(f"the model gives {tuple(logits.shape[1:])} logits for each image, the tiles have "
                         f"{len(tiles.classes)} classes; build it with num_classes={len(tiles.classes)}")


@torch.no_grad()
def evaluate(model, tiles, batch_size=256, *, views=1):
    """Evaluation of `model` on Tiles, in eval mode and float32, on the device of the model; the mode is put back.

    With views=8 the probabilities are averaged over the flips and transposes of each tile (`eight_views`), for eight times the
    work; the Evaluation's logits are then the logarithms of these averages.
    Raises ValueError for no tiles, a model whose number of logits is not the number of classes, other numbers of views.
    """
    if not len(tiles):
        raise ValueError("there are no tiles to evaluate on; the Tiles are empty")
    if views not in (1, 8):
        raise ValueError(f"views={views!r} is unknown; choose 1 (each tile as it is) or 8 (all its flips and transposes)")
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        logits = []
        for images, _ in batches(tiles, batch_size):
            images = images.to(device)
            seen = torch.stack([model(view).float() for view in ([images] if views == 1 else eight_views(images))])
            # One view: its logits. Several, (V, B, K): log of the mean probability.
            logits.append(seen[0] if views == 1 else seen.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(seen)))
    finally:
        model.train(was_training)
    logits = torch.cat(logits).cpu()                                                     # (N, K)
    check_classes(logits, tiles)
    return Evaluation(logits, tiles.labels.cpu(), tiles.classes)
