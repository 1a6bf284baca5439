"""Trained weights: those the course ships, and those of torchvision and timm in the course's own class."""

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from . import arguments
from .checkpoints import load_weights, write_tensors
from .model import VisionTransformer
from .runtime import by_budget, in_eval_mode, patiently, written_whole

WEIGHTS = Path(__file__).parent / "weights"
MEASURED = Path(__file__).parent / "measured.json"           # written by tests/benchmarks/


def load_pretrained(name="auto"):
    """A trained VisionTransformer in eval mode, on the CPU. Needs no network.

    name: "eurosat" (trained on EuroSAT's 64x64 tiles), "synthetic" (on the stand-in tiles), "eurosat-plain" (EuroSAT
    with the plain recipe, for comparison), or "auto": "eurosat", in the "smoke" budget "synthetic".
    What each reached, and how to make it again: `pretrained_facts(name)`.
    Raises ValueError for any other name.
    """
    facts = pretrained_facts(name)
    return load_weights(VisionTransformer(**facts["model"]), WEIGHTS / f"{facts['name']}.pt", facts.get("sha256")).eval()


def pretrained_facts(name="auto"):
    """How shipped weights were made and what they reached: model, recipe, split, seed, accuracy, command; a dict."""
    name = by_budget(smoke="synthetic", lesson="eurosat", full="eurosat") if name == "auto" else name
    known = sorted(path.stem for path in WEIGHTS.glob("*.json"))
    if name not in known:
        raise ValueError(f"no shipped weights are named {name!r}; choose {' or '.join(map(repr, known))}")
    return json.loads((WEIGHTS / f"{name}.json").read_text(encoding="utf-8"))


def measured(name):
    """What one benchmark of the course has measured, with the command that makes it again, the machine and the setting; a dict.

    See tests/benchmarks/ for what there is. Raises ValueError for any other name.
    """
    everything = json.loads(MEASURED.read_text(encoding="utf-8"))
    if not isinstance(name, str) or name not in everything:
        raise ValueError(f"nothing measured is named {name!r}; choose {' or '.join(map(repr, everything))}")
    return everything[name]


def save_pretrained(name, model, facts, folder=WEIGHTS, dtype=None):
    """Write the weights of `model`, a ViT or a head around one, and the facts about them as `name`.pt and `name`.json.

    dtype: what the numbers are rounded to, such as torch.float16 for half of the size; by default they stay as they are.
    """
    file = Path(folder) / f"{name}.pt"
    write_tensors(file, {key: value.to("cpu", dtype) for key, value in model.state_dict().items()})
    facts = {**facts, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}       # load_weights looks at it
    with written_whole(Path(folder) / f"{name}.json") as temporary:
        config = getattr(model, "encoder", model).config
        known = {"name": name, "model": config, **facts}
        temporary.write_text(json.dumps(known, indent=2, default=int) + "\n", encoding="utf-8")


# torchvision's names, and ours, which are timm's. The inner ones stand behind "encoder.layers.encoder_layer_3.".
OUTER = {"class_token": "cls_token", "conv_proj.weight": "patch_embed.proj.weight", "conv_proj.bias": "patch_embed.proj.bias",
         "encoder.pos_embedding": "pos_embed", "encoder.ln.weight": "norm.weight", "encoder.ln.bias": "norm.bias",
         "heads.head.weight": "head.weight", "heads.head.bias": "head.bias"}
INNER = {"ln_1": "norm1", "ln_2": "norm2", "self_attention.in_proj_": "attn.qkv.", "self_attention.out_proj": "attn.proj",
         "mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2", "mlp.linear_1": "mlp.fc1", "mlp.linear_2": "mlp.fc2"}


def from_torchvision(state_dict):
    """The state dict of a torchvision VisionTransformer, such as vit_b_16, under the course's (timm's) names.

    Only names change: torchvision's `in_proj_weight` packs Q, K, V by rows as `qkv` does, without a transpose.
    Raises ValueError that lists the entries which have no place in a VisionTransformer.
    """
    if not isinstance(state_dict, Mapping) or not all(isinstance(name, str) for name in state_dict):
        raise TypeError(f"a state dict has names and tensors, as model.state_dict() gives it, not {arguments.told(state_dict)}")
    renamed, unknown = {}, []
    for name, value in state_dict.items():
        new, block = OUTER.get(name), re.fullmatch(r"encoder\.layers\.encoder_layer_(\d+)\.(.+?)(weight|bias)", name)
        if block:
            inner = INNER.get(block[2].removesuffix("."))
            new = inner and f"blocks.{block[1]}.{inner.removesuffix('.')}.{block[3]}"
        if new is None:
            unknown.append(name)
        renamed[new] = value
    if unknown:
        raise ValueError("these entries have no place in a VisionTransformer, under torchvision's names: " + ", ".join(unknown)
                         + ("; timm's names need no renaming: pass the state dict as it is" if "cls_token" in unknown else ""))
    return renamed


