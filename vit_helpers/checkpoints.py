"""Checkpoints: everything that an interrupted training needs to go on; and weights from files."""

import hashlib
import io
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

    Only tensors and plain values are read (weights_only=True). Raises FileNotFoundError, and ValueError for a
    file that is no checkpoint or that belongs to a run with other settings; then nothing was changed.
    """
    state = read(path)
    if "model" not in state or "settings" not in state:
        raise ValueError(f"{path} is not a checkpoint of this course; delete it and train again")
    if settings is not None and state["settings"] != settings:
        other = {k: v for k, v in (state["settings"] or {}).items() if settings.get(k) != v}
        raise ValueError(f"{path} belongs to a run with other settings: {other}; use these, or another file")
    model.load_state_dict(state["model"])
    for things, saved in ((optimizers, state["optimizers"]), (schedules, state["schedules"])):
        for thing, values in zip(things, saved if things else (), strict=True):
            thing.load_state_dict(values)
    if generator is not None:
        generator.set_state(state["generator"])
        torch.set_rng_state(state["random"])
        torch.cuda.set_rng_state_all(state["cuda"][:torch.cuda.device_count()])
    if history is not None:
        vars(history).update(state["history"])


def load_weights(model, weights, sha256=None):
    """Put weights into `model`: a state dict, or the path of a file that holds one. Returns the model.

    Names are the course's, which are timm's; for torchvision's pass from_torchvision(weights). sha256: the
    checksum that the file must have. Raises FileNotFoundError, and ValueError for a damaged file; PyTorch
    names the entries that do not fit.
    """
    if isinstance(weights, (str, Path)):
        found = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
        if sha256 not in (None, found):
            raise ValueError(f"{weights} has the checksum {found[:12]}... in place of {sha256[:12]}...: it "
                             "was damaged or replaced; fetch it again")
        weights = read(weights)
    model.load_state_dict(weights)
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
