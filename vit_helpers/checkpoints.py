"""Checkpoints: everything that an interrupted training needs to go on, and weights that are checked before use."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path

import torch

from .runtime import written_whole


def _read(path, useless):
    """What a file holds, tensors and plain values only; ValueError with the words `useless` where it is damaged or more."""
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as problem:                     # each kind of damage raises its own
        raise ValueError(useless) from problem


def write_tensors(path, state):
    """Write tensors and plain values as torch.save does, whole or not at all; OSError where that fails, as on a full disk."""
    # By way of memory: on a full disk torch raises a RuntimeError that does not say so, and Ctrl-C while it writes to a file
    # of Python's ends the whole process.
    content = io.BytesIO()
    torch.save(state, content)
    with written_whole(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def save_checkpoint(path, model, optimizers=(), schedules=(), generator=None, history=None, settings=None, keeper=None):
    """Write all that a run needs to go on: weights, optimizers, schedules, random state, history. Never half a file.

    keeper: a generator that stands for torch's own random state, see load_checkpoint.
    """
    state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
             "schedules": [s.state_dict() for s in schedules], "settings": settings,
             "random": keeper.get_state() if keeper else torch.get_rng_state(),
             "generator": generator.get_state() if generator else None,
             "cuda": torch.cuda.get_rng_state_all(), "history": asdict(history) if history else None}
    write_tensors(path, state)


def load_checkpoint(path, model, optimizers=(), schedules=(), generator=None, history=None, settings=None, keeper=None):
    """Put back what `save_checkpoint` wrote, into the objects given (often just the model), in place.

    Only plain tensors and numbers are read (weights_only=True). Raises FileNotFoundError, ValueError for a file that
    is no checkpoint, for weights of another model, or for another run's settings; then nothing was changed.
    keeper: the generator to which torch's random state goes, where several processes train, each with draws of its own.
    """
    useless = f"{path} is not a whole checkpoint of this course; delete it and train again"
    state = _read(path, useless)
    weights = state.get("model") if isinstance(state, dict) else None
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())) or "settings" not in state:
        raise ValueError(useless)
    check_weights(model, weights, path)
    if settings is not None and state["settings"] is None:
        raise ValueError(f"{path} holds weights only, no run that could go on; use another file name")
    if settings is not None and state["settings"] != settings:
        other = {k: v for k, v in state["settings"].items() if settings.get(k) != v}
        raise ValueError(f"{path} belongs to a run with other settings: {other}; use the same, or another file name")
    model.load_state_dict(weights)
    for things, name in ((optimizers, "optimizers"), (schedules, "schedules")):
        for thing, saved in zip(things, state[name] if things else (), strict=True):
            thing.load_state_dict(saved)
    if generator is not None:
        generator.set_state(state["generator"])
        keeper.set_state(state["random"]) if keeper else torch.set_rng_state(state["random"])
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
    if history is not None:
        for item in fields(history):
            setattr(history, item.name, state["history"][item.name])


def check_weights(model, weights, path):
    """Raise ValueError, naming every entry and what would fit, unless the state dict `weights` fits `model` exactly."""
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    wrong += [f"{name} is not part of the model" for name in found.keys() - wanted.keys()]
    wrong += [f"{name} is {found[name]}, the model needs {wanted[name]}"
              for name in wanted.keys() & found.keys() if found[name] != wanted[name]]
    if wrong:
        fitting = _fitting_model(weights)
        raise ValueError(f"the weights in {path} belong to another model: " + "; ".join(sorted(wrong))
                         + (f". They would fit {fitting}" if fitting else ""))


def _fitting_model(weights):
    """The words that build a VisionTransformer for these weights, as far as they tell; "" where they are none of ours."""
    if "conv_proj.weight" in weights:
        return "this model under other names: pass from_torchvision(weights)"
    needed = ("patch_embed.proj.weight", "head.weight", "blocks.0.mlp.fc1.weight", "blocks.0.attn.qkv.weight")
    if not all(name in weights and weights[name].ndim == (4 if name.startswith("patch") else 2) for name in needed):
        return ""
    D, channels, *patch = weights["patch_embed.proj.weight"].shape
    facts = {"patch_size": patch[0] if patch[0] == patch[1] else tuple(patch), "in_channels": channels,
             "num_classes": len(weights["head.weight"]), "embed_dim": D,
             "depth": len({name.split(".")[1] for name in weights if name.startswith("blocks.")}),
             "mlp_dim": len(weights["blocks.0.mlp.fc1.weight"]), "pool": "cls" if "cls_token" in weights else "mean"}
    places = ""
    if "pos_embed" in weights:
        places = f", with an img_size that has {weights['pos_embed'].shape[1] - int('cls_token' in weights)} patches"
    return "VisionTransformer(" + ", ".join(f"{name}={value!r}" for name, value in facts.items()) + ")" + places


def load_weights(model, weights, sha256=None):
    """Put weights into `model`, all of them or none: a state dict, or the path of a file that holds one. Returns the model.

    Files are read with weights_only=True, so that they cannot run anything. Names are the course's, which are timm's; for
    torchvision's names pass from_torchvision(weights). sha256: the checksum that the file must have, if any.
    Raises FileNotFoundError, and ValueError for another checksum, for a file or a dict that is no plain state dict, or for
    missing, extra or wrongly shaped entries, each named; then the model is as it was.
    """
    where = "the state dict"
    if isinstance(weights, (str, Path)):
        where = str(weights)
        if sha256 and (found := hashlib.sha256(Path(where).read_bytes()).hexdigest()) != sha256:
            raise ValueError(f"{where} has the checksum {found[:12]}... instead of {sha256[:12]}...: it was damaged or "
                             "replaced; fetch it again, or make it again with the command in the .json file beside it")
        weights = _read(where, f"{where} is not a plain state dict that can be read safely; write one with "
                               "torch.save(model.state_dict(), path)")
    if not isinstance(weights, Mapping) or not weights or not all(map(torch.is_tensor, weights.values())):
        inside = ", ".join(map(repr, list(weights)[:5])) if isinstance(weights, Mapping) else type(weights).__name__
        raise ValueError(f"{where} is not a plain state dict of names and tensors but holds {inside or 'nothing'}; write "
                         "one with torch.save(model.state_dict(), path)")
    check_weights(model, weights, where)
    model.load_state_dict(weights)
    return model
