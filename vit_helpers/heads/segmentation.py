"""Segmentation: a class for every pixel, from the tokens of a Vision Transformer; and how it is judged."""

import torch
import torch.nn.functional as F
from torch import nn

from ..data import normalize
from ..patches import pair, unpatchify
from ..runtime import eval_mode


class Segmenter(nn.Module):
    """Images (B, C, H, W) -> logits of each pixel (B, K, H, W), around any VisionTransformer as encoder.

    decoder="linear": a layer turns each token into K logits, stretched over the pixels (Strudel et al. 2021).
    "pixels": an MLP, at first zero, adds what a token says about each pixel of its patch (Shi et al. 2016).
    """

    def __init__(self, encoder, num_classes=10, decoder="linear"):
        super().__init__()
        assert decoder in ("linear", "pixels"), f"decoder={decoder!r} is unknown; choose 'linear' or 'pixels'"
        D, (P, Q) = encoder.norm.normalized_shape[0], pair(encoder.config["patch_size"])
        self.encoder, self.coarse, self.fine = encoder, nn.Linear(D, num_classes), None
        if decoder == "pixels":
            self.fine = nn.Sequential(nn.Linear(D, 2 * D), nn.GELU(), nn.Linear(2 * D, num_classes * P * Q))
            nn.init.zeros_(self.fine[2].weight)
            nn.init.zeros_(self.fine[2].bias)

    def forward(self, images):
        grid = self.encoder.grid
        tokens = self.encoder.forward_features(images)[:, -grid[0] * grid[1]:]   # (B, N, D), without CLS
        coarse = self.coarse(tokens).float().transpose(1, 2).unflatten(2, grid)  # (B, K, rows, columns)
        logits = F.interpolate(coarse, images.shape[2:], mode="bilinear")        # (B, K, H, W)
        if self.fine is not None:
            painted = self.fine(tokens).float()                                  # (B, N, K * P * P)
            logits = logits + unpatchify(painted, self.encoder.config["patch_size"], grid)
        return logits


def segmentation_loss(logits, masks):
    """Mean cross-entropy of all pixels: logits (B, K, H, W), masks (B, H, W) of classes 0 to K - 1."""
    return F.cross_entropy(logits, masks.long().to(logits.device))


def segment(model, images, batch_size=64):
    """The most probable class of each pixel, int64 (N, H, W), on the CPU, for images uint8 (N, C, H, W)."""
    device = next(model.parameters()).device
    with eval_mode(model), torch.no_grad():
        parts = [model(normalize(part).to(device)).argmax(dim=1).cpu() for part in images.split(batch_size)]
    return torch.cat(parts)


def intersection_over_union(confusion):
    """Of each class (K,), by `confusion_counts` (K, K); NaN if it neither occurs nor is predicted."""
    both = confusion.diagonal().double()
    return both / (confusion.sum(dim=0) + confusion.sum(dim=1) - both)
