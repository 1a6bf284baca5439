"""The Vision Transformer, from patch embedding to logits, with the parameter names of timm."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from . import arguments
from .patches import pair, patch_grid


class PatchEmbedding(nn.Module):
    """Images (B, C, height, width) -> one token for each patch (B, N, D).

    stem="linear": each flattened patch times one shared matrix, done as a convolution whose stride is its kernel
    size (Dosovitskiy et al. 2021). stem="conv": small stride-2 convolutions, one for each halving from pixels to
    patches (Xiao et al. 2021, "Early convolutions help transformers see better"); needs a patch size of 2, 4, 8, ...
    Pixels beyond the last whole patch are left out, as by any convolution (lesson 03); VisionTransformer refuses such images.
    """

    def __init__(self, patch_size=8, in_channels=3, embed_dim=128, stem="linear"):
        super().__init__()
        arguments.whole(1, in_channels=in_channels, embed_dim=embed_dim)
        arguments.one_of(("linear", "conv"), stem=stem)
        size = pair(patch_size)
        if stem == "linear":
            self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=size, stride=size)
            # Inside an 8x8 patch of EuroSAT, normalized pixels differ by only 0.12 (standard deviation) from their mean.
            # This start lifts such detail to about 1 in the tokens (the mean color to more). PyTorch's default leaves it a
            # fourteenth of that; then positions and color drown the detail, and learning starts much more slowly.
            nn.init.normal_(self.proj.weight, std=1 / (0.12 * math.sqrt(in_channels * size[0] * size[1])))
        else:
            halvings = int(math.log2(size[0]))
            if size[0] != size[1] or halvings < 1 or 2**halvings != size[0]:
                raise ValueError(f"stem='conv' needs a square patch size of 2, 4, 8, 16, ..., not {patch_size}")
            widths = [in_channels, *(max(8, embed_dim // 2**i) for i in range(halvings - 1, 0, -1)), embed_dim]
            layers = []
            for i in range(halvings):
                # Overlapping windows first; the last one (2x2) sees only its own four positions.
                kernel, padding = (2, 0) if i == halvings - 1 else (4, 1) if i == 0 else (3, 1)
                layers += [nn.Conv2d(widths[i], widths[i + 1], kernel, stride=2, padding=padding), nn.GELU()]
                # PyTorch's default would shrink the signal in each layer, until the positions drown it.
                nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")
            self.proj = nn.Sequential(*layers[:-1])              # no activation after the last one
        self.in_channels, self.patch_size = in_channels, size

    def forward(self, images):
        _check_like_weights(self, f"B {self.in_channels} height width", images=images)
        if images.shape[2] < self.patch_size[0] or images.shape[3] < self.patch_size[1]:
            raise ValueError(f"images {tuple(images.shape)} are smaller than one patch of {self.patch_size}; give larger ones")
        return self.proj(images).flatten(2).transpose(1, 2)      # (B, D, rows, columns) -> (B, D, N) -> (B, N, D)


def _check_like_weights(layer, axes, **named):
    """Raise ValueError or TypeError unless the tensor has these axes, and the dtype and device of the layer's weights."""
    arguments.shaped(axes, "float", **named)
    (name, x), = named.items()
    weight = next(layer.parameters(), x)
    if x.device != weight.device:
        raise ValueError(f"{name} on {x.device}, weights on {weight.device}; move one, {name}.to({str(weight.device)!r})")
    if x.dtype != weight.dtype and (x.dtype == torch.float64 or x.is_meta or not torch.is_autocast_enabled(x.device.type)):
        raise TypeError(f"{name} of {x.dtype}, weights of {weight.dtype}; convert one, {name}.to({weight.dtype})")


def _widths(embed_dim, step):
    below = embed_dim // step * step
    return f"choose {below} or {below + step}" if below else f"choose {step} or {2 * step}"


