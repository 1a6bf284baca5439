"""What matters: the measurements that lesson 11 plots, judged on a validation part of the training tiles.

    python tests/benchmarks/what_matters.py STUDY [--seeds 0 1 2] [--source eurosat] [--out FILE.json]

STUDY is one of: walk, patch_size, positions, optimizers, learning_rate, images. The result goes to
vit_helpers/measured.json. Only `images` reports on the test tiles; nothing is chosen by it. The seed sets the
first weights, the order and the augmentation.
"""

import math
import statistics
from dataclasses import replace
from time import perf_counter

import torch
from record import make_parser, peak_memory, record
from torch import nn

from vit_helpers import GOOD, PLAIN, VisionTransformer, evaluate, fit, load_tiles, pick_device

WHOLE = replace(GOOD, keep_tokens=1.0, keep_until=0.0)             # the good recipe without dropping patches


class SmallCNN(nn.Sequential):
    """Lesson 11's convolutional network: images (B, 3, 64, 64) -> logits (B, num_classes); 0.58 M parameters.

    Four stages of two 3x3 convolutions, each followed by batch norm and ReLU; the first of a stage halves the
    image. The answer comes from the mean over all places, as in a ViT with mean pooling.
    """

    def __init__(self, num_classes=10, widths=(32, 64, 128, 128)):
        layers, last = [], 3
        for width in widths:
            for channels, stride in ((last, 2), (width, 1)):
                layers += [nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
                           nn.BatchNorm2d(width), nn.ReLU()]
            last = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, num_classes))


def trial(train, judged, recipe, epochs, seed, model=None, **changes):
    """Train one model and return its accuracy (0 to 1) on `judged` with the seconds that training took."""
    torch.manual_seed(seed)
    model = model() if model else VisionTransformer(**{**recipe.model, **changes})
    started = perf_counter()
    history = fit(model, train, epochs=epochs, recipe=recipe, seed=seed)
    seconds = perf_counter() - started
    return {"seconds": seconds, "accuracy": evaluate(model, judged).accuracy, "history": history}


def repeated(seeds, *args, **changes):
    """The trial for each seed: all accuracies, and the median of the seconds."""
    runs = [trial(*args, seed=seed, **changes) for seed in seeds]
    return {"accuracy": [round(run["accuracy"], 4) for run in runs],
            "seconds": round(statistics.median(run["seconds"] for run in runs), 1)}


def walk(train, judged, seeds):
    """From the plain recipe to the good one, one change after another; two epochs each."""
    def from_good(*names):
        return {name: getattr(GOOD, name) for name in names}

    changes = [                                      # (name, changes of the recipe, changes of the model)
        ("plain recipe", {}, {}),
        ("bf16", {"bf16": True}, {}),
        ("sine-cosine positions", {}, {"positions": "sincos"}),
        ("mean pooling", {}, {"pool": "mean"}),
        ("no dropout", {}, {"dropout": 0.0}),
        ("warm-up and decay", {"warmup": GOOD.warmup, "decay": True}, {}),
        ("flips and transposes", {"augment": True}, {}),
        ("label smoothing", from_good("label_smoothing"), {}),
        ("AdamW", {"optimizer": "adamw", **from_good("learning_rate", "weight_decay")}, {}),
        ("Muon", from_good("optimizer", "muon_learning_rate", "muon_weight_decay"), {}),
        ("patches dropped", from_good("keep_tokens", "keep_until"), {}),
    ]
    recipe, model, rows = PLAIN, {}, []
    for name, in_recipe, in_model in changes:
        model = {**model, **in_model}
        recipe = replace(recipe, model=model, **in_recipe)
        rows.append({"change": name, "epochs": 2, **repeated(seeds, train, judged, recipe, 2)})
        print(rows[-1], flush=True)
    # Steps with fewer patches are cheaper: the same time has room for more of them.
    epochs = max(3, round(2 * rows[-2]["seconds"] / rows[-1]["seconds"]))
    row = repeated(seeds, train, judged, recipe, epochs)
    rows.append({"change": "more epochs in that time", "epochs": epochs, **row})
    assert replace(recipe, model=GOOD.model) == GOOD, "the walk must end at the good recipe"
    return rows


