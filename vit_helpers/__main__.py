"""The command line of the course: trains, judges, uses and exports weights; publishes and grades."""

import argparse
import shlex
import sys
from dataclasses import asdict, replace
from glob import glob
from pathlib import Path

import torch

from . import RECIPES, Tiles, VisionTransformer, evaluate, fit, load_pretrained, load_tiles, predict
from .checks.grade import verdicts
from .distributed import process_group, rank
from .evaluation import class_means, familiarity, pooled_features
from .pretrained import pretrained_facts, save_pretrained
from .publish import publish
from .runtime import atomic_write


def train(args):
    """Train on four fifths of the tiles, report on the last fifth, write weights; also under torchrun."""
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)               # better to fail before training than after it
    tiles = Tiles.from_folder(args.data, white=args.white) if args.data else load_tiles(args.source)
    learn, test = tiles.split(seed=args.split_seed)
    parts, validation = "80/20", None
    if args.validation:
        parts = "60/20/20"
        learn, validation = learn.split(0.25, seed=args.split_seed + 1)
    recipe = RECIPES[args.recipe]
    recipe = replace(recipe, batch_size=args.batch_size or recipe.batch_size)
    torch.manual_seed(args.seed)
    model = VisionTransformer(**recipe.model, img_size=tiles.size, num_classes=len(tiles.classes))
    history = fit(model, learn, test if args.report == "epochs" else None, epochs=args.epochs, recipe=recipe,
                  seed=args.seed, checkpoint=args.checkpoint, resume=args.checkpoint is not None)
    if rank():
        return None
    print(history)
    if history.interrupted:
        return 130
    result = evaluate(model, test)
    print(result)
    facts = {"test_accuracy": result.accuracy,
             "test_accuracy_8_views": evaluate(model, test, views=8).accuracy}
    # What `predict` needs to know: what is usual, and how sure the model may be.
    means = class_means(pooled_features(model, learn), learn.labels, len(tiles.classes))
    known = {"class_means": [[round(x, 4) for x in row] for row in means.tolist()]}
    if validation:
        judged = evaluate(model, validation)
        facts["validation_accuracy"] = judged.accuracy
        familiar = familiarity(pooled_features(model, validation), means)
        if judged.accuracy < 1:                          # without a mistake, surer is better without end
            known["temperature"] = round(judged.best_temperature(), 4)
        known["usual_from"] = round(familiar.quantile(0.05).item(), 4)       # so that 95% of them are usual
    print(", ".join(f"{name.replace('_', ' ')} {value:.2%}" for name, value in facts.items()))
    settings = {key: value for key, value in asdict(recipe).items() if key != "model"}
    curves = {key: [round(x, 4) for x in value] for key, value in asdict(history).items()
              if key not in ("step_loss", "interrupted")}
    name = args.name or tiles.source
    save_pretrained(name, model, {
        "source": tiles.source,
        "data": f"{tiles.source}, {len(tiles)} tiles, split {parts} with seed {args.split_seed}",
        "recipe": {"name": args.recipe, **settings}, "epochs": args.epochs, "seed": args.seed,
        "split_seed": args.split_seed, "tiles": len(tiles), "test_tiles": len(test),
        "classes": tiles.classes, "white": args.white,
        **{key: round(value, 4) for key, value in facts.items()}, **known, "history": curves,
        "command": "python -m vit_helpers " + shlex.join(sys.argv[1:])}, out)
    print(f"the weights are in {out / name}.pt")


def judge(args):
    """Evaluate trained weights on the test part they were not trained on."""
    facts = pretrained_facts(args.weights)
    if not args.data and facts["source"] not in ("eurosat", "synthetic"):
        raise ValueError(f"{args.weights} learned from pictures of your own; say where: --data FOLDER")
    model = load_pretrained(args.weights)
    if args.data:
        tiles, advice = Tiles.from_folder(args.data, model.img_size[0], facts.get("white")), "use that folder"
    else:
        tiles, advice = load_tiles(facts["source"]), "unset VIT_SMOKE"
    if list(tiles.classes) != list(facts.get("classes", tiles.classes)):
        raise ValueError(f"these weights know the classes {facts['classes']}, not {list(tiles.classes)}")
    _, test = tiles.split(seed=facts["split_seed"])
    if (len(test), len(tiles)) != (facts["test_tiles"], facts.get("tiles", len(tiles))):     # split otherwise
        raise ValueError(f"these weights were judged on {facts['test_tiles']} test tiles, here are "
                         f"{len(test)} of {len(tiles)}, which they may have been trained on; {advice}")
    print(evaluate(model, test))