def sincos_positions(grid, embed_dim, temperature=10000.0):
    """The 2-D sine-cosine table, float32 (rows * columns, embed_dim), one row for each patch, values in [-1, 1].

    With w_k = temperature ** (-k / (D/4)), k = 0 ... D/4 - 1, the patch at (row, column) gets
    [sin(row w_k), cos(row w_k), sin(column w_k), cos(column w_k)] (Vaswani et al. 2017, once for each axis).
    Raises ValueError unless embed_dim is divisible by 4.
    """
    arguments.grid(grid=grid)
    arguments.whole(1, embed_dim=embed_dim)
    arguments.number(1e-6, 1e12, temperature=temperature)
    if embed_dim % 4:
        raise ValueError(f"embed_dim={embed_dim} is not divisible by 4 (sine and cosine of row and column); "
                         f"{_widths(embed_dim, 4)}")
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    frequencies = temperature ** (-torch.arange(embed_dim // 4) / (embed_dim // 4))
    by_row = rows.flatten()[:, None] * frequencies               # (N, D/4)
    by_column = columns.flatten()[:, None] * frequencies         # (N, D/4)
    return torch.cat([by_row.sin(), by_row.cos(), by_column.sin(), by_column.cos()], dim=1)


def interpolate_positions(positions, old_grid, new_grid):
    """Stretch positions (1, [1 +] rows * columns, D) from grid to grid, bicubically; a CLS row stays as it is."""
    arguments.shaped("1 N D", "float", positions=positions)
    arguments.grid(old_grid=old_grid, new_grid=new_grid)
    prefix = positions.shape[1] - old_grid[0] * old_grid[1]      # 1 with a CLS token, else 0
    if prefix not in (0, 1):
        raise ValueError(f"positions {tuple(positions.shape)} are not those of old_grid={tuple(old_grid)}, with or without a "
                         "CLS row; give the grid that they were made for")
    image = positions[:, prefix:].transpose(1, 2).reshape(1, -1, *old_grid)          # (1, D, rows, columns)
    kind = torch.promote_types(image.dtype, torch.float32)       # 16 bits are stretched in 32
    image = F.interpolate(image.to(kind), size=tuple(new_grid), mode="bicubic", antialias=True, align_corners=False)
    image = image.to(positions.dtype)
    return torch.cat([positions[:, :prefix], image.flatten(2).transpose(1, 2)], dim=1)


def draw_patches(B, N, share, generator=None):
    """For each of B images the numbers of `share` (0 to 1) of its N patches, at least one, drawn without repetition: (B, n)."""
    arguments.whole(0, B=B, N=N)
    arguments.number(0, 1, keep_tokens=share)
    arguments.generator(generator)
    return torch.rand(B, N, generator=generator).argsort(dim=1)[:, :max(1, round(N * share))]


def keep_some(tokens, share, prefix=0):
    """The tokens (B, N, D) of some patches only; the first `prefix` ones (CLS) always stay.

    share: 0 to 1, drawn at random for each image, at least one patch; or the numbers of the patches to keep, int64 (B, n).
    """
    arguments.shaped("B N D", tokens=tokens)
    B, N, D = tokens.shape
    arguments.whole(0, N - 1, prefix=prefix)
    kept = share
    if torch.is_tensor(share):
        arguments.tensor(f"{B} chosen", "whole", keep_tokens=share)
        arguments.in_range(0, N - prefix - 1, keep_tokens=share)
        kept = share.long()
    else:
        kept = draw_patches(B, N - prefix, share)
    kept = kept.to(tokens.device) + prefix
    kept = torch.cat([torch.arange(prefix, device=tokens.device).expand(B, -1), kept], dim=1)
    return tokens.gather(1, kept[..., None].expand(-1, -1, D))                       # (B, prefix + n, D)


class MultiHeadSelfAttention(nn.Module):
    """Every token (B, N, D) gathers from every other; softmax(Q K^T / sqrt(head_dim)) V in `num_heads` heads.

    Vaswani et al. 2017, equation 1. Equal to `torch.nn.MultiheadAttention` with the same weights: `qkv` packs the
    three matrices by rows. Raises ValueError unless embed_dim is divisible by num_heads.
    """

    def __init__(self, embed_dim=128, num_heads=4, dropout=0.0):
        super().__init__()
        arguments.whole(1, embed_dim=embed_dim, num_heads=num_heads)
        arguments.number(0, 1, dropout=dropout)
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim={embed_dim} is not divisible by num_heads={num_heads}; "
                             f"{_widths(embed_dim, num_heads)}")
        self.num_heads, self.head_dim = num_heads, embed_dim // num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x, return_weights=False):
        """x (B, N, D) -> mixed (B, N, D), and with return_weights=True also the weights (B, H, N, N), rows sum to 1."""
        _check_like_weights(self, f"B N {self.num_heads * self.head_dim}", x=x)
        B, N, D = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim)            # (B, N, 3D) -> (B, N, 3, H, D/H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                                         # three times (B, H, N, D/H)
        weights = None
        # The fused kernel never builds the (N, N) weights and is the faster one, but not on a CPU in bfloat16: there it
        # takes one and a half to five times as long as the explicit product, and its backward pass too.
        if return_weights or (q.device.type == "cpu" and q.dtype == torch.bfloat16):
            weights = (q * self.head_dim**-0.5 @ k.transpose(-2, -1)).softmax(dim=-1)    # (B, H, N, N)
            mixed = weights.to(v.dtype) @ v                                          # (B, H, N, D/H)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)                          # (B, H, N, D/H)
        mixed = self.drop(self.proj(mixed.transpose(1, 2).reshape(B, N, D)))         # heads side by side again
        return (mixed, weights) if return_weights else mixed


