"""A video classifier: the encoder reads tubelets, short runs of frames, with joint or factorised attention."""

import torch
from torch import nn

from .. import arguments


class VideoClassifier(nn.Module):
    """Clips float (B, T, C, H, W), normalized frames -> logits (B, num_classes). Arnab et al. 2021, "ViViT" (and its spelling).

    A tubelet is a patch over `tubelet` frames in a row. Its embedding is the encoder's own, for images whose channels are
    those of all its frames: the encoder is any VisionTransformer with in_channels = C * tubelet and pool="mean". Each of the
    T' = T / tubelet steps in time adds a position of its own. attention="joint": all T' * N tokens attend to each other in
    every block. "factorised": block 0, 2, ... attends within each step (space), block 1, 3, ... along the steps, each
    place in the image by itself (time); both have the same parameters. Raises ValueError for sizes that do not fit together.
    """

    def __init__(self, encoder, frames=8, tubelet=2, attention="joint"):
        super().__init__()
        arguments.device_of(encoder, arguments.VIT)
        arguments.whole(-arguments.MOST, frames=frames, tubelet=tubelet)
        if attention not in ("joint", "factorised"):
            raise ValueError(f"attention={attention!r} is unknown; choose 'joint' or 'factorised'")
        if encoder.pool != "mean":
            raise ValueError(f"pool={encoder.pool!r}: no CLS token belongs to all tubelets of a clip; choose pool='mean'")
        if tubelet < 1 or encoder.config["in_channels"] % tubelet:
            raise ValueError(f"in_channels={encoder.config['in_channels']} of the encoder is not a multiple of "
                             f"tubelet={tubelet}; choose in_channels={3 * max(tubelet, 1)} for color frames")
        if attention == "factorised" and len(encoder.blocks) < 2:
            raise ValueError(f"depth={len(encoder.blocks)} has no block for attention in time; choose depth=2 or more")
        self.encoder, self.frames, self.tubelet, self.attention = encoder, frames, tubelet, attention
        self._check_length(frames)
        self.time = nn.Parameter(torch.zeros(frames // tubelet, 1, encoder.norm.normalized_shape[0]))
        nn.init.trunc_normal_(self.time, std=0.02)

    def _check_length(self, frames):
        if frames < self.tubelet:
            raise ValueError(f"{frames} frames are shorter than a tubelet of {self.tubelet}; choose {self.tubelet} or more")
        if frames % self.tubelet:
            below = frames // self.tubelet * self.tubelet
            raise ValueError(f"{frames} frames cannot be cut into tubelets of {self.tubelet}; "
                             f"choose {below} or {below + self.tubelet}")

    def embed(self, clips):
        """Clips (B, T, C, H, W) -> tokens (B, T', N, D) with positions in space and in time."""
        wanted = (self.frames, self.encoder.config["in_channels"] // self.tubelet, *self.encoder.img_size)
        arguments.shaped("... width", clips=clips)
        if clips.ndim == 5 and tuple(clips.shape[2:]) == wanted[1:]:
            self._check_length(clips.shape[1])
        if tuple(clips.shape[1:]) != wanted:
            raise ValueError(f"clips must be (B, T, C, H, W) = (B, {', '.join(map(str, wanted))}), not {tuple(clips.shape)}")
        images = clips.flatten(0, 1).unflatten(0, (-1, self.tubelet)).flatten(1, 2)      # (B * T', tubelet * C, H, W)
        tokens = self.encoder.embed(images).unflatten(0, (len(clips), len(self.time)))   # (B, T', N, D)
        return self.encoder.drop(tokens + self.time)

    def forward(self, clips):
        x = self.embed(clips)                                                            # (B, T', N, D)
        B, T, N, D = x.shape
        for i, block in enumerate(self.encoder.blocks):
            if self.attention == "joint":
                x = block(x.reshape(B, T * N, D)).reshape(B, T, N, D)
            elif i % 2 == 0:                                                             # space: each step by itself
                x = block(x.reshape(B * T, N, D)).reshape(B, T, N, D)
            else:                                                                        # time: each place by itself
                x = block(x.transpose(1, 2).reshape(B * N, T, D)).reshape(B, N, T, D).transpose(1, 2)
        return self.encoder.forward_head(self.encoder.norm(x).flatten(1, 2))             # mean over T' * N tokens
