"""The race: the plain program against the course's recipe; same machine, same split of EuroSAT, several seeds, in turn.

    python tests/benchmarks/race.py [--seeds 0 1 2] [--runs quick:0.8 best:20] [--out FILE.json]

Needs EuroSAT.zip: in EUROSAT_ROOT, or in the folder that --root names. Each run is a process of its own. Its clock
starts when Python and PyTorch are loaded and the raw JPEG files lie on the disk, covers everything up to the trained
model, and stands still during tests. The course decodes the files once; what that costs is measured apart.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch
from baseline import train_plain
from record import machine, peak_memory, record

from vit_helpers import RECIPES, Tiles, VisionTransformer, evaluate, fit, load_tiles, pick_device
from vit_helpers.eurosat import COUNTS


def split_positions():
    """Where the tiles of the course's 80/20 split stand in torchvision's EuroSAT: [training, test], lists of int."""
    labels = torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS))
    numbers = torch.arange(len(labels), dtype=torch.int32).view(torch.uint8).reshape(-1, 4, 1, 1)     # in place of pixels
    parts = Tiles(numbers, labels).split()
    return [part.images.reshape(-1, 4).contiguous().view(torch.int32).flatten().tolist() for part in parts]


def run_plain(root, epochs, seed, device, **_):
    """One run of the plain program: the seconds and the test accuracy after each epoch."""
    curve = list(train_plain(root, *split_positions(), epochs=epochs, seed=seed, device=device))
    return {"seconds": curve[-1][0], "accuracy": curve[-1][1], "curve": curve}


def run_course(root, recipe, epochs, seed, device, bf16=True, views=(1,), **_):
    """One run of a recipe of the course; `views`: judge it with these numbers of views, and say what that costs."""
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


def decode(root, **_):
    """What decoding the 27,000 files once costs, into an empty cache."""
    started = perf_counter()
    load_tiles("eurosat", root=root)
    return {"seconds": perf_counter() - started}


RUNS = {"plain": run_plain, "course": run_course, "decode": decode}


def in_own_process(kind, root, cache, **settings):
    """The result of RUNS[kind] in a fresh process, with its peak memory in MB."""
    words = [sys.executable, __file__, "--one", json.dumps({"kind": kind, "root": str(root), **settings})]
    done = subprocess.run(words, env={**os.environ, "VIT_CACHE": str(cache)}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def one(kind, **settings):
    result = RUNS[kind](**settings)
    print(json.dumps({**result, "peak_mb": peak_memory(pick_device(settings.get("device"))) / 1e6}))


def spread(values, percent=False):
    """Mean and sample standard deviation as text."""
    scale, unit = (100, " %") if percent else (1, " s")
    deviation = f" ± {statistics.stdev(values) * scale:.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values) * scale:.1f}{deviation}{unit}"


def report(facts):
    """The tables of a race, as text."""
    lines = [", ".join(f"{key} {value}" for key, value in machine().items()),
             f"EuroSAT 80/20, split seed 0; seeds {facts['seeds']}; mean ± standard deviation",
             f"decoding the 27,000 JPEG files, once for all runs of the course: {facts['decode_seconds']:.1f} s", "",
             f"{'':24}{'time':>16}{'test accuracy':>18}{'8 views':>16}{'times faster':>14}{'peak memory':>13}"]
    plain = facts["runs"]["plain"]
    for name, runs in facts["runs"].items():
        seconds, accuracy = ([run[key] for run in runs] for key in ("seconds", "accuracy"))
        ratios = [p["seconds"] / run["seconds"] for p, run in zip(plain, runs, strict=True)]
        views = spread([run["accuracy_8_views"] for run in runs], percent=True) if "accuracy_8_views" in runs[0] else ""
        lines.append(f"{name:24}{spread(seconds):>16}{spread(accuracy, percent=True):>18}{views:>16}"
                     f"{statistics.mean(ratios):>13.1f}x{max(run['peak_mb'] for run in runs):>10.0f} MB")
    lines += ["", "the plain program by wall time: " + ", ".join(
        f"{statistics.mean(s for s, _ in points):.0f} s {statistics.mean(a for _, a in points):.1%}"
        for points in zip(*(run["curve"] for run in plain), strict=True))]
    final = statistics.mean(run["accuracy"] for run in plain)
    for name, runs in facts["runs"].items():
        if name == "plain" or statistics.mean(run["accuracy"] for run in runs) < final:
            continue
        ratio = [p["seconds"] / run["seconds"] for p, run in zip(plain, runs, strict=True)]
        whole = [p["seconds"] / (run["seconds"] + facts["decode_seconds"]) for p, run in zip(plain, runs, strict=True)]
        lines.append(f"{name}: at least the plain program's final accuracy ({final:.1%}) in 1/{statistics.mean(ratio):.1f} "
                     f"of its time; with the decoding 1/{statistics.mean(whole):.1f}")
    return "\n".join(lines)


def unpack(root, folder):
    """The raw JPEG files under `folder`, in torchvision's layout, from the EuroSAT.zip in `root`. Not timed."""
    archives = [Path(root, name) for name in ("EuroSAT.zip", "eurosat/EuroSAT.zip")]
    archive = next((path for path in archives if path.exists()), None)
    if archive is None:
        raise FileNotFoundError(f"no EuroSAT.zip in {root}; set EUROSAT_ROOT, or name its folder with --root")
    zipfile.ZipFile(archive).extractall(Path(folder, "eurosat"))
    return folder


def race(root, seeds, runs, plain_epochs, float32):
    """Run everything in turn; yield the facts so far after each seed: the seeds, decode_seconds and the runs by name."""
    with tempfile.TemporaryDirectory() as folder:
        files, cache = unpack(root, Path(folder, "files")), Path(folder, "cache")
        facts = {"seeds": [], "decode_seconds": in_own_process("decode", files, cache)["seconds"],
                 "runs": {}}
        field = [("plain", "plain", dict(epochs=plain_epochs))]
        for run, precision in [(run, {}) for run in runs] + [(run, {"bf16": False}) for run in float32]:
            recipe, epochs = run.split(":")
            name = f"{recipe}, {epochs} epoch{'s'[:epochs != '1']}{', float32' if precision else ''}"
            views = (1, 8) if recipe == "best" else (1,)
            field.append((name, "course", dict(recipe=recipe, epochs=float(epochs), views=views, **precision)))
        for seed in seeds:                           # in turn, so that a noisy hour harms all alike
            for name, kind, settings in field:
                run = in_own_process(kind, files, cache, seed=seed, device=str(pick_device()), **settings)
                facts["runs"].setdefault(name, []).append(run)
                print(f"seed {seed}, {name}: {run['seconds']:.1f} s, {run['accuracy']:.2%}", flush=True)
            facts["seeds"].append(seed)
            yield facts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", nargs="+", default=["quick:0.8", "best:20"], help="of the course, RECIPE:EPOCHS")
    parser.add_argument("--float32", nargs="*", default=["quick:0.8"], help="runs of the course without bf16")
    parser.add_argument("--plain-epochs", type=int, default=5)
    parser.add_argument("--root", default=os.environ.get("EUROSAT_ROOT", "."))
    parser.add_argument("--out", help="another file than vit_helpers/measured.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return one(**json.loads(args.one))
    for facts in race(args.root, args.seeds, args.runs, args.plain_epochs, args.float32):
        record("race", facts, args.out)              # after each seed: a later failure loses nothing
    print(report(facts))


if __name__ == "__main__":
    main()
