"""How good a classifier is: accuracy, per-class figures, confusion matrix, calibration; and what is familiar to it."""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from . import arguments
from .data import batches, eight_views
from .distributed import of_all, processes, rank
from .runtime import in_eval_mode


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: `logits` float32 (N, K) and `labels` int64 (N,), on the CPU, and the `classes` by name."""

    logits: torch.Tensor
    labels: torch.Tensor
    classes: tuple

    def __post_init__(self):
        arguments.tensor("N K", "float", logits=self.logits)
        arguments.no_nan(logits=self.logits)
        arguments.tensor(str(len(self.logits)), torch.int64, labels=self.labels)
        arguments.in_range(0, self.logits.shape[1] - 1, labels=self.labels)
        arguments.names(self.logits.shape[1], classes=self.classes)

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
        return F.cross_entropy(self.logits, self.labels).item()

    @property
    def confusion(self):
        """Counts, int64 (K, K): row = true class, column = predicted class."""
        return confusion_counts(self.labels, self.predictions, len(self.classes))

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
        arguments.whole(1, bins=bins)
        confidence, predictions = self.probabilities.max(dim=1)
        bin_of = (confidence * bins).long().clamp(max=bins - 1)
        count = torch.bincount(bin_of, minlength=bins)
        mean = [torch.bincount(bin_of, weights=values.double(), minlength=bins) / count
                for values in (confidence, predictions == self.labels)]
        return count, *mean

    def calibration_error(self, bins=15):
        """Expected calibration error, 0 to 1: the mean distance of accuracy and confidence in the bins, by their counts."""
        count, confidence, accuracy = self.calibration(bins)
        return ((count * (confidence - accuracy).abs()).nan_to_num().sum() / count.sum()).item()

    def at_temperature(self, temperature):
        """The same answers with logits divided by `temperature`, a number above 0: below 1 surer, above 1 less sure."""
        arguments.above(0, temperature=temperature)
        return replace(self, logits=self.logits / temperature)

    def best_temperature(self):
        """The temperature that makes the loss smallest, a float. Found on validation tiles, it serves all others.

        Guo et al. 2017, section 4.2. The loss is convex in 1 / temperature: there is one best value; 0.01 to 100 is searched.
        """
        low, high = math.log(0.01), math.log(100)            # of 1 / temperature
        right = self.logits.double().gather(1, self.labels[:, None]).mean()
        while high - low > 1e-6:                             # halve the interval that holds the zero of the slope
            middle = (low + high) / 2
            expected = ((self.logits.double() * math.exp(middle)).softmax(dim=1) * self.logits).sum(dim=1).mean()
            low, high = (middle, high) if expected < right else (low, middle)
        return math.exp(-(low + high) / 2)

    def __str__(self):
        rows = [f"accuracy {self.accuracy:.1%} on {len(self.labels):,} images", f"{'':22}precision  recall    f1  images"]
        numbers = zip(self.classes, *self.per_class.values(), strict=True)
        rows += [f"{name:22}{p:9.1%}{r:8.1%}{f:6.3f}{n:8,}" for name, p, r, f, n in numbers]
        return "\n".join(rows)


def confusion_counts(labels, predictions, num_classes):
    """How often each class was taken for each: int64 (K, K), row = true, column = predicted. Both int64, of any equal shape.

    Raises ValueError for other shapes and for classes that do not exist.
    """
    arguments.whole(1, num_classes=num_classes)
    arguments.tensor("...", "whole", labels=labels, predictions=predictions)
    labels, predictions = labels.long(), predictions.long()      # numbers of 8 bits would run over
    if labels.shape != predictions.shape:
        raise ValueError(f"{tuple(labels.shape)} labels do not go with {tuple(predictions.shape)} predictions; "
                         "give one prediction for each label")
    for name, values in (("labels", labels), ("predictions", predictions)):
        if values.numel() and not (values.min() >= 0 and values.max() < num_classes):
            raise ValueError(f"{name} run from {values.min()} to {values.max()}; {num_classes} classes are numbered 0 to "
                             f"{num_classes - 1}")
    counts = torch.bincount((labels * num_classes + predictions).flatten(), minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def check_classes(logits, tiles):
    """Raise ValueError unless `logits` (B, K) have one column for each class of the tiles."""
    if logits.shape[1:] != (len(tiles.classes),):
        raise ValueError(f"the model gives {tuple(logits.shape[1:])} logits for each image, the tiles have "
                         f"{len(tiles.classes)} classes; build it with num_classes={len(tiles.classes)}")


def evaluate(model, tiles, batch_size=256, *, views=1):
    """Evaluation of `model` on Tiles, in eval mode and float32, on the device of the model; the mode is put back.

    With views=8 the probabilities are averaged over the flips and transposes of each tile (`eight_views`), for eight times the
    work; the Evaluation's logits are then the logarithms of these averages.
    Several processes (see distributed.joined) share the work: then all of them have to call this.
    Raises ValueError for no tiles, a model whose number of logits is not the number of classes, other numbers of views.
    """
    device = arguments.device_of(model)
    arguments.tiles(tiles=tiles)
    arguments.whole(1, batch_size=batch_size)
    if not len(tiles):
        raise ValueError("there are no tiles to evaluate on; the Tiles are empty")
    if views not in (1, 8):
        raise ValueError(f"views={views!r} is unknown; choose 1 (each tile as it is) or 8 (all its flips and transposes)")
    mine = tiles if processes() == 1 else tiles.select(torch.arange(len(tiles)).tensor_split(processes())[rank()])

    def logits_of(images):
        images = images.to(device)
        seen = torch.stack([model(view).float() for view in ([images] if views == 1 else eight_views(images))])
        # One view: its logits. Several, (V, B, K): log of the mean probability.
        return seen[0] if views == 1 else seen.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(seen))

    logits = in_eval_mode(model, lambda: [logits_of(images) for images, _ in batches(mine, batch_size)])
    logits = [part.cpu() for share in of_all(logits) for part in share]                  # in the order of the tiles
    logits = torch.cat(logits)                                                           # (N, K)
    check_classes(logits, tiles)
    return Evaluation(logits, tiles.labels.cpu(), tiles.classes)


def pooled_features(model, tiles, batch_size=256):
    """What the head sees of each tile, float32 (N, D), on the CPU: computed once, it makes training a head cheap.

    In eval mode, on the device of the model. Raises ValueError for no tiles, or tiles of another size than the model's.
    """
    device = arguments.device_of(model, arguments.VIT)
    arguments.tiles(tiles=tiles)
    arguments.whole(1, batch_size=batch_size)
    if not len(tiles):
        raise ValueError("there are no tiles to look at; the Tiles are empty")
    features = in_eval_mode(model, lambda: [model.pooled(model.forward_features(images.to(device))).float().cpu()
                                            for images, _ in batches(tiles, batch_size)])
    return torch.cat(features)


def class_means(features, labels, num_classes):
    """The mean of the features (N, D) of each class by labels int64 (N,): (K, D). Raises ValueError for a class without any."""
    arguments.whole(1, num_classes=num_classes)
    arguments.tensor("N D", "float", features=features)
    arguments.tensor(str(len(features)), "whole", labels=labels)
    arguments.in_range(0, num_classes - 1, labels=labels)
    count = torch.bincount(labels, minlength=num_classes)
    if not count.all():
        raise ValueError(f"class {count.argmin().item()} has no features to average; give some of each class")
    return features.new_zeros(num_classes, features.shape[1]).index_add_(0, labels.long(), features) / count[:, None]


def familiarity(features, means):
    """The cosine, -1 to 1, of features (n, D) with the nearest of the class means (K, D): (n,)."""
    arguments.tensor("n D", "float", features=features)
    arguments.tensor(f"K {features.shape[1]}", "float", means=means)
    return (F.normalize(features, dim=1) @ F.normalize(means.to(features), dim=1).T).amax(dim=1)
