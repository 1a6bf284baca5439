"""Trained weights: those the course ships, and those of torchvision and timm in the course's own class."""

import hashlib
import io
import json
import re
import socket
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path

import torch

from .checkpoints import load_weights, write
from .model import VisionTransformer
from .runtime import atomic_write, eval_mode, smoke

WEIGHTS = Path(__file__).parent / "weights"
MEASURED = Path(__file__).parent / "measured.json"       # written by tests/benchmarks/


def load_pretrained(name="auto"):
    """A trained VisionTransformer in eval mode, on the CPU. Needs no network.

    name: "eurosat" (trained on EuroSAT's 64x64 tiles), "synthetic" (on the stand-in tiles), "eurosat-plain"
    (EuroSAT with the plain recipe, for comparison), or "auto": "eurosat", under VIT_SMOKE "synthetic". What
    each reached, and how to make it again: `pretrained_facts(name)`. Raises ValueError for any other name.
    """
    facts = pretrained_facts(name)
    model = VisionTransformer(**facts["model"])
    return load_weights(model, WEIGHTS / f"{facts['name']}.pt", facts.get("sha256")).eval()


def pretrained_facts(name="auto"):
    """How shipped weights were made and what they reached: model, recipe, split, seed, accuracy, command."""
    name = ("synthetic" if smoke() else "eurosat") if name == "auto" else name
    known = sorted(path.stem for path in WEIGHTS.glob("*.json"))
    if name not in known:
        raise ValueError(f"no shipped weights are named {name!r}; choose {' or '.join(map(repr, known))}")
    return json.loads((WEIGHTS / f"{name}.json").read_text(encoding="utf-8"))


def measured(name):
    """What one benchmark of the course measured, with its command, machine and setting; a dict.

    See tests/benchmarks/ for what there is. Raises ValueError for any other name.
    """
    everything = json.loads(MEASURED.read_text(encoding="utf-8"))
    if name not in everything:
        raise ValueError(f"nothing measured is named {name!r}; choose {' or '.join(map(repr, everything))}")
    return everything[name]


def save_pretrained(name, model, facts, folder=WEIGHTS, dtype=None):
    """Write the weights of `model`, a ViT or a head around one, and the facts: `name`.pt and `name`.json.

    dtype: what the numbers are rounded to, such as torch.float16 for half of the size; by default they stay.
    """
    file = Path(folder) / f"{name}.pt"
    write(file, {key: value.to("cpu", dtype) for key, value in model.state_dict().items()})
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()             # load_weights looks at it
    known = {"name": name, "model": getattr(model, "encoder", model).config, **facts, "sha256": checksum}
    with atomic_write(file.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(known, indent=2, default=int) + "\n", encoding="utf-8")


# torchvision's names, and ours, which are timm's. The inner ones come after
# "encoder.layers.encoder_layer_3.".
OUTER = {"class_token": "cls_token", "conv_proj.weight": "patch_embed.proj.weight",
         "conv_proj.bias": "patch_embed.proj.bias", "encoder.pos_embedding": "pos_embed",
         "encoder.ln.weight": "norm.weight", "encoder.ln.bias": "norm.bias",
         "heads.head.weight": "head.weight", "heads.head.bias": "head.bias"}
INNER = {"ln_1": "norm1", "ln_2": "norm2", "self_attention.in_proj_": "attn.qkv",
         "self_attention.out_proj": "attn.proj", "mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2",
         "mlp.linear_1": "mlp.fc1", "mlp.linear_2": "mlp.fc2"}


def from_torchvision(state_dict):
    """The state dict of a torchvision VisionTransformer, such as vit_b_16, under the course's (timm's) names.

    Only names change: torchvision's `in_proj_weight` packs Q, K, V by rows as `qkv` does, without a
    transpose. Raises ValueError that lists the entries which have no place in a VisionTransformer.
    """
    renamed, unknown = {}, []
    for name, value in state_dict.items():
        new = OUTER.get(name)
        block = re.fullmatch(r"encoder\.layers\.encoder_layer_(\d+)\.(.+?)(weight|bias)", name)
        if block and (inner := INNER.get(block[2].removesuffix("."))):
            new = f"blocks.{block[1]}.{inner}.{block[3]}"
        if new is None:
            unknown.append(name)
        renamed[new] = value
    if unknown:
        more = "; timm's names need no renaming: pass the state dict as it is" * ("cls_token" in unknown)
        raise ValueError("these entries have no place in a VisionTransformer, under torchvision's names: "
                         + ", ".join(unknown) + more)
    return renamed