def load_published(name="vit_b_16"):
    """A ViT that torchvision published, trained on ImageNet, in our own class and eval mode: (model, names of 1,000 classes).

    name: "vit_b_16" (346 MB to download, once), "vit_b_32", "vit_l_16", "vit_l_32" or "vit_h_14". Downloads through
    torchvision, into torch's own cache. Raises ValueError for other names, and OSError where there is no network: one that
    is silent for ten seconds is a no.
    """
    from torchvision import models  # here, so that importing the package stays quick

    known = [each for each in models.list_models(module=models) if each.startswith("vit_")]
    if name not in known:
        raise ValueError(f"torchvision has no ViT named {name!r}; choose {', '.join(map(repr, sorted(known)))}")
    weights = models.get_model_weights(name).DEFAULT
    folder = Path(torch.hub.get_dir(), "checkpoints")

    def received():
        return sum(path.stat().st_size for path in folder.glob("*")) if folder.exists() else 0

    try:
        quiet = io.StringIO()                        # torch.hub would name a folder of this machine
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            state = patiently(lambda: weights.get_state_dict(progress=False, check_hash=True), received)
    except Exception as problem:                     # urllib, http, ssl and torch.hub each raise their own
        raise OSError(f"the weights of {name} could not be downloaded ({problem}); try again with a network") from problem
    with torch.device("meta"):                       # its sizes without its numbers
        shape = models.get_model(name, weights=None, image_size=weights.meta["min_size"][0])
    model = VisionTransformer(shape.image_size, shape.patch_size, num_classes=shape.num_classes, embed_dim=shape.hidden_dim,
                              depth=len(shape.encoder.layers), num_heads=shape.encoder.layers[0].num_heads,
                              mlp_dim=shape.mlp_dim, dropout=0.0)
    return load_weights(model, from_torchvision(state)).eval(), tuple(weights.meta["categories"])


def _stages(model):
    """The modules whose outputs are a ViT's stages, by name: of ours, of timm's and of torchvision's."""
    if isinstance(model, type):
        raise TypeError(f"{model} is a class and no model; build one with {model.__name__}()")
    if hasattr(model, "conv_proj"):                              # torchvision
        first, positions, blocks, norm = model.conv_proj, model.encoder.dropout, model.encoder.layers, model.encoder.ln
    elif hasattr(model, "patch_embed") and hasattr(model, "blocks"):
        first, blocks, norm = model.patch_embed, model.blocks, model.norm
        positions = model.norm_pre if hasattr(model, "norm_pre") else model.drop         # timm; ours
    else:
        raise TypeError(f"{arguments.told(model)} is no VisionTransformer of this course, of timm or of torchvision")
    return {"patch embedding": first, "positions": positions,
            **{f"block {i}": block for i, block in enumerate(blocks)}, "norm": norm, "logits": model}


def _outputs(model, images, gradients):
    """The output of each stage for `images`, and with gradients=True the gradient of the summed squared logits there."""
    outputs, hooks = {}, []
    for name, module in _stages(model).items():
        hooks.append(module.register_forward_hook(lambda _, __, output, name=name: outputs.__setitem__(name, output)))

    def look():
        logits = model(images)
        if gradients:
            return dict(zip(outputs, torch.autograd.grad(logits.square().sum(), list(outputs.values())), strict=True))
        return dict(outputs)

    try:
        values = in_eval_mode(model, look, gradients)
    finally:
        for hook in hooks:
            hook.remove()
    # torchvision's patch embedding is still an image (B, D, rows, columns).
    return {name: (v.flatten(2).transpose(1, 2) if v.ndim == 4 else v).detach() for name, v in values.items()}


def stage_differences(model, reference, images, gradients=False):
    """The largest absolute difference between two ViTs at each stage, for the same images (B, C, height, width): a dict.

    Stages: "patch embedding", "positions" (the tokens that enter the first block), "block 0" ..., "norm", "logits". Each may be
    the course's, timm's or torchvision's, so the first stage that differs says where to look. gradients=True compares
    the gradients of the summed squared logits with respect to each stage's output instead.
    Raises TypeError for other models, ValueError for those whose stages have other numbers or shapes.
    """
    arguments.tensor("N C height width", "float", images=images)
    ours, theirs = (_outputs(m, images, gradients) for m in (model, reference))
    if ours.keys() != theirs.keys():
        raise ValueError(f"the models have {len(ours) - 4} and {len(theirs) - 4} blocks; compare models of the same depth")
    for name in ours:
        if ours[name].shape != theirs[name].shape:
            raise ValueError(f"stage {name!r} is {tuple(ours[name].shape)} in one model and {tuple(theirs[name].shape)} in the "
                             "other; build them with the same sizes")
    return {name: (ours[name] - theirs[name]).abs().max().item() for name in ours}
