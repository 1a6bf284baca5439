"""A masked autoencoder, which paints hidden patches, and a diffusion transformer, which paints tiles."""

import torch
from torch import nn

from ..checkpoints import load_weights
from ..embedding import sincos_positions
from ..model import EncoderBlock, VisionTransformer
from ..patches import pair, patchify, unpatchify
from ..pretrained import WEIGHTS, pretrained_facts
from ..runtime import eval_mode, smoke

SPREAD = 0.35                                # of the noise, in normalized pixels: about that of the tiles


class MaskedAutoencoder(nn.Module):
    """Images and their visible patches, int64 (B, n) -> all patches (B, N, C * P * P). He et al. 2022.

    The encoder, any VisionTransformer, works on the visible patches only, which makes a step cheap. A decoder
    gets these tokens at their places, and a learned mask token at all others.
    """

    def __init__(self, encoder, width=96, depth=2, num_heads=4):
        super().__init__()
        self.encoder, (P, Q) = encoder, pair(encoder.config["patch_size"])
        self.narrow = nn.Linear(encoder.norm.normalized_shape[0], width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("positions", sincos_positions(encoder.grid, width)[None], persistent=False)
        self.blocks = nn.ModuleList(EncoderBlock(width, num_heads, 4 * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.paint = nn.Linear(width, encoder.config["in_channels"] * P * Q)

    def forward(self, images, visible):
        tokens = self.encoder.forward_features(images, kept=visible)             # (B, [1 +] n, D)
        tokens = self.narrow(tokens[:, -visible.shape[1]:])                      # (B, n, W), without CLS
        masks = self.mask_token.to(tokens.dtype).expand(len(images), *self.positions.shape[1:])
        x = masks.scatter(1, visible[..., None].expand_as(tokens), tokens) + self.positions      # (B, N, W)
        for block in self.blocks:
            x = block(x)
        return self.paint(self.norm(x))                                          # (B, N, C * P * P)


def masked_loss(predicted, images, visible, patch_size):
    """Mean squared error of predicted (B, N, C * P * P) in the *hidden* patches of normalized images."""
    truth, visible = (part.to(predicted.device) for part in (patchify(images, patch_size), visible))
    assert predicted.shape == truth.shape, f"predicted is {tuple(predicted.shape)}, not {tuple(truth.shape)}"
    error = (predicted.float() - truth).square().mean(dim=-1)                    # (B, N)
    hidden = torch.ones_like(error).scatter(1, visible, 0.0)                     # 1 where hidden
    return (error * hidden).sum() / hidden.sum()


def time_features(time, width):
    """Times (B,), 0 to 1, as sines and cosines of many frequencies: float32 (B, width)."""
    frequencies = 1000 * 10000 ** (-torch.arange(width // 2, device=time.device) / (width // 2))
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class DiffusionTransformer(nn.Module):
    """Noisy images (B, C, H, W), times (B,) 0..1, classes int64 (B,) -> velocities (B, C, H, W).

    Peebles and Xie 2023. The blocks are those of a VisionTransformer with pool="mean" and a linear stem. Time
    and class steer them by adaptive layer norm: numbers that scale, shift and gate channels, zero at first: a
    block begins by doing nothing. Class K, the encoder's `num_classes`, means "any class".
    """

    def __init__(self, encoder):
        super().__init__()
        if (encoder.pool, encoder.config["stem"]) != ("mean", "linear"):
            raise ValueError("a generator needs an encoder with pool='mean' and stem='linear'")
        self.encoder, self.any_class = encoder, encoder.config["num_classes"]
        D, pixels = encoder.norm.normalized_shape[0], encoder.patch_embed.proj.weight[0].numel()
        # The encoder's own start is made for detail of 0.12 inside a patch; noise has more.
        nn.init.normal_(encoder.patch_embed.proj.weight, std=1 / (SPREAD * pixels**0.5))
        self.time = nn.Sequential(nn.Linear(D, D), nn.SiLU(), nn.Linear(D, D))
        self.label = nn.Embedding(self.any_class + 1, D)
        self.modulation = nn.ModuleList(nn.Sequential(nn.SiLU(), nn.Linear(D, 6 * D)) for _ in encoder.blocks)
        self.last = nn.Sequential(nn.SiLU(), nn.Linear(D, 2 * D))
        self.paint = nn.Linear(D, pixels)
        for layer in (*(m[1] for m in self.modulation), self.last[1], self.paint):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, noisy, time, labels):
        assert time.shape == labels.shape == noisy.shape[:1], "each image needs a time and a class of its own"
        x = self.encoder.embed(noisy)                                            # (B, N, D)
        steer = (self.time(time_features(time, x.shape[2])) + self.label(labels))[:, None]   # (B, 1, D)
        for block, modulation in zip(self.encoder.blocks, self.modulation, strict=True):
            scale1, shift1, gate1, scale2, shift2, gate2 = modulation(steer).chunk(6, dim=2)
            x = x + gate1 * block.attn(block.norm1(x) * (1 + scale1) + shift1)
            x = x + gate2 * block.mlp(block.norm2(x) * (1 + scale2) + shift2)
        scale, shift = self.last(steer).chunk(2, dim=2)
        patches = self.paint(self.encoder.norm(x) * (1 + scale) + shift)         # (B, N, C * P * P)
        return unpatchify(patches, self.encoder.config["patch_size"], self.encoder.grid)


def flow_point(images, noise, time):
    """The point at `time` (B,) on the line from noise (0) to image (1), and the velocity: image - noise."""
    time = time[:, None, None, None]
    return (1 - time) * noise + time * images, images - noise


def flow_matching_loss(model, images, labels, generator=None, without_class=0.1):
    """Mean squared error of the velocity on lines from noise to normalized images (Lipman et al. 2023).

    labels: int64 (B,); the share `without_class` is hidden, for guidance (Ho and Salimans 2022).
    """
    images, labels = (part.to(next(model.parameters()).device) for part in (images, labels))
    noise = SPREAD * torch.randn(images.shape, generator=generator).to(images)
    time = torch.randn(len(images), generator=generator).sigmoid().to(images)    # mostly in the hard middle
    hidden = (torch.rand(len(images), generator=generator) < without_class).to(images.device)
    noisy, velocity = flow_point(images, noise, time)
    return (model(noisy, time, labels.where(~hidden, model.any_class)).float() - velocity).square().mean()


def generate(model, labels, guidance=2.0, steps=20, generator=None, keep=0):
    """Paint an image of each class in labels (B,): float32 (B, C, H, W), -1 to 1, on the CPU.

    Follows the velocity in `steps` steps of two looks (Heun's method). guidance: 0 ignores the class, 1 is as
    trained, more exaggerates: v = v_any + guidance * (v_class - v_any). keep=n adds n + 1 pictures on the way
    from the noise, (B, n + 1, C, H, W). Raises ValueError for a class that does not exist.
    """
    steps = 1 if smoke() else steps
    labels, step = torch.as_tensor(labels, device=next(model.parameters()).device), 1 / steps
    if not ((labels >= 0) & (labels <= model.any_class)).all():
        raise ValueError(f"labels={labels.tolist()} must be 0 to {model.any_class}, which is any class")

    def velocity(x, time):
        times = torch.full((len(x),), time, device=x.device)
        free = model(x, times, torch.full_like(labels, model.any_class)).float() if guidance != 1 else 0
        return free + guidance * (model(x, times, labels).float() - free) if guidance else free

    shape = len(labels), model.encoder.config["in_channels"], *model.encoder.img_size
    way = [SPREAD * torch.randn(shape, generator=generator).to(labels.device)]
    with eval_mode(model), torch.no_grad():
        for i in range(steps):
            first = velocity(way[i], i / steps)
            ahead = velocity(way[i] + step * first, i / steps + step)            # look where this leads
            way.append(way[i] + step * (first + ahead) / 2)                      # go the mean of both ways
    images = way[-1].clamp(-1, 1).cpu()
    if not keep:
        return images
    return images, torch.stack([way[round(i * steps / keep)] for i in range(keep + 1)], dim=1).cpu()


HEADS = {"generator": DiffusionTransformer, "masked": MaskedAutoencoder}


def load_head(name, folder=WEIGHTS / "heads"):
    """A head that the course ships, in eval mode, on the CPU, and the facts about it: (model, dict).

    name: "generator" for 32x32 tiles of EuroSAT, "masked" for 64x64 tiles. Raises ValueError for any other.
    """
    if name not in HEADS:
        raise ValueError(f"no shipped head is named {name!r}; choose {' or '.join(map(repr, HEADS))}")
    facts = pretrained_facts(folder / f"{name}.pt")
    model = HEADS[name](VisionTransformer(**facts["model"]))
    return load_weights(model, folder / f"{name}.pt", facts["sha256"]).eval(), facts
