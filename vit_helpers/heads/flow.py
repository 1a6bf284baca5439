"""A small diffusion transformer that paints tiles of a class, trained by flow matching."""

import math
from numbers import Real

import torch
from torch import nn

from .. import arguments
from ..patches import unpatchify
from ..runtime import in_eval_mode

SPREAD = 0.35                                # of the noise, in normalized pixels: about that of the tiles themselves


def time_features(time, width):
    """Times (B,), 0 to 1, as sines and cosines of many frequencies: float32 (B, width)."""
    frequencies = 1000 * 10000 ** (-torch.arange(width // 2, device=time.device) / (width // 2))
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class DiffusionTransformer(nn.Module):
    """Noisy images (B, C, H, W), times (B,) 0..1 and classes int64 (B,) -> velocities (B, C, H, W). Peebles and Xie 2023.

    The blocks are those of the encoder, any VisionTransformer with pool="mean". Time and class steer them by adaptive layer
    norm: numbers that scale, shift and gate every channel, all zero at the start, so that a block begins by doing nothing.
    Class number K stands for "any class" (`num_classes` of the encoder is K). Whether all classes exist is looked at in
    `flow_matching_loss` and `generate`, not for each step here: a GPU would have to wait for the answer.
    """

    def __init__(self, encoder):
        super().__init__()
        arguments.device_of(encoder, arguments.VIT)
        if encoder.pool != "mean":
            raise ValueError(f"pool={encoder.pool!r}: a generator has no use for a CLS token; choose pool='mean'")
        if encoder.config["stem"] != "linear":
            raise ValueError(f"stem={encoder.config['stem']!r}: noise wants a start of its own, made for stem='linear' only")
        self.encoder, self.any_class = encoder, encoder.config["num_classes"]
        D, pixels = encoder.norm.normalized_shape[0], encoder.patch_embed.proj.weight[0].numel()
        # The encoder's own start is made for detail of 0.12 inside a patch; noise has more.
        nn.init.normal_(encoder.patch_embed.proj.weight, std=1 / (SPREAD * math.sqrt(pixels)))
        self.time = nn.Sequential(nn.Linear(D, D), nn.SiLU(), nn.Linear(D, D))
        self.label = nn.Embedding(self.any_class + 1, D)
        self.modulation = nn.ModuleList(nn.Sequential(nn.SiLU(), nn.Linear(D, 6 * D)) for _ in encoder.blocks)
        self.last = nn.Sequential(nn.SiLU(), nn.Linear(D, 2 * D))
        self.paint = nn.Linear(D, pixels)
        for layer in (*(m[1] for m in self.modulation), self.last[1], self.paint):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, noisy, time, labels):
        x = self.encoder.embed(noisy)                                                    # (B, N, D)
        arguments.shaped(str(len(noisy)), "float", time=time)    # one for all would be spread without a word
        arguments.shaped(str(len(noisy)), "whole", labels=labels)
        arguments.together(noisy=noisy, time=time, labels=labels)
        told = (self.time(time_features(time, x.shape[2])) + self.label(labels.long()))[:, None]    # (B, 1, D)
        for block, modulation in zip(self.encoder.blocks, self.modulation, strict=True):
            scale1, shift1, gate1, scale2, shift2, gate2 = modulation(told).chunk(6, dim=2)      # each (B, 1, D)
            x = x + gate1 * block.attn(block.norm1(x) * (1 + scale1) + shift1)
            x = x + gate2 * block.mlp(block.norm2(x) * (1 + scale2) + shift2)
        scale, shift = self.last(told).chunk(2, dim=2)
        patches = self.paint(self.encoder.norm(x) * (1 + scale) + shift)                 # (B, N, C * P * P)
        return unpatchify(patches, self.encoder.config["patch_size"], self.encoder.grid)


def on_the_way(images, noise, time):
    """The point at `time` (B,) of the straight line from noise (0) to image (1), and the velocity there: image - noise."""
    arguments.shaped("B C H W", "float", images=images, noise=noise)
    arguments.shaped(str(len(images)), "float", time=time)
    arguments.together(images=images, noise=noise, time=time)
    time = time[:, None, None, None]
    return (1 - time) * noise + time * images, images - noise


def _check_labels(model, labels):
    arguments.device_of(model, ("any_class", "encoder"))
    arguments.tensor("...", labels=labels)
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.ndim != 1 or not whole or not ((labels >= 0) & (labels <= model.any_class)).all():
        raise ValueError(f"labels must be classes from 0 to {model.any_class - 1}, or {model.any_class} for any class, one for "
                         f"each image, not {labels.tolist()}, {labels.dtype} {tuple(labels.shape)}")


def flow_matching_loss(model, images, labels, generator=None, without_class=0.1):
    """How far the model's velocity is from that of straight lines from noise to images: mean squared error, a scalar.

    Lipman et al. 2023, "Flow matching for generative modeling". images: normalized, (B, C, H, W); noise and times are drawn.
    In the share `without_class` of the images the class is hidden, for classifier-free guidance (Ho and Salimans 2022).
    Raises ValueError for a class that does not exist.
    """
    arguments.tensor("N C H W", "float", images=images)
    arguments.tensor(str(len(images)), labels=labels)
    _check_labels(model, labels)
    arguments.generator(generator)
    arguments.number(0, 1, without_class=without_class)
    noise = SPREAD * torch.randn(images.shape, generator=generator).to(images)
    time = torch.randn(len(images), generator=generator).sigmoid().to(images)        # mostly in the middle, where it is hard
    hidden = (torch.rand(len(images), generator=generator) < without_class).to(images.device)
    noisy, velocity = on_the_way(images, noise, time)
    return (model(noisy, time, labels.where(~hidden, model.any_class)).float() - velocity).square().mean()


def generate(model, labels, guidance=2.0, steps=20, generator=None, keep=0):
    """Paint one image for each class in labels int64 (B,): float32 (B, C, H, W) in -1..1, on the CPU.

    Follows the velocity from noise to image in `steps` steps, each with two looks (Heun's method). guidance: 0 ignores the
    class, 1 is the model as it was trained, more exaggerates the class: v = v_any + guidance * (v_class - v_any). With keep=n
    it returns (images, n + 1 pictures on the way (B, n + 1, C, H, W), the noise first). Raises ValueError for a class that does
    not exist, a guidance that is negative or not finite, and no steps.
    """
    labels = arguments.array(labels=labels)
    _check_labels(model, labels)
    arguments.generator(generator)
    arguments.whole(0, steps=steps)
    arguments.whole(0, keep=keep)
    if not isinstance(guidance, Real) or not 0 <= guidance < math.inf:
        raise ValueError(f"guidance={guidance!r} must be 0 or more: 0 ignores the class, 1 follows it, 2 exaggerates it")
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1; choose 20")
    device, config = next(model.parameters()).device, model.encoder.config
    labels = labels.long().to(device)

    def velocity(x, time):
        times = torch.full((len(x),), time, device=device)
        free = model(x, times, torch.full_like(labels, model.any_class)).float() if guidance != 1 else 0
        return free + guidance * (model(x, times, labels).float() - free) if guidance else free

    def paint():
        x = SPREAD * torch.randn(len(labels), config["in_channels"], *model.encoder.img_size, generator=generator).to(device)
        way = [x]
        for i in range(steps):
            now, step = i / steps, 1 / steps
            first = velocity(x, now)
            ahead = velocity(x + step * first, now + step)       # look where this leads, then go the mean of both ways
            x = x + step * (first + ahead) / 2
            way.append(x)
        return way

    way = in_eval_mode(model, paint)
    x = way[-1].clamp(-1, 1).cpu()
    return (x, torch.stack([way[round(i * steps / keep)] for i in range(keep + 1)], dim=1).cpu()) if keep else x
