"""A video classifier: the encoder reads tubelets, short runs of frames, by joint or factorized attention."""

import torch
from torch import nn


class VideoClassifier(nn.Module):
    """Clips float (B, T, C, H, W), normalized frames -> logits (B, num_classes). Arnab et al. 2021, "ViViT".

    The encoder, a VisionTransformer with in_channels = C * tubelet and pool="mean", embeds `tubelet` frames
    as one image; each of T' = T / tubelet steps adds a position in time. attention="joint": all T' * N tokens
    attend to each other. "factorized": blocks 0, 2, ... attend within each step, blocks 1, 3, ... along them,
    each place by itself. Raises ValueError for clips of another length.
    """

    def __init__(self, encoder, frames=8, tubelet=2, attention="joint"):
        super().__init__()
        assert attention in ("joint", "factorized"), f"attention={attention!r} is not 'joint' or 'factorized'"
        assert encoder.pool == "mean", f"pool={encoder.pool!r}: a clip has no CLS token; choose pool='mean'"
        assert frames % tubelet == 0, f"{frames} frames cannot be cut into tubelets of {tubelet}"
        self.encoder, self.tubelet, self.attention = encoder, tubelet, attention
        self.time = nn.Parameter(torch.zeros(frames // tubelet, 1, encoder.norm.normalized_shape[0]))
        nn.init.trunc_normal_(self.time, std=0.02)

    def embed(self, clips):
        """Clips (B, T, C, H, W) -> tokens (B, T', N, D) with positions in space and in time."""
        B, steps = len(clips), len(self.time)
        if clips.ndim != 5 or clips.shape[1] != steps * self.tubelet:
            raise ValueError(f"clips must be (B, {steps * self.tubelet}, C, H, W), not {tuple(clips.shape)}")
        images = clips.unflatten(1, (steps, self.tubelet)).flatten(2, 3)         # (B, T', tubelet * C, H, W)
        tokens = self.encoder.embed(images.flatten(0, 1)).unflatten(0, (B, steps))           # (B, T', N, D)
        return self.encoder.drop(tokens + self.time)

    def forward(self, clips):
        x = self.embed(clips)                                                    # (B, T', N, D)
        B, T, N, D = x.shape
        for i, block in enumerate(self.encoder.blocks):
            if self.attention == "joint":
                x = block(x.reshape(B, T * N, D)).reshape(B, T, N, D)
            elif i % 2 == 0:                                                     # space: each step by itself
                x = block(x.reshape(B * T, N, D)).reshape(B, T, N, D)
            else:                                                                # time: each place by itself
                x = block(x.transpose(1, 2).reshape(B * N, T, D)).reshape(B, N, T, D).transpose(1, 2)
        return self.encoder.forward_head(self.encoder.norm(x).flatten(1, 2))     # mean over T' * N tokens
