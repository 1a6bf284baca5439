"""The Vision Transformer, from the encoder's parts to logits, with the parameter names of timm."""

import torch
import torch.nn.functional as F
from torch import fx, nn

from .embedding import ConvStem, PatchEmbedding, check_width, interpolate_positions, sincos_table
from .patches import pair, patch_grid

CHOICES = {"stem": {"linear": PatchEmbedding, "conv": ConvStem}, "positions": ("learned", "sincos", "none"),
           "pool": ("cls", "mean")}


class MultiHeadSelfAttention(nn.Module):
    """Every token (B, N, D) gathers from every other: softmax(Q K^T / sqrt(head_dim)) V in each head.

    Vaswani et al. 2017, equation 1. Equal to torch.nn.MultiheadAttention, with `qkv` packed by rows.
    """

    def __init__(self, embed_dim=128, num_heads=4, dropout=0.0):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, embed_dim // num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x, return_weights=False):
        """x (B, N, D) -> mixed (B, N, D), on request also the weights (B, H, N, N), whose rows sum to 1."""
        B, N, D = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim)    # (B, N, 3D) -> (B, N, 3, H, D/H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                                 # three times (B, H, N, D/H)
        if return_weights or explicit_is_faster(self):
            weights = (q * self.head_dim**-0.5 @ k.transpose(-2, -1)).softmax(dim=-1)    # (B, H, N, N)
            mixed = weights.to(v.dtype) @ v                                  # (B, H, N, D/H)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)                  # the same in one fused call
        mixed = self.drop(self.proj(mixed.transpose(1, 2).reshape(B, N, D)))             # heads side by side
        return (mixed, weights) if return_weights else mixed


def explicit_is_faster(layer):
    """Whether a layer computes in bfloat16 on a CPU, where the fused call takes 1.5 to 5 times as long."""
    weight = next(layer.parameters())
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
    return weight.is_cpu and dtype == torch.bfloat16


