"""What matters: the measurements that lessons 11, 13 to 15, 17 and 20 to 22 plot.

    python tests/benchmarks/what_matters.py STUDY [--seeds 0 1 2] [--source eurosat] [--out FILE.json]

All studies are judged on part of the training tiles but `images`, `places` and `heads`, which report on test
tiles; nothing is chosen by them. The result goes to vit_helpers/measured.json where a lesson plots it, else
to measurements.json. The seed sets first weights, order and augmentation.
"""

import copy
import json
import math
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

import torch
import torch.nn.functional as F
from record import make_parser, peak_memory, record
from throughput import in_turn, step_of
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import vit_helpers.heads
from vit_helpers import CONV, GOOD, PLAIN, QUICK, Tiles, VisionTransformer, evaluate, fit, load_tiles, scenes
from vit_helpers.evaluation import confusion_counts, pooled_features
from vit_helpers.recipes import make_optimizers
from vit_helpers.runtime import rounds

FAST = replace(GOOD, muon_learning_rate=0.03, learning_rate=5e-3)        # lesson 21's, for short runs
STARTS = "class ", "def ", "@torch"                  # of a lesson's cells that define something
STEPS = {"masked autoencoder": 385, "self-distillation": 500}      # of `labels`: each about 80 seconds
WHOLE = replace(GOOD, keep_tokens=1.0, keep_until=0.0)             # the good recipe without dropping patches


class Trial:
    """Trains models on one part of the tiles, once for each seed, and judges them on another."""

    def __init__(self, train, judged, seeds):
        self.train, self.judged, self.seeds = train, judged, seeds

    def __call__(self, recipe, epochs=2, train=None, network=VisionTransformer, **changes):
        """Accuracies (0 to 1), median seconds; also `histories`, `losses`, `models`, `cpu_seconds`."""
        arguments = {**recipe.model, **changes} if network is VisionTransformer else {}
        accuracies, times, self.histories, self.losses = [], [], [], []
        self.models, self.cpu_seconds = [], []
        for seed in self.seeds:
            torch.manual_seed(seed)
            model = network(**arguments)
            started, cpu = perf_counter(), process_time()
            self.histories.append(fit(model, train or self.train, epochs=epochs, recipe=recipe, seed=seed))
            times.append(perf_counter() - started)
            self.cpu_seconds.append(process_time() - cpu)
            self.models.append(model)
            found = evaluate(model, self.judged)
            accuracies.append(round(found.accuracy, 4))
            self.losses.append(round(found.loss, 4))
        return {"accuracy": accuracies, "seconds": round(statistics.median(times), 1)}


def walk(trial):
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
        ("AdamW's weight decay", {"optimizer": "adamw", **from_good("weight_decay")}, {}),
        ("twice the learning rate", from_good("learning_rate"), {}),
        ("Muon", from_good("optimizer", "muon_learning_rate", "muon_weight_decay"), {}),
        ("patches dropped", from_good("keep_tokens", "keep_until"), {}),
    ]
    recipe, seconds = PLAIN, []
    for name, in_recipe, in_model in changes:
        recipe = replace(recipe, model={**recipe.model, **in_model}, **in_recipe)
        row = {"change": name, "epochs": 2, **trial(recipe)}
        seconds.append(row["seconds"])
        yield row
    # Steps with fewer patches are cheaper: the same time has room for more of them.
    epochs = max(3, round(2 * seconds[-2] / seconds[-1]))
    yield {"change": "more epochs", "epochs": epochs, **trial(recipe, epochs)}
    assert replace(recipe, model=GOOD.model) == GOOD, "the walk must end at the good recipe"


def patch_size(trial):
    """Patches of 16, 8 and 4 pixels; two epochs, all patches used; time and memory beside the accuracy."""
    for size in (16, 8, 4):                          # the costliest last, so that each peak so far is its own
        row = trial(WHOLE, patch_size=size)
        model = VisionTransformer(**WHOLE.model, patch_size=size)
        steps = 2 * math.ceil(len(trial.train) / WHOLE.batch_size)
        yield {"patch_size": size, "tokens": math.prod(model.grid),
               "parameters": sum(p.numel() for p in model.parameters()),
               "ms_per_step": round(row["seconds"] / steps * 1000, 1),
               "peak_mb": round(peak_memory() / 1e6), **row}


