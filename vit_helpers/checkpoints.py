"""Checkpoints: everything that an interrupted training needs to go on, and weights that are checked before use."""

from dataclasses import asdict, fields

import torch

from .runtime import written_whole


def save_checkpoint(path, model, optimizers=(), schedules=(), generator=None, history=None, settings=None):
    """Write all that a run needs to go on: weights, optimizers, schedules, random state, history. Never half a file."""
    state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
             "schedules": [s.state_dict() for s in schedules], "settings": settings,
             "random": torch.get_rng_state(), "generator": generator.get_state() if generator else None,
             "cuda": torch.cuda.get_rng_state_all(), "history": asdict(history) if history else None}
    with written_whole(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path, model, optimizers=(), schedules=(), generator=None, history=None, settings=None):
    """Put back what `save_checkpoint` wrote, into the objects given (often just the model), in place.

    Only plain tensors and numbers are read (weights_only=True). Raises FileNotFoundError, ValueError for a file that
    is no checkpoint, for weights of another model, or for another run's settings; then nothing was changed.
    """
    useless = f"{path} is not a whole checkpoint of this course; delete it and train again"
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except OSError:
        raise
    except Exception as problem:                     # each kind of damage raises its own
        raise ValueError(useless) from problem
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
        torch.set_rng_state(state["random"])
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
    if history is not None:
        for item in fields(history):
            setattr(history, item.name, state["history"][item.name])


def check_weights(model, weights, path):
    """Raise ValueError, naming every entry, unless the state dict `weights` fits `model` exactly."""
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    wrong += [f"{name} is not part of the model" for name in found.keys() - wanted.keys()]
    wrong += [f"{name} is {found[name]}, the model needs {wanted[name]}"
              for name in wanted.keys() & found.keys() if found[name] != wanted[name]]
    if wrong:
        raise ValueError(f"the weights in {path} belong to another model: " + "; ".join(sorted(wrong)))