class MLP(nn.Module):
    """The feed-forward half of a block: widen, GELU, narrow; each token (..., D) by itself."""

    def __init__(self, embed_dim=128, mlp_dim=256, dropout=0.0):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(embed_dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, embed_dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class EncoderBlock(nn.Module):
    """(B, N, D) -> (B, N, D): torch.nn.TransformerEncoderLayer(norm_first=True, activation="gelu")."""

    def __init__(self, embed_dim=128, num_heads=4, mlp_dim=256, dropout=0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = MultiHeadSelfAttention(embed_dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = MLP(embed_dim, mlp_dim, dropout)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """A Vision Transformer: images float (B, C, height, width) -> logits (B, num_classes).

    img_size, patch_size: one number or (height, width), in pixels. positions: "learned", "sincos" or "none".
    pool: "cls" (a learned extra token answers) or "mean" (the average of all patch tokens answers). stem:
    "linear" (PatchEmbedding) or "conv" (ConvStem). The head starts at zero: all classes are as probable.
    Dosovitskiy et al. 2021, "An image is worth 16x16 words". Raises ValueError for sizes that do not fit.
    """

    def __init__(self, img_size=64, patch_size=8, in_channels=3, num_classes=10, embed_dim=128, depth=4,
                 num_heads=4, mlp_dim=256, dropout=0.1, *, stem="linear", positions="learned", pool="cls"):
        super().__init__()
        self.config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        for name, choices in CHOICES.items():
            if self.config[name] not in choices:
                raise ValueError(f"{name}={self.config[name]!r} is unknown; choose one of {tuple(choices)}")
        check_width(embed_dim, num_heads, f"num_heads={num_heads}")
        self.img_size, self.grid, self.pool = pair(img_size), patch_grid(img_size, patch_size), pool
        self.patch_embed = CHOICES["stem"][stem](patch_size, in_channels, embed_dim)
        prefix, N = int(pool == "cls"), self.grid[0] * self.grid[1]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if prefix else None
        if positions == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(1, prefix + N, embed_dim))
        elif positions == "sincos":                          # a formula needs no place in the state dict
            self.register_buffer("pos_embed", sincos_table(self.config, self.grid), persistent=False)
        else:
            self.pos_embed = None
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            EncoderBlock(embed_dim, num_heads, mlp_dim, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Linear(embed_dim, num_classes)
        linear = [module for module in self.modules() if isinstance(module, nn.Linear)]
        for weight in (*(layer.weight for layer in linear), *self.parameters(recurse=False)):    # and tables
            nn.init.trunc_normal_(weight, std=0.02)
        for zero in (*(layer.bias for layer in linear), self.head.weight):
            nn.init.zeros_(zero)

    def embed(self, images):
        """Images -> tokens that enter the first block (B, N[+1], D): embeddings plus positions, CLS first."""
        check_images(images, self.img_size)
        x = self.patch_embed(images)                                         # (B, N, D)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)         # (B, N+1, D)
        return x if self.pos_embed is None else x + self.pos_embed

    def forward_features(self, images, kept=None):
        """Images -> tokens (B, N[+1], D) after the last norm; CLS first where there is one.

        kept: int64 (B, n), the patches that take part (He et al. 2022, section 3); then (B, n[+1], D).
        """
        x = self.drop(keep(self.embed(images), kept, prefix=int(self.cls_token is not None)))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def pooled(self, tokens):
        """Tokens (B, N[+1], D) after the last norm -> one summary of each image (B, D): CLS, or the mean."""
        return tokens[:, 0] if self.pool == "cls" else tokens.mean(dim=1)

    def forward_head(self, tokens):
        """Tokens (B, N[+1], D) after the last norm -> logits (B, num_classes)."""
        return self.head(self.pooled(tokens))

    def forward(self, images, kept=None):
        """Images float (B, C, height, width) -> logits (B, num_classes). kept: see forward_features."""
        return self.forward_head(self.forward_features(images, kept))

    def _apply(self, fn, recurse=True):                      # what to() and to_empty() are made of
        empty = self.config["positions"] == "sincos" and self.pos_embed.is_meta
        super()._apply(fn, recurse)
        if empty and not self.pos_embed.is_meta:             # which no state dict will fill
            self.pos_embed.copy_(sincos_table(self.config, self.grid))
        return self

    def set_img_size(self, img_size):
        """Take images of another size from now on; stretches the positions. Returns the model."""
        old, self.grid = self.grid, patch_grid(img_size, self.config["patch_size"])
        self.img_size = pair(img_size)
        if isinstance(self.pos_embed, nn.Parameter):         # saved with the new size
            stretched = interpolate_positions(self.pos_embed.detach(), old, self.grid)
            self.pos_embed = nn.Parameter(stretched, requires_grad=self.pos_embed.requires_grad)
            self.config["img_size"] = img_size
        elif self.pos_embed is not None:
            self.pos_embed = sincos_table(self.config, self.grid).to(self.pos_embed)
        return self


@fx.wrap                                         # torch.fx keeps this, and `keep`, as one step of its graph
def check_images(images, img_size):
    """Raise ValueError for images of another size than the model's, TypeError for bytes instead of floats."""
    if images.ndim != 4 or tuple(images.shape[2:]) != img_size:
        raise ValueError(f"images must be (B, C, {img_size[0]}, {img_size[1]}), not {tuple(images.shape)}; "
                         "resize them, call model.set_img_size, or add an axis with image[None]")
    if not images.is_floating_point():
        raise TypeError(f"images are {images.dtype}; make them floats first: vit_helpers.normalize(images)")


@fx.wrap
def keep(tokens, kept, prefix):
    """The tokens (B, [1 +] N, D) of the patches `kept` int64 (B, n); a CLS token (prefix 1) always stays."""
    if kept is None:
        return tokens
    kept = F.pad(kept + 1, (1, 0)) if prefix else kept                       # token 0 is CLS
    return tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