def positions(trial):
    """No positions, learned ones and the sine-cosine table, in the good recipe; two epochs."""
    for kind in ("none", "learned", "sincos"):
        yield {"positions": kind, **trial(GOOD, positions=kind)}


def optimizers(trial):
    """SGD with momentum, AdamW and Muon, each at three learning rates, else the good recipe; two epochs."""
    rates = {"sgd": (0.02, 0.06, 0.2), "adamw": (1e-3, 2e-3, 4e-3), "muon": (0.006, 0.012, 0.024)}
    for name, rate in [(name, rate) for name, tried in rates.items() for rate in tried]:
        setting = "muon_learning_rate" if name == "muon" else "learning_rate"
        recipe = replace(GOOD, optimizer=name, **{setting: rate})
        yield {"optimizer": name, "learning_rate": rate, **trial(recipe)}


def learning_rate(trial):
    """Adam at nine constant learning rates, else the good recipe; two epochs; the losses of the first seed.

    A loss is the mean over as many steps as make 40 points of the curve.
    """
    adam = replace(GOOD, optimizer="adam", weight_decay=0.0, warmup=0.0, decay=False)
    for rate in (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1):
        accuracy = trial(replace(adam, learning_rate=rate))["accuracy"]
        losses = trial.histories[0].step_loss
        points = [losses[len(losses) * i // 40:len(losses) * (i + 1) // 40] for i in range(40)]
        yield {"learning_rate": rate, "accuracy": accuracy, "steps": len(losses),
               "loss": [round(statistics.mean(part), 3) for part in points]}


def rivals(trial):
    """ViT and CNN, both with AdamW and Muon, at the best rate by a seed of its own; two epochs."""
    search = Trial(trial.train, trial.judged, [100])
    for name, network in (("ViT", VisionTransformer), ("CNN", SmallCNN)):
        for optimizer, setting, rates in (("adamw", "learning_rate", (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3)),
                                          ("muon", "muon_learning_rate", (0.006, 0.012, 0.024, 0.048))):
            recipes = {rate: replace(WHOLE, optimizer=optimizer, **{setting: rate}) for rate in rates}
            tried = {rate: search(recipes[rate], network=network)["accuracy"][0] for rate in rates}
            best = max(tried, key=tried.get)
            yield {"model": name, "optimizer": optimizer, "learning_rate": best, "tried": tried,
                   **trial(recipes[best], network=network)}


def compute(trial):
    """Loss on the validation tiles over the operations of training: 3 widths, 1/8 to 1 epoch, all patches.

    The operations are those of PyTorch's FlopCounterMode for the forward and backward pass of one tile, with
    attention in its explicit form, times all tiles; what the optimizer computes is not counted.
    """
    for width in (32, 64, 128):                      # heads of 32 numbers in each
        model = {"embed_dim": width, "mlp_dim": 2 * width, "num_heads": width // 32}
        one = VisionTransformer(**{**WHOLE.model, **model})
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            one(torch.zeros(1, 3, 64, 64)).sum().backward()
        for epochs in (0.125, 0.25, 0.5, 1):
            row = trial(WHOLE, epochs, **model)
            yield {"width": width, "parameters": sum(p.numel() for p in one.parameters()), "epochs": epochs,
                   "billion_operations": round(counter.get_total_flops() * epochs * len(trial.train) / 1e9),
                   "loss": round(statistics.mean(trial.losses), 4), "losses": trial.losses, **row}


def images(trial):
    """100 to 21,600 training images, ViT against a CNN of its size, equally many steps; on the test tiles."""
    cnn = replace(WHOLE, learning_rate=1e-3)         # each at its best rate by `rivals`
    steps = 2 * math.ceil(len(trial.train) / GOOD.batch_size)
    for n in (100, 300, 1000, 3000, 10_000, len(trial.train)):
        part = trial.train.subset(n) if n < len(trial.train) else trial.train
        epochs = round(steps / math.ceil(n / GOOD.batch_size))
        for name, network, recipe in (("ViT", VisionTransformer, WHOLE),
                                      ("CNN", SmallCNN, replace(cnn, optimizer="adamw")),
                                      ("CNN", SmallCNN, replace(WHOLE, muon_learning_rate=0.024))):
            yield {"model": name, "optimizer": recipe.optimizer, "images": n, "epochs": epochs,
                   **trial(recipe, epochs, part, network)}


def places(trial):
    """ViT, ViT with a convolutional stem and CNN on two splits of 60/20/20: at random, and by longitude.

    `accuracy` is that of the test tiles, `validation_accuracy` that of the part by which recipes were chosen.
    """
    tiles, stem = load_tiles("eurosat"), {"model": {**GOOD.model, "stem": "conv"}}
    learned, test = tiles.split()
    splits = {"random": (*learned.split(0.25, seed=1), test), "spatial": tiles.spatial_split()}
    for model, network, name, recipe, epochs in (
            ("ViT", VisionTransformer, "good", GOOD, 5),
            ("ViT, convolutional stem", VisionTransformer, "good", replace(GOOD, **stem), 5),
            ("CNN", SmallCNN, "good", replace(WHOLE, muon_learning_rate=0.024), 5),     # its best in `rivals`
            ("ViT", VisionTransformer, "conv", replace(CONV, model=GOOD.model), 15),
            ("ViT, convolutional stem", VisionTransformer, "conv", CONV, 15),
            ("CNN", SmallCNN, "conv", replace(CONV, muon_learning_rate=0.024, keep_until=0.0), 15)):
        for split, (train, validation, test) in splits.items():
            if epochs == 15 and split == "random":       # `best.py` says more about that
                continue
            judged = Trial(train, test, trial.seeds)
            row = judged(recipe, epochs, network=network)
            known = [round(evaluate(trained, validation).accuracy, 4) for trained in judged.models]
            yield {"model": model, "recipe": name, "epochs": epochs, "split": split, **row,
                   "validation_accuracy": known}


def stem(trial):
    """What in the convolutional stem helps: one thing at a time added to the linear one, or taken from it.

    Five epochs of `good` on the spatial split, judged on its validation part.
    """
    tiles = load_tiles("eurosat")
    trial.train, trial.judged, _ = tiles.spatial_split()

    def edited(change):
        """A new ViT whose stem is `change` of the stem's layers, on which Muon works as before."""
        model = VisionTransformer(**GOOD.model, stem="conv")
        model.patch_embed.proj = nn.Sequential(*change(list(model.patch_embed.proj)))
        return model

    def linear(layers):                              # the plain one
        return [VisionTransformer(**GOOD.model).patch_embed.proj]

    def overlapping(layers):                         # 16x16 pixels in steps of 8; as many in each sum: twice
        wide = nn.Conv2d(3, 128, 16, stride=8, padding=4)
        nn.init.normal_(wide.weight, std=0.5 / (0.12 * math.sqrt(wide.weight[0].numel() / 4)))
        return [wide]

    def without(kind, layers):
        for layer in layers:
            if kind is nn.BatchNorm2d and isinstance(layer, nn.Conv2d):      # keep the size of what passes
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        return [layer for layer in layers if not isinstance(layer, kind)]

    def each_patch_alone():                          # nothing crosses the edge of a patch
        model = VisionTransformer(**GOOD.model, stem="conv")
        whole = model.patch_embed.forward

        def forward(images):
            patches = vit_helpers.patchify(images, 8).unflatten(2, (3, 8, 8)).flatten(0, 1)
            return whole(patches).reshape(len(images), 64, 128)

        model.patch_embed.forward = forward
        return model

    def with_adamw():
        model = VisionTransformer(**GOOD.model, stem="conv")
        model.patch_embed = nn.Sequential(model.patch_embed)     # a name that Muon does not know
        return model

    for name, network in (
            ("linear, AdamW", partial(VisionTransformer, **GOOD.model)), ("linear", partial(edited, linear)),
            ("linear, overlapping", partial(edited, overlapping)), ("conv", partial(edited, list)),
            ("conv, each patch alone", each_patch_alone),
            ("conv, no batch norm", partial(edited, partial(without, nn.BatchNorm2d))),
            ("conv, no ReLU", partial(edited, partial(without, nn.ReLU))), ("conv, AdamW", with_adamw)):
        yield {"stem": name, "parameters": sum(p.numel() for p in network().patch_embed.parameters()),
               **trial(GOOD, 5, network=network)}


def teacher(trial):
    """A ViT that learns from labels, or also from the CNN's answers; two epochs, all patches.

    The teacher learned from the same tiles, at its best rate of `rivals`. Soft: 0.9 times the loss of the
    labels plus 0.1 * 3² times the divergence from the teacher at temperature 3; hard: half and half, with its
    most probable class as a second label. Both with the constants of Touvron et al. 2021.
    """
    answers = {"labels": lambda ce, logits, told: ce,
               "labels, soft answers": lambda ce, logits, told: 0.9 * ce + 0.1 * 3**2 * F.kl_div(
                   (logits / 3).log_softmax(dim=1), (told / 3).softmax(dim=1), reduction="batchmean"),
               "labels, hard answers": lambda ce, logits, told: (ce + F.cross_entropy(
                   logits, told.argmax(dim=1), label_smoothing=WHOLE.label_smoothing)) / 2}
    row, teachers = trial(replace(WHOLE, muon_learning_rate=0.024), network=SmallCNN), trial.models
    yield {"model": "CNN", "learns from": "labels", **row}
    for name, combine in answers.items():
        row = {"model": "ViT", "learns from": name, "accuracy": []}
        for seed, cnn in zip(trial.seeds, teachers, strict=True):
            order = torch.Generator().manual_seed(seed)
            feed = (batch for epoch in range(2) for batch in vit_helpers.batches(
                trial.train, WHOLE.batch_size, shuffle=True, augment=True, generator=order))

            def loss_of(model, generator, cnn=cnn, combine=combine, feed=feed):
                images, labels = next(feed)
                with torch.no_grad():
                    told = cnn.eval()(images).float()
                logits = model(images).float()
                ce = F.cross_entropy(logits, labels, label_smoothing=WHOLE.label_smoothing)
                return combine(ce, logits, told)

            torch.manual_seed(seed)
            model = VisionTransformer(**WHOLE.model)
            steps = 2 * math.ceil(len(trial.train) / WHOLE.batch_size)
            vit_helpers.learn(model, loss_of, steps=steps, recipe=WHOLE, seed=seed)
            row["accuracy"].append(round(evaluate(model, trial.judged).accuracy, 4))
        yield row


def photos(trial):
    """Lesson 19's example folder, more and more epochs; five draws, judged on the place kept for choices."""
    path = Path(__file__).parents[2] / "notebooks" / "19_your_pictures.ipynb"
    space = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            if 'measured("photos")' in (text := "".join(cell["source"])):        # draws it, then trains
                break
            exec(compile(text, path.name, "exec"), space)
    trial.judged, trial.seeds = space["validation"], list(range(5))
    for way, make, recipe, epochs in (("from scratch", "from_scratch", "SCRATCH", 60),
                                      ("from the encoder", "from_encoder", "TUNED", 30)):
        for longer in (1, 2, 4):
            _, learned, accuracy = space["draws"](space[make], space[recipe], epochs * longer)
            found = {"accuracy": accuracy, "accuracy_of_learned": learned}
            yield {"way": way, "epochs": epochs * longer,
                   **{name: [round(value, 4) for value in part.tolist()] for name, part in found.items()}}


def defined_in(lesson, starts, train=None):
    """What the cells of a lesson that start with one of `starts` define, by name: the very classes there."""
    path = Path(__file__).parents[2] / "notebooks" / f"{lesson}.ipynb"
    space = {**vars(vit_helpers.heads), **vars(scenes), **vars(vit_helpers), "train": train, "copy": copy,
             "math": math, "partial": partial, "torch": torch, "nn": nn, "F": F, "vit_helpers": vit_helpers,
             "rounds": rounds, "device": vit_helpers.pick_device()}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if "exercise" not in cell["metadata"].get("tags", []) and text.startswith(starts):
            exec(compile(text, path.name, "exec"), space)
    return space


SmallCNN = defined_in("11_what_matters", "from torch import nn\n\nclass")["SmallCNN"]


def times_as_long(models, images, recipe):
    """How long a training step of each of {name: model} takes, as a multiple of the first one's."""
    bf16, labels = vit_helpers.has_fast_bf16(images.device), torch.arange(len(images)) % 10
    steps = {name: step_of(model, images, bf16, labels, make_optimizers(model, recipe))
             for name, model in models.items()}
    seconds = in_turn(steps, 15, process_time)       # of the processor: what else runs there does not count
    first = next(iter(seconds.values()))
    return {name: statistics.median(b / a for a, b in zip(first, each, strict=True))
            for name, each in seconds.items()}


def todays(trial):
    """One change of lesson 20 at a time, as many steps as fit into the first row's time.

    Positions are also judged at 96 and 128 pixels, on 1,000 of the tiles: with mirrored margins and enlarged.
    """
    space = defined_in("20_todays_vits", ("class ", "def rot"))
    changes = {                                      # name: arguments of the lesson's class
        "as in 2021": {}, "sine-cosine": {}, "no positions": {"positions": "none"},
        "rotary": {"positions": "rotary"}, "4 registers": {"registers": 4},
        "LayerScale from 1e-5": {"layer_scale": 1e-5}, "LayerScale from 0.1": {"layer_scale": 0.1},
        "QK-norm": {"qk_norm": partial(nn.LayerNorm, eps=1e-6)}, "RMSNorm": {"norm": space["RMSNorm"]},
        "SwiGLU": {"mlp": space["SwiGLU"], "mlp_dim": 176},
        "all of them": {"positions": "rotary", "registers": 4, "layer_scale": 0.1, "norm": space["RMSNorm"],
                        "qk_norm": space["RMSNorm"], "mlp": space["SwiGLU"], "mlp_dim": 176},
    }

    def make(name):
        model = space["ViT"](cls=False, **changes[name])
        if name == "sine-cosine":                    # a table that is not learned
            table = vit_helpers.sincos_positions(model.grid, 128)
            model.pos_embed = nn.Parameter(table[None], requires_grad=False)
        return model

    recipe = replace(QUICK, keep_tokens=1.0, keep_until=0.0)
    some = trial.judged.subset(1000)
    images = vit_helpers.normalize(trial.train.images[:recipe.batch_size])
    longer = times_as_long({name: make(name) for name in changes}, images, recipe)
    for name in changes:
        row = {"change": name, "step": round(longer[name], 3), "epochs": round(0.5 / longer[name], 3)}
        found, sizes = trial(recipe, row["epochs"], network=partial(make, name)), {}
        if name in ("as in 2021", "sine-cosine", "no positions", "rotary"):
            for model in trial.models:
                for key, accuracy in at_sizes(model, some).items():
                    sizes.setdefault(key, []).append(round(accuracy, 4))
        found["seconds"] = round(statistics.median(trial.cpu_seconds), 1)
        yield {**row, **found, **sizes}


def at_sizes(model, tiles):
    """Accuracy by size, kind of larger tile, and whether positions are stretched or go on beyond the edge."""
    found, images = {"accuracy at 64": evaluate(model, tiles).accuracy}, tiles.images.float()
    for size in (96, 128):
        for kind, pixels in (("mirrored", F.pad(images, (size // 2 - 32,) * 4, mode="reflect")),
                             ("enlarged", F.interpolate(images, size, mode="bicubic", antialias=True))):
            larger = Tiles(pixels.round().clamp(0, 255).to(torch.uint8), tiles.labels)
            found[f"accuracy at {size}, {kind}"] = evaluate(model, larger).accuracy
            if model.positions == "rotary":
                model.unit = model.grid              # angles go on at the step they had in training
                found[f"accuracy at {size}, {kind}, going on"] = evaluate(model, larger).accuracy
                model.unit = None
    return found


def labels(trial):
    """100 and 500 labels: from scratch, or from encoders that learned without labels, equally long.

    Judged by the nearest labeled tiles, by a linear probe, and fine-tuned in all layers.
    """
    space, unlabeled, judged = defined_in("21_without_labels", STARTS), trial.train, trial.judged
    arms = {100: {90: trial.seeds, 150: trial.seeds[:1]}, 500: {40: trial.seeds}}    # labels: epochs: seeds

    def paint(model, random):                        # lesson 16's loss
        chosen = torch.randint(len(unlabeled), (128,), generator=random)
        images = vit_helpers.normalize(vit_helpers.random_dihedral(unlabeled.gather(chosen), random))
        visible = vit_helpers.random_patches(128, 64, 0.25, random)
        return space["masked_loss"](model(images, visible), images, visible, 8)

    def pretrained(way, seed):
        torch.manual_seed(seed)
        encoder = VisionTransformer(**GOOD.model)
        if way == "masked autoencoder":
            vit_helpers.learn(space["MaskedAutoencoder"](encoder), paint, steps=STEPS[way], seed=seed)
        if way == "self-distillation":
            distiller = space["Distiller"](encoder, unlabeled)
            vit_helpers.learn(distiller.student, distiller, steps=STEPS[way], seed=seed, recipe=FAST)
            encoder = distiller.teacher.encoder
        return encoder

    def right(classes):
        return round((classes == judged.labels).float().mean().item(), 4)

    for way in ("from scratch", *STEPS):
        started = process_time()
        encoders = [pretrained(way, seed) for seed in trial.seeds]
        seconds = round((process_time() - started) / len(encoders))
        for count, lengths in arms.items():
            parts = [unlabeled.subset(count, seed=seed) for seed in trial.seeds]
            found = {"nearest_accuracy": [], "probe_accuracy": []}
            for encoder, part in zip(encoders, parts, strict=True):
                features, queries = space["scaled"](*(pooled_features(encoder, t) for t in (part, judged)))
                for name in ("nearest", "probe"):
                    found[f"{name}_accuracy"].append(right(space[name](features, part.labels, queries)))
            for n, seeds in lengths.items():
                tuned = []
                for encoder, part, seed in zip(encoders, parts, seeds, strict=False):
                    model = copy.deepcopy(encoder).requires_grad_()
                    fit(model, part, epochs=n, recipe=replace(GOOD, batch_size=25), seed=seed)
                    tuned.append(round(evaluate(model, judged).accuracy, 4))
                yield {"start": way, "seconds": seconds, "labels": count, **found, "epochs": n,
                       "accuracy": tuned}
                found = {}


def heads(trial):
    """The heads of lessons 13 to 15, trained by the lessons' own functions, on scenes of test tiles."""
    once = torch.Generator().manual_seed

    def fresh(seed, size=64):
        torch.manual_seed(seed)
        return vit_helpers.load_pretrained("eurosat").set_img_size(size)

    lesson = defined_in("13_segmentation", ("def cut", "def loss", "from vit_helpers.heads import segment\n"),
                        trial.train)
    images, masks = scenes.mosaics(trial.judged, 1000, bend=None, generator=once(1))
    for name, alone, decoder in (("patches alone", True, "pixels"), ("context, linear", False, "linear"),
                                 ("context, pixels", False, "pixels")):
        row = {"lesson": 13, "model": name, "accuracy": [], "mean IoU": []}
        for seed in trial.seeds:
            model = lesson["Segmenter"](fresh(seed, 8 if alone else 64), decoder=decoder)
            vit_helpers.learn(model, lesson["loss_on"](32, alone), steps=450, seed=seed)
            said = lesson["segment_alone" if alone else "segment"](model, images)
            row["accuracy"].append(round((said == masks).float().mean().item(), 4))
            iou = lesson["intersection_over_union"](confusion_counts(masks, said, 10))
            row["mean IoU"].append(round(iou.nanmean().item(), 4))
        yield row

    lesson = defined_in("14_detection", "from vit_helpers import GOOD, learn\n", trial.train)
    images, boxes, classes = scenes.objects(trial.judged, 1000, generator=once(1))
    truth = list(zip(boxes, classes, strict=True))

    def queries_only(model, generator):
        images, boxes, classes = scenes.objects(trial.train, 16, counts=(3, 6), generator=generator)
        answers = model(vit_helpers.normalize(images).to(lesson["device"]))
        return lesson["detection_loss"](*answers, classes, boxes)

    for name, loss_of in (("queries and patches", lesson["loss_of"]), ("queries only", queries_only)):
        row = {"lesson": 14, "model": name, "AP50": [], "AP": []}
        for seed in trial.seeds:
            model = lesson["Detector"](fresh(seed, 96), queries=(4, 4))
            vit_helpers.learn(model, loss_of, steps=1800, seed=seed)
            found = lesson["detect"](model, images)
            precision = lesson["average_precision"](found, truth, num_classes=10)
            row["AP50"].append(round(precision[0].item(), 4))
            row["AP"].append(round(precision.mean().item(), 4))
        yield row

    lesson = defined_in("15_video", ("def new_video", "def many", "import torch.nn.functional as F\n"),
                        trial.train)
    films, motions = lesson["many_clips"](trial.judged)
    for name in ("joint", "factorized"):
        row = {"lesson": 15, "model": name, "accuracy": []}
        for seed in trial.seeds:
            model = lesson["new_video_model"](8, 2, name, seed)
            loss_of = lesson["loss_on"](lesson["all_frames"])
            vit_helpers.learn(model, loss_of, steps=190, recipe=QUICK, seed=seed)
            said = lesson["probabilities"](model, films).argmax(dim=1)
            row["accuracy"].append(round((said == motions).float().mean().item(), 4))
        yield row


CAPTIONED = {                                        # name: text encoder and kind of batch in lesson 22
    "transformer": ("TextEncoder", "plain_batch"), "bag of words": ("BagOfWords", "plain_batch"),
    "transformer, no rivals": ("TextEncoder", "batch_without_rivals"),
    "transformer, twins": ("TextEncoder", "batch_with_twins"),
}


def words(trial):
    """What lesson 22's models read in a caption; 400 batches of 128 scenes; guessing: 50%, of classes 10%."""
    lesson = defined_in("22_images_and_words", ("class ", "def ", "LANDS", "templates", "@torch", "TESTS"))
    for name, (encoder, batch) in CAPTIONED.items():
        row, seconds = {"model": name}, []
        for seed in trial.seeds:
            model, started = lesson["new_clip"](lesson[encoder], seed), process_time()
            loss_of = lesson["loss_on"](trial.train, lesson[batch])
            row["steps"] = len(vit_helpers.learn(model, loss_of, steps=400, recipe=QUICK, seed=seed))
            seconds.append(process_time() - started)
            found = {}
            for test, (kind, pairs) in lesson["TESTS"].items():
                generator = torch.Generator().manual_seed(7)
                images, facts = lesson["compose"](trial.judged, 1000, (kind,), generator)
                found[test] = lesson["two_choices"](model, lesson["look"](model, images), facts, pairs)
            pictures = lesson["look"](model, trial.judged.images)
            found["classes from words"] = lesson["zero_shot"](model, pictures, trial.judged.labels, ["{b}"])
            for test, accuracy in found.items():
                row.setdefault(f"accuracy, {test}", []).append(round(accuracy, 4))
        yield {**row, "seconds": round(statistics.median(seconds), 1)}


def main():
    studies = {study.__name__: study for study in (walk, patch_size, positions, optimizers, learning_rate,
                                                   rivals, compute, images, places, stem, teacher, heads,
                                                   photos, todays, labels, words)}
    parser = make_parser(__doc__)
    parser.add_argument("study", choices=studies)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--source", default="eurosat", choices=("eurosat", "synthetic"))
    parser.add_argument("--out", help="another file for the measurements")
    args = parser.parse_args()
    learned, judged = load_tiles(args.source).split()
    kind = "test"
    if args.study not in ("images", "places", "heads"):      # which report on the test tiles
        learned, judged = learned.split(seed=1)
        kind = "validation"
        judged = judged.subset(2000) if args.study == "labels" else judged
    trial, rows = Trial(learned, judged, args.seeds), []
    for row in studies[args.study](trial):
        print(row, flush=True)
        rows.append(row)
        record(args.study, {"source": args.source, "seeds": trial.seeds,
                            "judged_on": f"{len(trial.judged):,} {kind} tiles", "rows": rows}, args.out)


if __name__ == "__main__":
    main()
