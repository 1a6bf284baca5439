"""What a Vision Transformer looks at: attention maps, rollout, gradient rollout, evidence by patch."""

import torch

from .runtime import eval_mode

LIMIT = 100e6                                            # bytes of attention maps that are held at once


def bytes_of_maps(model):
    """The bytes of one image's attention maps, float32 (L, H, N, N); TypeError for models of others."""
    if not hasattr(model, "embed"):                      # and their blocks keep their weights
        raise TypeError(f"this needs the VisionTransformer of vit_helpers, not {type(model)}; load its "
                        "weights into one (lesson 12), or give the model that is inside a wrapper")

    N = model.grid[0] * model.grid[1] + int(model.cls_token is not None)
    return 4 * N * N * sum(block.attn.num_heads for block in model.blocks)


def in_batches(function, model, images, *others):
    """`function` of small batches of `images` and what goes with them, in eval mode; results on the CPU."""
    size = max(1, min(64, int(LIMIT / 4 / max(1, bytes_of_maps(model)))))
    device, parts = next(model.parameters()).device, []
    with eval_mode(model), torch.no_grad():
        for batch in zip(*(values.split(size) for values in (images, *others)), strict=True):
            parts.append(function(*(part.to(device) for part in batch)).float().cpu())
    return torch.cat(parts)


def walk(model, tokens):
    """Tokens (B, N, D) through all blocks and the last norm, and a list of the weights (B, H, N, N)."""
    maps = []
    for block in model.blocks:
        mixed, weights = block.attn(block.norm1(tokens), return_weights=True)
        tokens = tokens + mixed
        tokens = tokens + block.mlp(block.norm2(tokens))
        maps.append(weights)
    return model.norm(tokens), maps


def attention_maps(model, images, reduce=None):
    """The attention weights of all blocks and heads: images (B, C, height, width) -> float32 (B, L, H, N, N).

    Row i says from which tokens token i takes, and sums to 1; a CLS token is token 0. Of many images only the
    results of `reduce` are kept, such as attention_rollout: a function of some of their maps, (b, L, H, N, N)
    -> (b, ...). Raises ValueError for maps of more than 100 MB.
    """
    total = len(images) * bytes_of_maps(model)
    if reduce is None and total > LIMIT:
        raise ValueError(f"the maps of {len(images):,} images take {total / 1e6:,.0f} MB; pass for example "
                         f"reduce=attention_rollout, or at most {int(LIMIT / bytes_of_maps(model)):,} images")

    def maps_of(batch):
        maps = torch.stack(walk(model, model.embed(batch))[1], dim=1)                # (b, L, H, N, N)
        return maps if reduce is None else reduce(maps)

    return in_batches(maps_of, model, images)


def attention_rollout(maps):
    """How much of each input token is in each output token: (B, L, H, N, N) -> (B, N, N), rows sum to 1.

    Half of a token comes by the residual, half by the heads' mean attention: A_l = (mean_h W_lh + I) / 2, and
    the network is A_L ... A_2 A_1 (Abnar and Zuidema 2020, section 3). Values, MLPs and classes play no part.
    """
    mixed = (maps.mean(dim=2) + torch.eye(maps.shape[-1], device=maps.device)) / 2   # (B, L, N, N)
    mixed = mixed / mixed.sum(dim=-1, keepdim=True)      # by row; without keepdim it would be by column
    flow = mixed[:, 0]
    for layer in range(1, mixed.shape[1]):
        flow = mixed[:, layer] @ flow                    # later blocks come from the left
    return flow


def gradient_rollout(model, images, targets=None):
    """How much each input token contributes, through attention, to one class: images -> float32 (B, N, N).

    R = I, then for each block from the first to the last R = R + mean_h(max(0, G_h * W_h)) R, with its
    attention weights W and the gradient G of the class's logit by them (Chefer et al. 2021, arXiv:2103.15679,
    equations 5 and 6). targets: int64 (B,), the class of each image; by default the predicted one.
    """
    @torch.enable_grad()
    def relevance(batch, classes):
        tokens, maps = walk(model, model.embed(batch).detach().requires_grad_())
        chosen = model.forward_head(tokens).gather(1, classes[:, None]).sum()
        R = torch.eye(tokens.shape[1], device=tokens.device, dtype=tokens.dtype).expand(len(batch), -1, -1)
        gradients = torch.autograd.grad(chosen, maps)
        for weights, gradient in zip(maps, gradients, strict=True):          # each with its own
            R = R + (gradient * weights).clamp(min=0).mean(dim=1) @ R
        return R.detach()

    classes = in_batches(model, model, images).argmax(dim=1) if targets is None else torch.as_tensor(targets)
    assert len(classes) == len(images), f"{len(classes)} targets for {len(images)} images"
    return in_batches(relevance, model, images, classes.long())


def on_patches(rollout, model):
    """What the head reads of each patch, CLS's row or all rows' mean: (B, N, N) -> (B, rows, columns)."""
    read = rollout[:, 0, 1:] if model.pool == "cls" else rollout.mean(dim=1)         # (B, N)
    return read.unflatten(1, model.grid)


def patch_evidence(model, images):
    """What each patch says for and against each class: images -> float32 (B, N, K); its mean is the logits.

    Exact with pool="mean": head(mean of the tokens) = mean of head(token). It says at which *tokens* a class
    is read; attention has mixed the patches before. Raises ValueError for a model with a CLS token.
    """
    if getattr(model, "pool", None) == "cls":
        raise ValueError("evidence by patch needs pool='mean'; with a CLS token use gradient_rollout")
    return in_batches(lambda batch: model.head(model.forward_features(batch)), model, images)
