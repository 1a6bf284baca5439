"""What a Vision Transformer looks at: attention maps, rollout, gradient rollout, distance, and evidence by patch."""

import torch

from . import arguments
from .runtime import in_eval_mode

LIMIT = 100e6                                # bytes of attention maps that are held at once


def _bytes_of_maps(model):
    """The bytes that the attention maps of one image take: float32 (L, H, N, N)."""
    N = model.grid[0] * model.grid[1] + int(model.cls_token is not None)
    return 4 * N * N * sum(block.attn.num_heads for block in model.blocks)


def _check(model, images):
    """Raise TypeError or ValueError unless this is a VisionTransformer and there are images to show it; returns its device."""
    device = arguments.device_of(model, arguments.VIT)
    arguments.tensor("B C height width", images=images)
    if not len(images):
        raise ValueError("there are no images to explain; give at least one, as (B, C, height, width)")
    return device


def _in_batches(function, model, images, *others):
    """`function` of small batches of `images` and of what goes with them, in eval mode; the results on the CPU, as one."""
    device = _check(model, images)
    size = max(1, min(64, int(LIMIT / 4 / max(1, _bytes_of_maps(model)))))
    parts = in_eval_mode(model, lambda: [function(*(part.to(device) for part in batch)) for batch in
                                         zip(*(values.split(size) for values in (images, *others)), strict=True)])
    return torch.cat([part.float().cpu() for part in parts])


def attention_maps(model, images, reduce=None):
    """The attention weights of all blocks and heads for images float (B, C, height, width): float32 (B, L, H, N, N).

    Row i says from which tokens token i takes, and sums to 1. With a CLS token, it is token 0. All maps of many images
    would fill the memory: `reduce`, a function of the maps of a few images (b, L, H, N, N) -> (b, ...), is applied
    batch by batch, and only its results are kept, as in `attention_maps(model, images, reduce=attention_rollout)`.
    Raises ValueError where the result would take more than 100 MB of maps, or for no images.
    """
    _check(model, images)
    if reduce is not None:
        arguments.function(reduce=reduce)
    total = len(images) * _bytes_of_maps(model)
    if reduce is None and total > LIMIT:
        raise ValueError(f"the maps of {len(images):,} images would take {total / 1e6:,.0f} MB, over {LIMIT / 1e6:.0f} MB; "
                         "pass what you want to know of them, such as reduce=attention_rollout, or at most "
                         f"{int(LIMIT / _bytes_of_maps(model)):,} images")

    def maps_of(batch):
        maps = model.forward_features(batch, return_weights=True)[1]     # (b, L, H, N, N)
        return maps if reduce is None else reduce(maps)

    return _in_batches(maps_of, model, images)


def attention_rollout(maps):
    """How much of each input token has flowed into each output token, (B, L, H, N, N) -> (B, N, N); rows sum to 1.

    In each block half of a token comes by the residual and half by attention, averaged over the heads:
    A_l = (mean_h W_lh + I) / 2, and the whole network is A_L ... A_2 A_1. Abnar and Zuidema 2020, "Quantifying
    attention flow in transformers", section 3. It knows nothing of values, MLPs and classes. Raises ValueError for other maps.
    """
    arguments.tensor("B L H N N", "float", maps=maps)
    mixed = (maps.mean(dim=2) + torch.eye(maps.shape[-1], device=maps.device)) / 2   # (B, L, N, N)
    mixed = mixed / mixed.sum(dim=-1, keepdim=True)              # by row; without keepdim it would be by column
    flow = mixed[:, 0]
    for layer in range(1, mixed.shape[1]):
        flow = mixed[:, layer] @ flow                            # later blocks stand to the left
    return flow


def gradient_rollout(model, images, targets=None):
    """How much each input token speaks, through attention, for one class: images -> float32 (B, N, N).

    R = I, then for each block from the first to the last R = R + mean_h(max(0, G_h * W_h)) R, with the attention weights
    W and the gradient G of the class's logit with respect to them. Chefer et al. 2021, "Generic attention-model
    explainability for interpreting bi-modal and encoder-decoder transformers", equations 5 and 6.
    targets: int64 (B,), the class of each image; by default the predicted one. Raises ValueError for other classes.
    """
    def relevance(batch, classes):
        tokens = model.embed(batch).detach().requires_grad_()
        maps, x = [], tokens
        for block in model.blocks:
            x, weights = block(x, return_weights=True)
            maps.append(weights)                                 # (b, H, N, N)
        logits = model.forward_head(model.norm(x))
        gradients = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), maps)
        R = torch.eye(tokens.shape[1], device=tokens.device, dtype=tokens.dtype).expand(len(batch), -1, -1)
        for weights, gradient in zip(maps, gradients, strict=True):      # each block with its own gradient
            R = R + (gradient * weights).clamp(min=0).mean(dim=1) @ R
        return R.detach()

    _check(model, images)
    targets = _targets(model, images, targets)
    return _in_batches(torch.enable_grad()(relevance), model, images, targets)


