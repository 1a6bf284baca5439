"""The trained Vision Transformers that the course ships: reading them, and writing them anew."""

import json
from pathlib import Path

import torch

from .checkpoints import check_weights
from .model import VisionTransformer
from .runtime import by_budget, written_whole

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
    path = WEIGHTS / f"{facts['name']}.pt"
    model = VisionTransformer(**facts["model"])
    weights = torch.load(path, weights_only=True, map_location="cpu")
    check_weights(model, weights, path)
    model.load_state_dict(weights)
    return model.eval()


def pretrained_facts(name="auto"):
    """How shipped weights were made and what they reached: model, recipe, split, seed, accuracy, command; a dict."""
    name = by_budget(smoke="synthetic", lesson="eurosat", full="eurosat") if name == "auto" else name
    known = sorted(path.stem for path in WEIGHTS.glob("*.json"))
    if name not in known:
        raise ValueError(f"no shipped weights are named {name!r}; choose {' or '.join(map(repr, known))}")
    return json.loads((WEIGHTS / f"{name}.json").read_text())


def measured(name):
    """What one benchmark of the course has measured, with the command that makes it again, the machine and the setting; a dict.

    See tests/benchmarks/ for what there is. Raises ValueError for any other name.
    """
    everything = json.loads(MEASURED.read_text())
    if name not in everything:
        raise ValueError(f"nothing measured is named {name!r}; choose {' or '.join(map(repr, everything))}")
    return everything[name]


def save_pretrained(name, model, facts, folder=WEIGHTS):
    """Write the weights of `model` and the facts about them as `name`.pt and `name`.json."""
    with written_whole(Path(folder) / f"{name}.pt") as temporary:
        torch.save({key: value.cpu() for key, value in model.state_dict().items()}, temporary)
    with written_whole(Path(folder) / f"{name}.json") as temporary:
        temporary.write_text(json.dumps({"name": name, "model": model.config, **facts}, indent=2) + "\n")
