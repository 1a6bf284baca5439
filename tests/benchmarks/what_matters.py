"""What matters: the measurements that lesson 11 plots. Accuracy is on a validation part of the training tiles.

    python tests/benchmarks/what_matters.py STUDY [--seeds 0 1 2] [--source eurosat] [--out FILE.json]

STUDY is one of: walk, patch_size, positions, optimizers, learning_rate, images. The result goes to vit_helpers/measured.json.
Only `images` reports on the test tiles; nothing is chosen by it. The seed sets first weights, order and augmentation.
"""

import argparse
import math
import statistics
from dataclasses import replace
from time import perf_counter

import torch
from record import peak_memory, record

from vit_helpers import GOOD, PLAIN, VisionTransformer, evaluate, fit, load_tiles, pick_device
from vit_helpers.cnn import SmallCNN

WHOLE = replace(GOOD, keep_tokens=1.0, keep_until=0.0)                   # the good recipe without dropping patches


def trial(train, judged, recipe, epochs, seed, model=None, **changes):
    """Train one model and return its accuracy (0 to 1) on `judged` with the seconds that training took."""
    torch.manual_seed(seed)
    model = model() if model else VisionTransformer(**{**recipe.model, **changes})
    started = perf_counter()
    history = fit(model, train, epochs=epochs, recipe=recipe, seed=seed)
    return {"seconds": perf_counter() - started, "accuracy": evaluate(model, judged).accuracy, "history": history}


def repeated(seeds, *args, **changes):
    """The trial for each seed: all accuracies, and the median of the seconds."""
    runs = [trial(*args, seed=seed, **changes) for seed in seeds]
    return {"accuracy": [round(run["accuracy"], 4) for run in runs],
            "seconds": round(statistics.median(run["seconds"] for run in runs), 1)}


def walk(train, judged, seeds):
    """From the plain recipe to the good one, one change after another; two epochs each."""
    changes = [
        ("plain recipe", {}, {}), ("bf16", dict(bf16=True), {}), ("sine-cosine positions", {}, dict(positions="sincos")),
        ("mean pooling", {}, dict(pool="mean")), ("no dropout", {}, dict(dropout=0.0)),
        ("warm-up and decay", dict(warmup=GOOD.warmup, decay=True), {}), ("flips and transposes", dict(augment=True), {}),
        ("label smoothing", dict(label_smoothing=GOOD.label_smoothing), {}),
        ("AdamW", dict(optimizer="adamw", learning_rate=GOOD.learning_rate, weight_decay=GOOD.weight_decay), {}),
        ("Muon", {name: getattr(GOOD, name) for name in ("optimizer", "muon_learning_rate", "muon_weight_decay")}, {}),
        ("patches dropped", dict(keep_tokens=GOOD.keep_tokens, keep_until=GOOD.keep_until), {}),
    ]
    recipe, model, rows = PLAIN, {}, []
    for name, in_recipe, in_model in changes:
        model = {**model, **in_model}
        recipe = replace(recipe, model=model, **in_recipe)
        rows.append({"change": name, "epochs": 2, **repeated(seeds, train, judged, recipe, 2)})
        print(rows[-1], flush=True)
    # Steps with fewer patches are cheaper: the same time has room for more of them.
    epochs = max(3, round(2 * rows[-2]["seconds"] / rows[-1]["seconds"]))
    rows.append({"change": "more epochs in that time", "epochs": epochs, **repeated(seeds, train, judged, recipe, epochs)})
    assert replace(recipe, model=GOOD.model) == GOOD, "the walk must end at the good recipe"
    return rows