def patch_size(train, judged, seeds):
    """Patches of 16, 8 and 4 pixels; two epochs, all patches used; time and memory beside the accuracy."""
    rows = []
    for size in (16, 8, 4):                          # the costliest last, so that each peak so far is its own
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
    """SGD with momentum, AdamW and Muon, each at three learning rates, else the good recipe; two epochs."""
    rates = {"sgd": (0.02, 0.06, 0.2), "adamw": (1e-3, 2e-3, 4e-3), "muon": (0.006, 0.012, 0.024)}
    rows = []
    for name, rate in [(name, rate) for name, tried in rates.items() for rate in tried]:
        setting = "muon_learning_rate" if name == "muon" else "learning_rate"
        recipe = replace(GOOD, optimizer=name, **{setting: rate})
        rows.append({"optimizer": name, "learning_rate": rate, **repeated(seeds, train, judged, recipe, 2)})
        print(rows[-1], flush=True)
    return rows


def learning_rate(train, judged, seeds):
    """Adam at nine constant learning rates, else the good recipe; two epochs; the losses of the first seed.

    A loss is the mean over as many steps as make 40 points of the curve.
    """
    rows = []
    for rate in (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1):
        recipe = replace(GOOD, optimizer="adam", learning_rate=rate, weight_decay=0.0, warmup=0.0,
                         decay=False)
        runs = [trial(train, judged, recipe, 2, seed) for seed in seeds]
        losses = runs[0]["history"].step_loss
        points = [losses[len(losses) * i // 40:len(losses) * (i + 1) // 40] for i in range(40)]
        rows.append({"learning_rate": rate, "accuracy": [round(run["accuracy"], 4) for run in runs],
                     "steps": len(losses), "loss": [round(statistics.mean(part), 4) for part in points]})
        print(rows[-1], flush=True)
    return rows


def images(train, judged, seeds):
    """100 to 21,600 training images, ViT against a CNN of its size, equally many steps; on the test tiles."""
    rows, steps = [], 2 * math.ceil(len(train) / GOOD.batch_size)
    for n in (100, 300, 1000, 3000, 10_000, len(train)):
        part = train.subset(n) if n < len(train) else train
        epochs = round(steps / math.ceil(n / GOOD.batch_size))
        contest = (("ViT", None, WHOLE), ("CNN", SmallCNN, replace(WHOLE, optimizer="adamw")))
        for name, model, recipe in contest:
            row = repeated(seeds, part, judged, recipe, epochs, model=model)
            rows.append({"model": name, "images": n, "epochs": epochs, **row})
            print(rows[-1], flush=True)
    return rows


STUDIES = {"walk": walk, "patch_size": patch_size, "positions": positions, "optimizers": optimizers,
           "learning_rate": learning_rate, "images": images}


def main():
    parser = make_parser(__doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--source", default="eurosat", choices=("eurosat", "synthetic"))
    parser.add_argument("--out", help="another file for the measurements")
    args = parser.parse_args()
    train, test = load_tiles(args.source).split()
    fitting, validation = train.split(seed=1)
    study = STUDIES[args.study]
    # Only `images` reports on the test tiles, so only there may the models learn from all others.
    kind, learned, judged = ("test", train, test) if study is images else ("validation", fitting, validation)
    rows = study(learned, judged, args.seeds)
    record(args.study, {"what": study.__doc__.partition("\n")[0], "source": args.source, "seeds": args.seeds,
                        "judged_on": f"{len(judged):,} {kind} tiles", "rows": rows}, args.out)


if __name__ == "__main__":
    main()