def load_published(name="vit_b_16"):
    """A ViT that torchvision published, trained on ImageNet, in our class: (model, 1,000 class names).

    name: "vit_b_16" (346 MB to download, once), "vit_b_32", "vit_l_16", "vit_l_32" or "vit_h_14". Downloads
    through torchvision, into torch's own cache. Raises OSError where there is no network: ten silent seconds
    are a no.
    """
    from torchvision import models  # here, so that importing the package stays quick

    if smoke():
        raise OSError("VIT_SMOKE is set, so nothing is downloaded")
    weights, before = models.get_model_weights(name).DEFAULT, socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)                         # torch.hub sets none
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):    # names folders
            state = weights.get_state_dict(progress=False, check_hash=True)
    except Exception as problem:                         # urllib, ssl and torch.hub each raise their own
        raise OSError(f"the weights of {name} could not be downloaded ({problem})") from problem
    finally:
        socket.setdefaulttimeout(before)
    with torch.device("meta"):                           # its sizes without its numbers
        shape = models.get_model(name, weights=None, image_size=weights.meta["min_size"][0])
    model = VisionTransformer(
        shape.image_size, shape.patch_size, num_classes=shape.num_classes, embed_dim=shape.hidden_dim,
        depth=len(shape.encoder.layers), num_heads=shape.encoder.layers[0].num_heads, mlp_dim=shape.mlp_dim,
        dropout=0.0)
    return load_weights(model, from_torchvision(state)).eval(), tuple(weights.meta["categories"])


def stages(model):
    """The modules whose outputs are a ViT's stages, by name: of ours, of timm's and of torchvision's."""
    if hasattr(model, "conv_proj"):                      # torchvision
        body = model.encoder
        found = {"patch embedding": model.conv_proj, "positions": body.dropout}
        blocks, norm = body.layers, body.ln
    else:                                                # timm; ours
        last = model.norm_pre if hasattr(model, "norm_pre") else model.drop
        found = {"patch embedding": model.patch_embed, "positions": last}
        blocks, norm = model.blocks, model.norm
    found.update((f"block {i}", block) for i, block in enumerate(blocks))
    return {**found, "norm": norm, "logits": model}


def outputs(model, images, gradients):
    """The output of each stage for `images`, or the gradient of the summed squared logits there."""
    found = {}
    with ExitStack() as hooks, eval_mode(model), torch.set_grad_enabled(gradients):
        for name, module in stages(model).items():
            def keep(module, inputs, output, name=name):
                found[name] = output
            hooks.callback(module.register_forward_hook(keep).remove)
        logits = model(images)
        values = torch.autograd.grad(logits.square().sum(), found.values()) if gradients else found.values()
    # torchvision's patch embedding is still an image (B, D, rows, columns).
    values = [v.flatten(2).transpose(1, 2) if v.ndim == 4 else v for v in values]
    return dict(zip(found, (v.detach() for v in values), strict=True))


def stage_differences(model, reference, images, gradients=False):
    """The largest absolute difference of two ViTs at each stage, for images (B, C, height, width): a dict.

    Stages: "patch embedding", "positions" (the tokens that enter the first block), "block 0" ..., "norm",
    "logits". Each model may be the course's, timm's or torchvision's, so the first stage that differs says
    where to look. gradients=True compares the gradients of the summed squared logits with respect to each
    stage's output.
    """
    ours, theirs = (outputs(m, images, gradients) for m in (model, reference))
    if {name: v.shape for name, v in ours.items()} != {name: v.shape for name, v in theirs.items()}:
        raise ValueError("the models have stages of other numbers or shapes; build them with the same sizes")
    return {name: (ours[name] - theirs[name]).abs().max().item() for name in ours}