def answer(args):
    """Say what image files show, three classes each; with --map, the explanation as a picture."""
    known = []

    def say(path):
        found = predict(path, args.weights)              # each has a model of its own
        if args.map:
            known.append((Path(path).name, found))
        print(f"{path}: {found}")

    code = for_each(args.image, say)
    if known:
        from . import plotting  # here, so that the other commands need no Matplotlib

        with atomic_write(args.map) as temporary:
            plotting.explained(known).savefig(temporary, format="png", dpi=150)
        print(f"the explanation is in {args.map}")
    return code


def export(args):
    """Write trained weights as an ONNX file, with classes and normalization in its metadata."""
    from .exporting import export_onnx  # here, as with pictures

    out = Path(args.out or Path(args.weights).stem + ".onnx")
    export_onnx(load_pretrained(args.weights), out, pretrained_facts(args.weights), args.int8)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def grade(args):
    """Say which exercises are right in notebooks that were handed in, by their stored outputs."""
    def say(path):
        found = verdicts(path)
        others = [f"{name} {verdict}" for name, verdict in found.items() if verdict != "right"]
        print(f"{path}: {len(found) - len(others)} of {len(found)} right" + "; ".join(["", *others]))

    return for_each(args.notebook, say)


def for_each(patterns, say):
    """say(path) for all files; patterns come from Windows' shells, and a bad file hides no other."""
    code = 0
    names = [[] if Path(pattern).exists() else sorted(glob(pattern, recursive=True)) for pattern in patterns]
    for path in [path for pattern, found in zip(patterns, names, strict=True) for path in found or [pattern]]:
        try:
            say(path)
        except (ValueError, OSError) as problem:
            print(f"error: {problem}", file=sys.stderr)
            code = 2
    return code


def give_address(args):
    """Write the address of this copy of the course into pyproject.toml, the badges and the setup cells."""
    changed = publish(args.url, args.branch)
    print("\n".join(f"written: {path}" for path in changed) or "nothing to change")


def main():
    parser = argparse.ArgumentParser("python -m vit_helpers", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def add(name, run):
        command = commands.add_parser(name, help=run.__doc__)
        command.set_defaults(run=run)
        return command.add_argument

    option = add("train", train)
    option("--source", default="eurosat", choices=("eurosat", "synthetic"), help="tiles to train on")
    option("--data", metavar="FOLDER", help="pictures of your own instead, a folder for each class")
    option("--white", type=float, help="what is white in them, if not bytes, such as 3000 for reflectance")
    option("--recipe", default="good", choices=RECIPES, help="see vit_helpers/recipes.py")
    option("--epochs", type=int, default=5)
    option("--batch-size", type=int, help="tiles in a step, over all processes; default: the recipe's, 64")
    option("--seed", type=int, default=0, help="of the first weights, the order and the augmentation")
    option("--split-seed", type=int, default=0, help="of the split into training and test tiles")
    option("--validation", action="store_true", help="learn from 60%% of the tiles, report on 20%% too")
    option("--report", default="epochs", choices=("epochs", "end"), help="when the test tiles are looked at")
    option("--checkpoint", help="a file to write after each epoch, and to go on from if it is there")
    option("--name", help="of the weights; default: the source")
    option("--out", default="weights", help="the folder for NAME.pt and NAME.json")
    option = add("evaluate", judge)
    option("--weights", "--name", default="eurosat", help="shipped ones, or a file such as weights/mine.pt")
    option("--data", metavar="FOLDER", help="the pictures of your own that they were trained on")
    option = add("predict", answer)
    option("image", nargs="+", metavar="IMAGE", help="an image file of any size; its middle square is taken")
    option("--weights", "--name", default="eurosat", help="shipped ones, or a file such as weights/mine.pt")
    option("--map", metavar="OUT.png", help="write each picture with where the model reads its class")
    option = add("export", export)
    option("--weights", "--name", default="eurosat", help="shipped ones, or a file such as weights/mine.pt")
    option("--out", metavar="FILE.onnx", help="default: the name of the weights, here")
    option("--int8", action="store_true", help="matrices in eight bits: a third of the size")
    add("grade", grade)("notebook", nargs="+", metavar="NOTEBOOK", help="of students, run and saved by them")
    option = add("publish", give_address)
    option("url", help='https://github.com/OWNER/REPO, another https repository, or "" for none')
    option("--branch", default="main", help="the branch that Colab and Binder open")
    args = parser.parse_args()
    try:
        with process_group():
            return args.run(args) or 0
    except (ValueError, OSError, ImportError, FloatingPointError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):              # a class may have a name that cannot be shown
        stream.reconfigure(errors="backslashreplace")
    sys.exit(main())
