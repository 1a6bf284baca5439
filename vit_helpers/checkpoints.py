"""Checkpoints: everything that an interrupted training needs to go on; and weights from files."""

import copy
import hashlib
import io
import re
from dataclasses import asdict
from pathlib import Path

import torch

from .runtime import atomic_write


def save_checkpoint(path, *, model, optimizers=(), schedules=(), generator=None, history=None, settings=None):
    """Write all that a run needs to go on, as one dict, whole or not at all."""
    state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
             "schedules": [s.state_dict() for s in schedules], "settings": settings,
             "generator": generator and generator.get_state(), "history": history and asdict(history),
             "random": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
    write(path, state)


def load_checkpoint(path, *, model, optimizers=(), schedules=(), generator=None, history=None, settings=None):
    """Put back what `save_checkpoint` wrote, into the objects given (often just the model), in place.

    Raises FileNotFoundError; ValueError, with nothing changed, for no checkpoint and one of other settings.
    """
    state = read(path)
    if "model" not in state or "settings" not in state:
        raise ValueError(f"{path} is not a checkpoint of this course; delete it and train again")
    if settings is not None and state["settings"] != settings:
        other = {k: v for k, v in (state["settings"] or {}).items() if settings.get(k) != v}
        raise ValueError(f"{path} belongs to a run with other settings: {other}; use these, or another file")
    load_weights(model, state["model"])
    for things, saved in ((optimizers, state["optimizers"]), (schedules, state["schedules"])):
        for thing, values in zip(things, saved if things else (), strict=True):
            thing.load_state_dict(values)
    if generator is not None:
        generator.set_state(state["generator"])
        torch.set_rng_state(state["random"])
        torch.cuda.set_rng_state_all(state["cuda"][:torch.cuda.device_count()])
    if history is not None:
        vars(history).update(state["history"])


FOREIGN_PARTS = {                                        # what ours has not, by a part of a parameter's name
    "dist": "the second token and head of a distilled ViT (DeiT); about weights see lesson 12",
    r"\breg": "registers, tokens that belong to no patch; exercise 7.4 builds a model with them",
    r"\bls[12]\b|layer_?scale": "LayerScale, a factor on what each half of a block adds, see lesson 06",
    "pooler": "a pooler, which a classifier does not use; leave its entries out"}


def foreign_parts(names):
    """What the weights with these names have that ours have not, as the end of a message; perhaps nothing."""
    found = [what for part, what in FOREIGN_PARTS.items() if re.search(part, "\n".join(names))]
    return f"\nThese weights have {', and '.join(found)}" if found else ""


def load_weights(model, weights, sha256=None):
    """Put weights into `model`: a state dict, or the path of a file that holds one. Returns the model.

    Names are timm's; others take from_torchvision or from_huggingface first. Of a checkpoint the model is
    taken; what torch.compile and DataParallel put before names does not matter. sha256: the file's checksum.
    Raises FileNotFoundError, ValueError for a damaged file, and RuntimeError, in which PyTorch names the
    entries that do not fit; the model is as it was then.
    """
    if isinstance(weights, (str, Path)):
        found = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
        if sha256 not in (None, found):
            raise ValueError(f"{weights} was damaged or replaced: wrong SHA-256 {found}; fetch it again")
        weights = read(weights)
    for inner in ("model", "state_dict"):                # of a checkpoint, ours or Lightning's
        weights = weights[inner] if isinstance(weights.get(inner), dict) else weights
    own, wrapper = model.state_dict(), re.compile(r"\b(_orig_mod|module)\.")
    names = {wrapper.sub("", name): name for name in own}
    plain = {wrapper.sub("", name): value for name, value in weights.items()}
    weights = {names.get(name, name): value for name, value in plain.items()}
    before = copy.deepcopy(own)
    try:
        model.load_state_dict(weights)
    except RuntimeError as problem:                      # what fits was loaded before it complained
        model.load_state_dict(before)
        differs = [name for name in own if name in weights and weights[name].shape != own[name].shape]
        advice, same_tokens = foreign_parts(weights), ("cls_token" in own) == ("cls_token" in weights)
        if "pos_embed" in differs and "patch_embed.proj.weight" not in differs and same_tokens:
            advice += ("\nThe positions are those of another image size: build the model for that size, "
                       "load the weights, then call model.set_img_size")
        raise RuntimeError(f"{problem}{advice}") from None
    return model


def write(path, state):
    """Write tensors and plain values whole or not at all; OSError where that fails, as on a full disk."""
    content = io.BytesIO()                               # to a path, torch.save would raise no OSError
    torch.save(state, content)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def read(path):
    """The dict in a file written by torch.save, on the CPU; tensors and plain values only, never code."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise
    except Exception as problem:                         # each kind of damage raises its own
        raise ValueError(f"{path} is not a whole file of weights ({problem}); make it again") from problem
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds {type(state).__name__}, not a state dict; write one with torch.save")
    return state
