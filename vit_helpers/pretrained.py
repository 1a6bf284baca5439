"""Trained weights: those the course ships, and those of torchvision and timm in the course's own class."""

import hashlib
import io
import json
import re
import socket
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path

import torch

from .checkpoints import foreign_parts, load_weights, write
from .model import VisionTransformer
from .patches import pair
from .runtime import atomic_write, eval_mode, smoke

WEIGHTS = Path(__file__).parent / "weights"
MEASURED = Path(__file__).parent / "measured.json"       # written by tests/benchmarks/


def load_pretrained(name="auto"):
    """A trained VisionTransformer in eval mode, on the CPU. Needs no network.

    name: "eurosat" (trained on EuroSAT's 64x64 tiles), "eurosat-conv" (with a convolutional stem, by
    the recipe conv), "synthetic" (on the stand-in tiles), "eurosat-plain" (EuroSAT with the plain recipe, for
    comparison), or "auto": "eurosat", under VIT_SMOKE "synthetic". Or the path of your own, such as
    "weights/mine.pt", beside their facts in mine.json, as `python -m vit_helpers train` and `save_pretrained`
    write them. Raises ValueError for any other name, FileNotFoundError.
    """
    facts = pretrained_facts(name)
    model = VisionTransformer(**facts["model"])
    load_weights(model, facts_file(name).with_suffix(".pt"), facts.get("sha256")).eval()
    return model.set_img_size(facts["img_size"]) if "img_size" in facts else model


def pretrained_facts(name="auto"):
    """How weights were made and what they reached: model, recipe, split, seed, accuracy, command; a dict."""
    return json.loads(facts_file(name).read_text(encoding="utf-8"))


def facts_file(name):
    """The json file beside the weights of that name or path."""
    name = ("synthetic" if smoke() else "eurosat") if name == "auto" else name
    if Path(name).suffix == ".pt":
        file = Path(name).with_suffix(".json")
        for path in (Path(name), file):
            if not path.is_file():
                raise FileNotFoundError(f"there is no file {path}; `train` writes {name}, {file.name}; for "
                                        "others build the model and use load_weights(model, path)")
        return file
    known = sorted(path.stem for path in WEIGHTS.glob("*.json"))
    if name not in known:
        raise ValueError(f"no shipped weights are named {name!r}; choose {' or '.join(map(repr, known))}, or "
                         "give the path of your own, such as 'weights/mine.pt'")
    return WEIGHTS / f"{name}.json"


def measured(name):
    """What one of tests/benchmarks/ measured, with its command, machine and setting; a dict, or KeyError."""
    return json.loads(MEASURED.read_text(encoding="utf-8"))[name]


def save_pretrained(name, model, facts, folder=WEIGHTS, dtype=None):
    """Write the weights of a ViT, or a head, as `dtype`, and the facts: `name`.pt and `name`.json."""
    file = Path(folder) / f"{name}.pt"
    write(file, {key: value.to("cpu", dtype) for key, value in model.state_dict().items()})
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()             # load_weights looks at it
    body = getattr(model, "encoder", model)
    resized = {"img_size": body.img_size} if body.img_size != pair(body.config["img_size"]) else {}
    known = {"name": name, "model": body.config, **resized, **facts, "sha256": checksum}
    with atomic_write(file.with_suffix(".json")) as temporary:
        text = json.dumps(known, indent=2, default=lambda number: number.item())     # NumPy's and torch's
        temporary.write_text(text + "\n", encoding="utf-8")


# Other names of our modules, outside the blocks and in them; ours are timm's.
TORCHVISION = ({"class_token": "cls_token", "conv_proj": "patch_embed.proj", "heads.head": "head",
                "encoder.pos_embedding": "pos_embed", "encoder.ln": "norm"},
               {"ln_1": "norm1", "ln_2": "norm2", "self_attention.in_proj": "attn.qkv",
                "self_attention.out_proj": "attn.proj", "mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2",
                "mlp.linear_1": "mlp.fc1", "mlp.linear_2": "mlp.fc2"})
HUGGING_FACE = ({"embeddings.cls_token": "cls_token", "embeddings.position_embeddings": "pos_embed",
                 "embeddings.patch_embeddings.projection": "patch_embed.proj", "layernorm": "norm",
                 "classifier": "head"},
                {"layernorm_before": "norm1", "layernorm_after": "norm2", "attention.qkv": "attn.qkv",
                 "attention.output.dense": "attn.proj", "intermediate.dense": "mlp.fc1",
                 "output.dense": "mlp.fc2"})