def _targets(model, images, targets):
    """The classes int64 (B,) that are asked for: those given, else the predicted ones."""
    if targets is None:
        return _in_batches(model, model, images).argmax(dim=1)
    targets, K = arguments.array(targets=targets), model.head.out_features
    arguments.tensor("...", targets=targets)
    whole = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    if targets.shape != images.shape[:1] or not whole or not ((targets >= 0) & (targets < K)).all():
        raise ValueError(f"targets must be one class from 0 to {K - 1} for each of the {len(images)} images, "
                         f"not {targets.tolist()}, {targets.dtype} {tuple(targets.shape)}")
    return targets.long()


def on_patches(rollout, model):
    """What reaches the head from each patch: rollout (B, N, N) -> (B, rows, columns).

    A CLS token is read by itself: its row, without its own column. With mean pooling all rows are read: their mean.
    Raises ValueError for another number of tokens than the model's.
    """
    arguments.device_of(model, arguments.VIT)
    N = model.grid[0] * model.grid[1] + int(model.pool == "cls")
    arguments.tensor(f"B {N} {N}", "float", rollout=rollout)
    read = rollout[:, 0, 1:] if model.pool == "cls" else rollout.mean(dim=1)         # (B, N)
    return read[:, -model.grid[0] * model.grid[1]:].unflatten(1, model.grid)


def attention_distance(maps, grid):
    """How far each head looks, in patches: maps (B, L, H, N, N) -> (B, L, H).

    The distance between the centers of the asking and the answering patch, averaged with the weights; a CLS token is left out.
    Dosovitskiy et al. 2021, figure 7 right. Raises ValueError for maps of another grid.
    """
    arguments.tensor("B L H N N", "float", maps=maps)
    arguments.grid(grid=grid)
    N = grid[0] * grid[1]
    if maps.shape[-1] not in (N, N + 1):
        raise ValueError(f"maps of {maps.shape[-1]} tokens do not belong to a grid of {grid[0]} x {grid[1]} = {N} patches")
    maps = maps[..., -N:, -N:]
    places = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).float().to(maps.device)    # (N, 2)
    apart = torch.cdist(places, places)                          # (N, N)
    return ((maps * apart).sum(dim=-1) / maps.sum(dim=-1)).mean(dim=-1)


def patch_evidence(model, images):
    """What each patch says for and against each class: images -> float32 (B, N, K), whose mean over N is the logits.

    Exact, for a model with pool="mean": head(mean of the tokens) = mean of head(token). It says at which *tokens* the model
    reads a class; attention has mixed the patches before. Raises ValueError for a model with a CLS token.
    """
    _check(model, images)
    if model.pool != "mean":
        raise ValueError(f"evidence by patch needs a model with pool='mean'; with pool={model.pool!r} the head reads one token "
                         "only: use gradient_rollout")
    return _in_batches(lambda batch: model.head(model.forward_features(batch)), model, images)


def deletion_and_insertion(model, images, relevance, targets=None, points=9):
    """A test of a map: the class's probability while patches are shown by relevance: (shown, deletion, insertion).

    shown: int64 (points,), 1 to N patches. deletion (B, points): with that many of the *least* relevant patches, so the best
    ones went first. insertion (B, points): with that many of the *most* relevant ones. A good map has a small area below
    deletion and a large one below insertion. Patches that are not shown are left out of the sequence of tokens, so no made-up
    pixels stand in for them. relevance: (B, rows, columns). Petsiuk et al. 2018, "RISE". Raises ValueError for other shapes.
    """
    _check(model, images)
    arguments.tensor("B rows columns", "float", relevance=relevance)
    arguments.no_nan(relevance=relevance)
    arguments.whole(1, points=points)
    if relevance.shape != (len(images), *model.grid):
        raise ValueError(f"relevance must be {(len(images), *model.grid)}, one number for each patch, "
                         f"not {tuple(relevance.shape)}")
    order = relevance.flatten(1).argsort(dim=1, descending=True, stable=True)        # (B, N) best first
    targets = _targets(model, images, targets)
    shown = torch.linspace(1, order.shape[1], points).round().long()

    def probability(batch, kept, classes):
        return model(batch, keep_tokens=kept).softmax(dim=1).gather(1, classes[:, None])     # (b, 1)

    def curve(kept_of):
        return torch.cat([_in_batches(probability, model, images, kept_of(n), targets) for n in shown.tolist()], dim=1)

    return shown, curve(lambda n: order[:, -n:]), curve(lambda n: order[:, :n])


def area(shown, curve):
    """The area below curves (B, points) over the patches shown, divided by its width, so a mean height: (B,).

    Raises ValueError for fewer than two points, which have no width.
    """
    arguments.tensor("points", "whole", shown=shown)
    arguments.tensor(f"B {len(shown)}", "float", curve=curve)
    if len(shown) < 2:
        raise ValueError(f"{len(shown)} point has no area below it; give at least 2")
    return torch.trapezoid(curve, shown.to(curve)) / (shown[-1] - shown[0])
