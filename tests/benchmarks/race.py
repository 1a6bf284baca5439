"""The race: the plain program against the course's recipes; same machine, same split, several seeds, in turn.

    python tests/benchmarks/race.py [--seeds 0 1 2] [--runs quick:0.8 best:20] [--out FILE.json]

Needs EuroSAT.zip, in EUROSAT_ROOT or in the folder that --root names. Each run is a process of its own. Its
clock starts when Python and PyTorch are loaded and the JPEG files are on the disk, covers everything up to
the trained model, and is stopped during tests. The course decodes the files once, which is measured apart.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch
from baseline import train_plain
from record import make_parser, peak_memory, record
from results import race_rows, table

from vit_helpers import (
    RECIPES,
    Tiles,
    VisionTransformer,
    evaluate,
    fit,
    has_fast_bf16,
    load_tiles,
    pick_device,
)
from vit_helpers.eurosat import COUNTS


def split_positions():
    """The course's 80/20 split as positions in torchvision's EuroSAT: [training, test], lists of int."""
    labels = torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS))
    tiles = Tiles(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels)          # no pixels needed
    return [part.index.tolist() for part in tiles.split()]


def run_plain(root, epochs, seed, device):
    """One run of the plain program: the seconds and the test accuracy after each epoch."""
    curve = list(train_plain(root, *split_positions(), epochs=epochs, seed=seed, device=device))
    return {"seconds": curve[-1][0], "accuracy": curve[-1][1], "curve": curve}


def run_course(root, recipe, epochs, seed, device, bf16=True, views=(1,)):
    """One run of a recipe of the course, evaluated with each number of `views`, and what that costs."""
    clock = -perf_counter()
    train, test = load_tiles("eurosat", root=root).split()
    torch.manual_seed(seed)
    recipe = replace(RECIPES[recipe], bf16=bf16)
    model = VisionTransformer(**recipe.model)
    fit(model, train, epochs=epochs, recipe=recipe, seed=seed, device=device)
    clock += perf_counter()
    result = {"seconds": clock}
    for number in views:
        started, name = perf_counter(), "accuracy" if number == 1 else f"accuracy_{number}_views"
        result[name] = evaluate(model, test, views=number).accuracy
        result[f"seconds_for_{name}"] = perf_counter() - started
    return {**result, "curve": [(clock, result["accuracy"])]}


def decode(root):
    """What it costs to decode the 27,000 files once, into an empty cache."""
    started = perf_counter()
    load_tiles("eurosat", root=root)
    return {"seconds": perf_counter() - started}


RUNS = {"plain": run_plain, "course": run_course, "decode": decode}


def in_own_process(kind, root, cache, **settings):
    """The result of RUNS[kind] in a fresh process, with its peak memory in MB."""
    words = [sys.executable, __file__, "--one", json.dumps({"kind": kind, "root": str(root), **settings})]
    environment = {**os.environ, "VIT_CACHE": str(cache)}
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def one(kind, **settings):
    result = RUNS[kind](**settings)
    print(json.dumps({**result, "peak_mb": peak_memory(pick_device(settings.get("device"))) / 1e6}))


def unpack(root, folder):
    """The JPEG files under `folder`, in torchvision's layout, from the EuroSAT.zip in `root`. Not timed."""
    archive = Path(root, "EuroSAT.zip")
    if not archive.exists():
        raise FileNotFoundError(f"no EuroSAT.zip in {root}; set EUROSAT_ROOT, or name its folder with --root")
    zipfile.ZipFile(archive).extractall(Path(folder, "eurosat"))
    return folder


def race(root, seeds, runs, plain_epochs, float32):
    """Run everything in turn; after each seed yield the facts so far: seeds, decode_seconds, runs by name."""
    with tempfile.TemporaryDirectory() as folder:
        files, cache = unpack(root, Path(folder, "files")), Path(folder, "cache")
        facts = {"seeds": [], "decode_seconds": in_own_process("decode", files, cache)["seconds"], "runs": {}}
        field = [("plain", "plain", {"epochs": plain_epochs})]
        for run, bf16 in [(run, True) for run in runs] + [(run, False) for run in float32]:
            recipe, epochs = run.split(":")
            name = f"{recipe}, {epochs} epoch{'s'[:epochs != '1']}{'' if bf16 else ', float32'}"
            settings = {"recipe": recipe, "epochs": float(epochs), "bf16": bf16}
            settings["views"] = (1, 8) if recipe == "best" else (1,)
            field.append((name, "course", settings))
        for seed in seeds:                           # in turn, so that a noisy hour harms all alike
            for name, kind, settings in field:
                run = in_own_process(kind, files, cache, seed=seed, device=str(pick_device()), **settings)
                facts["runs"].setdefault(name, []).append(run)
                print(f"seed {seed}, {name}: {run['seconds']:.1f} s, {run['accuracy']:.2%}", flush=True)
            facts["seeds"].append(seed)
            yield facts


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", nargs="+", default=["quick:0.8", "best:20"], help="RECIPE:EPOCHS")
    parser.add_argument("--float32", nargs="*", default=["quick:0.8"], help="runs of the course without bf16")
    parser.add_argument("--plain-epochs", type=int, default=5)
    parser.add_argument("--root", default=os.environ.get("EUROSAT_ROOT", "."))
    parser.add_argument("--out", help="another file for the measurements")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(**json.loads(args.one))
        return
    for facts in race(args.root, args.seeds, args.runs, args.plain_epochs, args.float32):
        name = "race" if has_fast_bf16(pick_device()) else "race-float32"
        record(name, facts, args.out)                # after each seed: a later failure loses nothing
    print(table(race_rows(facts)))


if __name__ == "__main__":
    main()