def renamed(state_dict, names, whose):
    """The state dict under our names; raises ValueError that lists the entries which have none."""
    (outer, inner), new, unknown = names, {}, []
    for name, value in state_dict.items():
        module, kind = re.fullmatch(r"(.*?)(?:[._](weight|bias))?", name).groups()
        block = re.fullmatch(r"encoder\.(?:layers\.encoder_layer_|layer\.)(\d+)\.(.+)", module)
        ours = f"blocks.{block[1]}.{inner[block[2]]}" if block and block[2] in inner else outer.get(module)
        if ours is None:
            unknown.append(name)
        new[f"{ours}.{kind}" if kind else ours] = value
    if unknown:
        timms = "; timm's names need no renaming: pass the state dict as it is"
        more = timms if "cls_token" in unknown else ""
        raise ValueError(f"these entries have no place in a VisionTransformer, under {whose} names: "
                         f"{', '.join(unknown)}{more}{foreign_parts(unknown)}")
    return new


def from_torchvision(state_dict):
    """The state dict of a torchvision VisionTransformer, such as vit_b_16, under the course's (timm's) names.

    Its `in_proj_weight` packs Q, K, V by rows as `qkv` does. ValueError lists the entries that have no place.
    """
    return renamed(state_dict, TORCHVISION, "torchvision's")


def from_huggingface(state_dict):
    """The state dict of Hugging Face's ViTForImageClassification under the course's (timm's) names.

    Its LayerNorms have eps 1e-12, ours 1e-6. For a ViTModel, which has no head, keep your own:
    load_weights(model, {**model.state_dict(), **from_huggingface(theirs)}). ValueError as from_torchvision.
    """
    state = {name.removeprefix("vit."): value for name, value in state_dict.items()}
    for name in [name for name in state if ".attention.attention.query." in name]:
        parts = [state.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        state[name.replace("attention.query", "qkv")] = torch.cat(parts)         # 3 times (D, D) -> (3D, D)
    return renamed(state, HUGGING_FACE, "Hugging Face's")


def load_published(name="vit_b_16"):
    """A ViT that torchvision published, trained on ImageNet, in our class: (model, 1,000 class names).

    name: "vit_b_16" (346 MB to download, once), "vit_b_32", "vit_l_16", "vit_l_32" or "vit_h_14". Raises
    OSError where there is no network, after ten silent seconds.
    """
    from torchvision import models  # here, so that importing the package stays quick

    if smoke():
        raise OSError("VIT_SMOKE is set, so nothing is downloaded")
    weights, before = models.get_model_weights(name).DEFAULT, socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)                         # torch.hub sets none
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):    # names folders
            vit = models.get_model(name, weights=weights, progress=False)
    except Exception as problem:                         # urllib, ssl and torch.hub each raise their own
        raise OSError(f"the weights of {name} could not be downloaded ({problem})") from problem
    finally:
        socket.setdefaulttimeout(before)
    model = VisionTransformer(
        vit.image_size, vit.patch_size, num_classes=vit.num_classes, embed_dim=vit.hidden_dim, dropout=0.0,
        depth=len(vit.encoder.layers), num_heads=vit.encoder.layers[0].num_heads, mlp_dim=vit.mlp_dim)
    return load_weights(model, from_torchvision(vit.state_dict())).eval(), tuple(weights.meta["categories"])


def stages(model):
    """The modules whose outputs are a ViT's stages, by name: of ours, of timm's and of torchvision's."""
    if hasattr(model, "conv_proj"):                      # torchvision
        body = model.encoder
        first, last, blocks, norm = model.conv_proj, body.dropout, body.layers, body.ln
    else:                                                # timm; ours
        last = model.norm_pre if hasattr(model, "norm_pre") else model.drop
        first, blocks, norm = model.patch_embed, model.blocks, model.norm
    numbered = {f"block {i}": block for i, block in enumerate(blocks)}
    return {"patch embedding": first, "positions": last, **numbered, "norm": norm, "logits": model}


def outputs(model, images, gradients):
    """The output of each stage for `images`, or the gradient of the summed squared logits there."""
    found = {}
    with ExitStack() as hooks, eval_mode(model), torch.set_grad_enabled(gradients):
        for name, stage in stages(model).items():
            def keep(module, inputs, output, name=name):
                found[name] = output
            hooks.enter_context(stage.register_forward_hook(keep))
        logits = model(images)
        values = torch.autograd.grad(logits.square().sum(), found.values()) if gradients else found.values()
    # torchvision's patch embedding is still an image (B, D, rows, columns).
    values = [v.flatten(2).transpose(1, 2) if v.ndim == 4 else v for v in values]
    return dict(zip(found, (v.detach() for v in values), strict=True))


def stage_differences(model, reference, images, gradients=False):
    """The largest absolute difference of two ViTs at each stage, for images (B, C, height, width): a dict.

    Stages: "patch embedding", "positions" (the tokens that enter the first block), "block 0" ..., "norm",
    "logits"; the first that differs says where to look. Each model may be the course's, timm's or
    torchvision's. gradients=True compares the gradients of the summed squared logits at each stage.
    """
    ours, theirs = (outputs(m, images, gradients) for m in (model, reference))
    if {name: v.shape for name, v in ours.items()} != {name: v.shape for name, v in theirs.items()}:
        raise ValueError("the models have stages of other numbers or shapes; build them with the same sizes")
    return {name: (ours[name] - theirs[name]).abs().max().item() for name in ours}