def patch_size(train, judged, seeds):
    """Patches of 16, 8 and 4 pixels; two epochs, all patches used; time and memory of a step beside the accuracy."""
    rows = []
    for size in (16, 8, 4):                          # from small to large, so that the peak so far is that of this size
        row = repeated(seeds, train, judged, WHOLE, 2, patch_size=size)
        peak = peak_memory(pick_device()) / 1e6
        model = VisionTransformer(**WHOLE.model, patch_size=size)
        steps = 2 * math.ceil(len(train) / WHOLE.batch_size)
        rows.append({"patch_size": size, "tokens": model.grid[0] * model.grid[1],
                     "parameters": sum(p.numel() for p in model.parameters()),
                     "ms_per_step": round(row["seconds"] / steps * 1000, 1), "peak_mb": round(peak), **row})
        print(rows[-1], flush=True)
    return rows


def positions(train, judged, seeds):
    """No positions, learned ones and the sine-cosine table, in the good recipe; two epochs."""
    rows = []
    for kind in ("none", "learned", "sincos"):
        rows.append({"positions": kind, **repeated(seeds, train, judged, GOOD, 2, positions=kind)})
        print(rows[-1], flush=True)
    return rows


def optimizers(train, judged, seeds):
    """SGD with momentum, AdamW and Muon, each at three learning rates, all else as in the good recipe; two epochs."""
    rows = []
    for name, which, rates in (("sgd", "learning_rate", (0.02, 0.06, 0.2)), ("adamw", "learning_rate", (1e-3, 2e-3, 4e-3)),
                               ("muon", "muon_learning_rate", (0.006, 0.012, 0.024))):
        for rate in rates:
            recipe = replace(GOOD, optimizer=name, **{which: rate})
            rows.append({"optimizer": name, "learning_rate": rate, **repeated(seeds, train, judged, recipe, 2)})
            print(rows[-1], flush=True)
    return rows


def learning_rate(train, judged, seeds):
    """Adam at nine constant learning rates, all else as in the good recipe; two epochs; the losses of the first seed.

    A loss is the mean over as many steps as make 40 points of the curve.
    """
    rows = []
    for rate in (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1):
        recipe = replace(GOOD, optimizer="adam", learning_rate=rate, weight_decay=0.0, warmup=0.0, decay=False)
        runs = [trial(train, judged, recipe, 2, seed) for seed in seeds]
        losses = runs[0]["history"].step_loss
        points = [losses[len(losses) * i // 40:len(losses) * (i + 1) // 40] for i in range(40)]
        rows.append({"learning_rate": rate, "accuracy": [round(run["accuracy"], 4) for run in runs], "steps": len(losses),
                     "loss": [round(statistics.mean(part), 4) for part in points]})
        print(rows[-1], flush=True)
    return rows


def images(train, judged, seeds):
    """100 to 21,600 training images, ViT against a CNN of the same size, the same number of steps each; on the test tiles."""
    rows, steps = [], 2 * math.ceil(len(train) / GOOD.batch_size)
    for n in (100, 300, 1000, 3000, 10_000, len(train)):
        part = train.subset(n) if n < len(train) else train
        epochs = round(steps / math.ceil(n / GOOD.batch_size))
        for name, model, recipe in (("ViT", None, WHOLE), ("CNN", SmallCNN, replace(WHOLE, optimizer="adamw"))):
            row = repeated(seeds, part, judged, recipe, epochs, model=model)
            rows.append({"model": name, "images": n, "epochs": epochs, **row})
            print(rows[-1], flush=True)
    return rows


STUDIES = {study.__name__: study for study in (walk, patch_size, positions, optimizers, learning_rate, images)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--source", default="eurosat", choices=("eurosat", "synthetic"))
    parser.add_argument("--out", help="another file than vit_helpers/measured.json")
    args = parser.parse_args()
    train, test = load_tiles(args.source).split()
    fitting, validation = train.split(seed=1)
    study = STUDIES[args.study]
    # Only `images` reports on the test tiles, so only there may the models learn from all others.
    kind, learned, judged = ("test", train, test) if study is images else ("validation", fitting, validation)
    record(args.study, {"what": study.__doc__, "source": args.source, "seeds": args.seeds,
                        "judged_on": f"{len(judged):,} {kind} tiles", "rows": study(learned, judged, args.seeds)}, args.out)


if __name__ == "__main__":
    main()
