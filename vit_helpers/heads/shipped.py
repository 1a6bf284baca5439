"""The trained heads that the course ships, with the facts about how they were made."""

import json
from pathlib import Path

import torch

from ..checkpoints import load_weights
from ..model import VisionTransformer
from ..pretrained import WEIGHTS, save_pretrained
from .flow import DiffusionTransformer
from .masked import MaskedAutoencoder

FOLDER = WEIGHTS / "heads"
HEADS = {"generator": DiffusionTransformer, "masked": MaskedAutoencoder}


def load_head(name, folder=FOLDER):
    """A trained head around its encoder, in eval mode, on the CPU, and the facts about it: (model, dict). Needs no network.

    name: "generator", a DiffusionTransformer for 32x32 tiles of EuroSAT's ten classes, or "masked", a MaskedAutoencoder for
    64x64 tiles. Raises ValueError for any other name.
    """
    if not isinstance(name, str) or name not in HEADS:
        raise ValueError(f"no shipped head is named {name!r}; choose {' or '.join(map(repr, HEADS))}")
    facts = json.loads((Path(folder) / f"{name}.json").read_text(encoding="utf-8"))
    model = HEADS[name](VisionTransformer(**facts["model"]))
    return load_weights(model, Path(folder) / f"{name}.pt", facts.get("sha256")).eval(), facts


def save_head(name, model, facts, folder=FOLDER):
    """Write a head's weights, in half precision to halve the file, and the facts about it, as `name`.pt and `name`.json."""
    save_pretrained(name, model, facts, folder, dtype=torch.float16)
