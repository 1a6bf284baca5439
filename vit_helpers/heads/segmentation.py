"""Segmentation: a class for every pixel, from the tokens of a Vision Transformer; and how it is judged."""

import torch
import torch.nn.functional as F
from torch import nn

from .. import arguments
from ..data import normalize
from ..patches import pair, unpatchify
from ..runtime import in_eval_mode


class Segmenter(nn.Module):
    """Images (B, C, height, width) -> logits of each pixel (B, K, height, width), around any VisionTransformer as encoder.

    decoder="linear": one linear layer turns each token into K logits, which are stretched over the pixels (the linear baseline
    of Strudel et al. 2021, "Segmenter"). decoder="pixels": to these a small MLP adds what each token says about every single
    pixel of its patch (rearranged as in Shi et al. 2016, "Sub-pixel convolution"); it starts at zero, so training begins with
    the linear head. Raises ValueError for other decoders.
    """

    def __init__(self, encoder, num_classes=10, decoder="linear"):
        super().__init__()
        arguments.device_of(encoder, arguments.VIT)
        arguments.whole(1, num_classes=num_classes)
        if decoder not in ("linear", "pixels"):
            raise ValueError(f"decoder={decoder!r} is unknown; choose 'linear' or 'pixels'")
        self.encoder = encoder
        D, (height, width) = encoder.norm.normalized_shape[0], pair(encoder.config["patch_size"])
        self.coarse, self.fine = nn.Linear(D, num_classes), None
        if decoder == "pixels":
            self.fine = nn.Sequential(nn.Linear(D, 2 * D), nn.GELU(), nn.Linear(2 * D, num_classes * height * width))
            nn.init.zeros_(self.fine[2].weight)
            nn.init.zeros_(self.fine[2].bias)

    def forward(self, images):
        grid = self.encoder.grid
        tokens = self.encoder.forward_features(images)[:, -grid[0] * grid[1]:]           # (B, N, D), without CLS
        coarse = self.coarse(tokens).float().transpose(1, 2).unflatten(2, grid)          # (B, N, K) -> (B, K, rows, columns)
        logits = F.interpolate(coarse, images.shape[2:], mode="bilinear")                # (B, K, height, width)
        if self.fine is not None:
            painted = self.fine(tokens).float()                                          # (B, N, K * P * P)
            logits = logits + unpatchify(painted, self.encoder.config["patch_size"], grid)
        return logits


def segmentation_loss(logits, masks):
    """Cross-entropy, averaged over all pixels: logits (B, K, H, W), masks int64 (B, H, W) with classes 0 to K - 1; a scalar.

    Raises ValueError for masks of another size, and for classes that do not exist.
    """
    arguments.tensor("N K H W", "float", logits=logits)
    arguments.tensor("...", "whole", masks=masks)
    wanted = (len(logits), *logits.shape[2:])
    if masks.shape != wanted:
        raise ValueError(f"logits {tuple(logits.shape)} need masks of {wanted}, not {tuple(masks.shape)}")
    if masks.numel() and not (masks.min() >= 0 and masks.max() < logits.shape[1]):
        raise ValueError(f"masks hold classes {masks.min()} to {masks.max()}, but logits {tuple(logits.shape)} are for classes "
                         f"0 to {logits.shape[1] - 1}")
    return F.cross_entropy(logits, masks.long())


def segment(model, images, batch_size=64):
    """The most probable class of each pixel, int64 (N, H, W), on the CPU, for images uint8 (N, C, H, W), in eval mode."""
    device = arguments.device_of(model)
    arguments.tensor("B C H W", images=images)
    arguments.whole(1, batch_size=batch_size)
    if not len(images):
        raise ValueError("there are no images to segment; give at least one, as uint8 (N, C, H, W)")
    return in_eval_mode(model, lambda: torch.cat([model(normalize(part).to(device)).argmax(dim=1).cpu()
                                                  for part in images.split(int(batch_size))]))


def intersection_over_union(confusion):
    """For each class: the pixels that are it *and* are called it, by those that are it *or* are called it; (K,), 0 to 1.

    confusion: counts int64 (K, K), row = true, column = predicted, over the pixels of all scenes: `confusion_counts`. A class
    that neither occurs nor is predicted has nan; mean IoU is the mean of the others, `.nanmean()`.
    """
    arguments.tensor("K K", "whole", confusion=confusion)
    arguments.in_range(0, torch.inf, confusion=confusion)
    both = confusion.diagonal().double()
    return both / (confusion.sum(dim=0) + confusion.sum(dim=1) - both)
