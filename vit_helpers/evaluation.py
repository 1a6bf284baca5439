"""How good a classifier is: answers, figures by class, confusion, calibration; and what is familiar to it."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from .data import Tiles, batches, dihedral_views
from .pretrained import load_pretrained
from .runtime import eval_mode


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: `logits` float32 (N, K), `labels` int64 (N,), on the CPU; `classes` by name.

    And of these: `probabilities` (N, K), `predictions` int64 (N,), `accuracy` 0 to 1, `loss` (cross-entropy,
    nats), `confusion` int64 (K, K): how often each class, by row, was taken for each, by column.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    classes: tuple

    @property
    def probabilities(self):
        return self.logits.softmax(dim=1)

    @property
    def predictions(self):
        return self.logits.argmax(dim=1)

    @property
    def accuracy(self):
        return (self.predictions == self.labels).float().mean().item()

    @property
    def loss(self):
        return F.cross_entropy(self.logits, self.labels).item()

    @property
    def confusion(self):
        return confusion_counts(self.labels, self.predictions, len(self.classes))

    @property
    def per_class(self):
        """precision, recall, f1 (0 to 1) and support (a count), each (K,); 0 where nothing was predicted."""
        right, true, said = self.confusion.diagonal(), self.confusion.sum(dim=1), self.confusion.sum(dim=0)
        return {"precision": right / said.clamp(min=1), "recall": right / true.clamp(min=1),
                "f1": 2 * right / (true + said).clamp(min=1), "support": true}

    def calibration(self, bins=10):
        """Count, confidence, accuracy (nan if empty) in equal bins of the top probability, each (bins,)."""
        confidence, predictions = self.probabilities.max(dim=1)
        bin_of = (confidence * bins).long().clamp(max=bins - 1)
        count = torch.bincount(bin_of, minlength=bins)
        mean = [torch.bincount(bin_of, weights=values.double(), minlength=bins) / count
                for values in (confidence, predictions == self.labels)]
        return count, *mean

    def calibration_error(self, bins=15):
        """Expected calibration error, 0 to 1: mean distance of accuracy and confidence, weighted by count."""
        count, confidence, accuracy = self.calibration(bins)
        return ((count * (confidence - accuracy).abs()).nan_to_num().sum() / count.sum()).item()

    def at_temperature(self, temperature):
        """The same answers with logits divided by `temperature` > 0: below 1 surer, above 1 less sure."""
        return replace(self, logits=self.logits / temperature)

    def best_temperature(self):
        """The temperature, 0.01 to 100, with the smallest loss, which is convex in 1 / temperature."""
        low, high = math.log(0.01), math.log(100)        # of 1 / temperature
        right = self.logits.double().gather(1, self.labels[:, None]).mean()
        while high - low > 1e-6:                         # halve the interval that holds the zero of the slope
            middle = (low + high) / 2
            said = (self.logits.double() * math.exp(middle)).softmax(dim=1)
            expected = (said * self.logits).sum(dim=1).mean()
            low, high = (middle, high) if expected < right else (low, middle)
        return math.exp(-(low + high) / 2)

    def __str__(self):
        rows = [f"accuracy {self.accuracy:.1%} on {len(self.labels):,} images",
                f"{'':22}precision  recall    f1  images"]
        numbers = zip(self.classes, *self.per_class.values(), strict=True)
        rows += [f"{name:22}{p:9.1%}{r:8.1%}{f:6.3f}{n:8,}" for name, p, r, f, n in numbers]
        return "\n".join(rows)


def confusion_counts(labels, predictions, num_classes):
    """How often each class was taken for each: int64 (K, K), row = true, column = predicted."""
    assert labels.shape == predictions.shape and predictions.max() < num_classes, "one class for each label"
    counts = torch.bincount((labels.long() * num_classes + predictions).flatten(), minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def check_classes(logits, tiles):
    """Raise ValueError unless `logits` (B, K) have one column for each class of the tiles."""
    if logits.shape[1:] != (len(tiles.classes),):
        raise ValueError(f"the model gives {tuple(logits.shape[1:])} logits for each image, the tiles have "
                         f"{len(tiles.classes)} classes; build it with num_classes={len(tiles.classes)}")


def check_tiles(tiles):
    """Raise TypeError for anything but Tiles, ValueError for none, in a sentence that names the next step."""
    if not isinstance(tiles, Tiles):
        raise TypeError(f"this takes Tiles, not {type(tiles).__name__}; use Tiles.from_folder(folder) for "
                        "pictures of your own, or Tiles(images, labels, classes) for tensors")
    if not len(tiles):
        raise ValueError("there are no tiles; give at least one")


def answers(function, model, tiles, batch_size):
    """`function` of all images, batch by batch, in eval mode on the model's device; float32 on the CPU."""
    check_tiles(tiles)
    device = next(model.parameters()).device
    with eval_mode(model), torch.no_grad():
        parts = [function(images.to(device)).float().cpu() for images, _ in batches(tiles, batch_size)]
    return torch.cat(parts)


def evaluate(model, tiles, batch_size=256, *, views=1):
    """Evaluation of `model`, or of weights (see `load_pretrained`), on Tiles, in float32, on its device.

    With views=8 probabilities are averaged over each tile's flips and transposes (`dihedral_views`), and the
    logits are their logarithms. Raises TypeError for other data than Tiles, ValueError for none of them, for
    other views, and for another number of logits than classes.
    """
    if views not in (1, 8):
        raise ValueError(f"views={views!r} is neither 1 nor 8, for all flips and transposes")
    model = load_pretrained(model) if isinstance(model, (str, Path)) else model

    def logits_of(images):
        if views == 1:
            return model(images)
        seen = torch.stack([model(view).float() for view in dihedral_views(images)])             # (V, B, K)
        return seen.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(seen))

    logits = answers(logits_of, model, tiles, batch_size)
    check_classes(logits, tiles)
    return Evaluation(logits, tiles.labels.cpu(), tiles.classes)


def pooled_features(model, tiles, batch_size=256):
    """What the head sees of each tile, float32 (N, D), on the CPU; with it, training a head is cheap."""
    return answers(lambda images: model.pooled(model.forward_features(images)), model, tiles, batch_size)


def class_means(features, labels, num_classes):
    """The mean of the features (N, D) of each class, by labels int64 (N,): (K, D); nan without any."""
    count = torch.bincount(labels, minlength=num_classes)
    return features.new_zeros(num_classes, features.shape[1]).index_add_(0, labels, features) / count[:, None]


def familiarity(features, means):
    """The cosine, -1 to 1, of features (n, D) with the nearest of the class means (K, D): (n,)."""
    return (F.normalize(features, dim=1) @ F.normalize(means.to(features), dim=1).T).amax(dim=1)