class MLP(nn.Module):
    """The feed-forward half of a block: widen, GELU, narrow; each token (…, D) by itself."""

    def __init__(self, embed_dim=128, mlp_dim=256, dropout=0.0):
        super().__init__()
        arguments.whole(1, embed_dim=embed_dim, mlp_dim=mlp_dim)
        arguments.number(0, 1, dropout=dropout)
        self.fc1, self.act, self.fc2 = nn.Linear(embed_dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, embed_dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        _check_like_weights(self, f"... {self.fc1.in_features}", x=x)
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class EncoderBlock(nn.Module):
    """One pre-norm encoder layer: x + attention(norm(x)), then x + mlp(norm(x)); (B, N, D) -> (B, N, D).

    Equal to `torch.nn.TransformerEncoderLayer(norm_first=True, activation="gelu")` with the same weights.
    """

    def __init__(self, embed_dim=128, num_heads=4, mlp_dim=256, dropout=0.0):
        super().__init__()
        arguments.whole(1, embed_dim=embed_dim)
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = MultiHeadSelfAttention(embed_dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = MLP(embed_dim, mlp_dim, dropout)

    def forward(self, x, return_weights=False):
        _check_like_weights(self, f"B N {self.norm1.normalized_shape[0]}", x=x)
        attended = self.attn(self.norm1(x), return_weights)
        mixed, weights = attended if return_weights else (attended, None)
        x = x + mixed
        x = x + self.mlp(self.norm2(x))
        return (x, weights) if return_weights else x


class VisionTransformer(nn.Module):
    """A Vision Transformer: images float (B, C, height, width) -> logits (B, num_classes).

    img_size, patch_size: one number or (height, width), in pixels. positions: "learned", "sincos" or "none".
    pool: "cls" (a learned extra token answers) or "mean" (the average of all patch tokens answers).
    stem: "linear" or "conv", see PatchEmbedding. Dosovitskiy et al. 2021, "An image is worth 16x16 words".
    The head starts at zero, so an untrained model gives every class the same probability.
    Raises ValueError for sizes that do not fit together, each with values that would.
    """

    def __init__(self, img_size=64, patch_size=8, in_channels=3, num_classes=10, embed_dim=128, depth=4, num_heads=4,
                 mlp_dim=256, dropout=0.1, *, stem="linear", positions="learned", pool="cls"):
        super().__init__()
        self.config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        arguments.one_of(("learned", "sincos", "none"), positions=positions)
        arguments.one_of(("cls", "mean"), pool=pool)
        arguments.whole(1, num_classes=num_classes, embed_dim=embed_dim, num_heads=num_heads)
        arguments.whole(0, 1000, depth=depth)
        if positions == "sincos" and embed_dim % (step := math.lcm(4, num_heads)):
            raise ValueError(f"embed_dim={embed_dim} is not divisible by 4 (sine and cosine of row and column) and by "
                             f"num_heads={num_heads}; {_widths(embed_dim, step)}")
        self.img_size, self.grid, self.pool = pair(img_size), patch_grid(img_size, patch_size), pool
        self.patch_embed = PatchEmbedding(patch_size, in_channels, embed_dim, stem)
        prefix, N = int(pool == "cls"), self.grid[0] * self.grid[1]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if prefix else None
        if positions == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(1, prefix + N, embed_dim))
        elif positions == "sincos":                              # a formula needs no place in the state dict
            table = F.pad(sincos_positions(self.grid, embed_dim), (0, 0, prefix, 0))
            self.register_buffer("pos_embed", table[None], persistent=False)
        else:
            self.pos_embed = None
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(EncoderBlock(embed_dim, num_heads, mlp_dim, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Linear(embed_dim, num_classes)
        self._initialize()

    def _initialize(self):
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.head.weight)
        for parameter in (self.cls_token, self.pos_embed):
            if isinstance(parameter, nn.Parameter):
                nn.init.trunc_normal_(parameter, std=0.02)

    def set_img_size(self, img_size):
        """Take images of another size from now on: the positions are stretched to the new grid. Returns the model."""
        grid = patch_grid(img_size, self.config["patch_size"])
        if self.pos_embed is not None:
            stretched = interpolate_positions(self.pos_embed.detach(), self.grid, grid)
            learned = isinstance(self.pos_embed, nn.Parameter)
            self.pos_embed = nn.Parameter(stretched) if learned else stretched
            if learned:                                          # saved with the new size; a table is made anew instead
                self.config["img_size"] = img_size
        self.img_size, self.grid = pair(img_size), grid
        return self

    def _check(self, images):
        channels, (height, width) = self.config["in_channels"], self.img_size
        if not torch.is_tensor(images):
            raise TypeError(f"images must be a tensor (B, {channels}, {height}, {width}), not {arguments.told(images)}")
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(f"images must be (B, {channels}, {height}, {width}), not {tuple(images.shape)}")
        if tuple(images.shape[2:]) != self.img_size:
            size, patch = tuple(images.shape[2:]), pair(self.config["patch_size"])
            tiled = size[0] % patch[0] == 0 and size[1] % patch[1] == 0
            raise ValueError(f"this model takes {height}x{width} images, not {size[0]}x{size[1]}; resize them"
                             + (f", or call model.set_img_size({size}) first" if tiled else ""))
        if not images.is_floating_point():
            raise TypeError(f"images are {images.dtype}; turn them into floats first with vit_helpers.normalize(images)")
        _check_like_weights(self, "B C height width", images=images)

    def embed(self, images):
        """Images -> the tokens that enter the first block (B, N[+1], D): patch embeddings plus positions, CLS first."""
        self._check(images)
        x = self.patch_embed(images)                                                 # (B, N, D)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)         # (B, N+1, D)
        return x if self.pos_embed is None else x + self.pos_embed

    def forward_features(self, images, return_weights=False, keep_tokens=1.0):
        """Images -> tokens (B, N[+1], D) after the last norm; CLS first where there is one.

        With return_weights=True also the attention weights of all blocks, (B, depth, H, N[+1], N[+1]).
        With keep_tokens < 1 only that share of the patches, drawn at random for each image, goes through the blocks: a
        cheaper step of training (He et al. 2022, section 3; Li et al. 2023, "Scaling language-image pre-training via masking").
        keep_tokens may also be the numbers of the patches that go through, int64 (B, n).
        """
        x = self.embed(images)
        if not torch.is_tensor(keep_tokens):
            arguments.number(0, 1, keep_tokens=keep_tokens)
        if torch.is_tensor(keep_tokens) or keep_tokens < 1:
            x = keep_some(x, keep_tokens, prefix=x.shape[1] - self.grid[0] * self.grid[1])
        x, maps = self.drop(x), []
        for block in self.blocks:
            if return_weights:
                x, weights = block(x, return_weights=True)
                maps.append(weights)
            else:
                x = block(x)
        x = self.norm(x)
        return (x, torch.stack(maps, dim=1)) if return_weights else x

    def pooled(self, tokens):
        """Tokens (B, N[+1], D) after the last norm -> one summary of each image (B, D): the CLS token, or the mean."""
        _check_like_weights(self, f"B N {self.norm.normalized_shape[0]}", tokens=tokens)
        return tokens[:, 0] if self.pool == "cls" else tokens.mean(dim=1)

    def forward_head(self, tokens):
        """Tokens (B, N[+1], D) after the last norm -> logits (B, num_classes)."""
        return self.head(self.pooled(tokens))

    def forward(self, images, keep_tokens=1.0):
        """Images float (B, C, height, width) -> logits (B, num_classes). keep_tokens: see forward_features."""
        return self.forward_head(self.forward_features(images, keep_tokens=keep_tokens))
