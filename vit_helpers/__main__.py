"""The command line: `pack` stores tiles, `train` makes weights (also under torchrun), `evaluate` judges, `predict` uses them.

`publish` writes the address of a copy of the course into it, `grade` reads what the checkers said in students' notebooks.
"""

import argparse
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from . import RECIPES, VisionTransformer, evaluate, fit, load_pretrained, load_tiles, predict
from .checks.grade import verdicts
from .distributed import joined, rank
from .evaluation import class_means, familiarity, pooled_features
from .pretrained import WEIGHTS, pretrained_facts, save_pretrained
from .publish import publish
from .runtime import written_whole
from .stored import StoredTiles, pack


def what_is_usual(model, train_tiles, validation_tiles=None):
    """What `predict` needs to know: class_means, and from validation tiles temperature and usual_from; a dict."""
    means = class_means(pooled_features(model, train_tiles), train_tiles.labels, len(train_tiles.classes)).cpu()
    facts = {"class_means": [[round(x, 4) for x in row] for row in means.tolist()]}
    if validation_tiles:
        familiar = familiarity(pooled_features(model, validation_tiles), means)
        facts["temperature"] = round(evaluate(model, validation_tiles).best_temperature(), 4)
        facts["usual_from"] = round(familiar.quantile(0.05).item(), 4)       # so that 95 % of validation tiles are usual
    return facts


def train(args):
    """Train on four fifths of the tiles, report on the last fifth, write weights and facts; also under torchrun."""
    with joined():
        return _train(args)


def _train(args):
    say = print if rank() == 0 else lambda *words: None      # one process of several speaks and writes
    out = args.out or ("weights" if args.data else WEIGHTS)
    Path(out).mkdir(parents=True, exist_ok=True)             # better to fail before training than after it
    tiles = StoredTiles(args.data, args.workers) if args.data else load_tiles(args.source)
    train_tiles, test_tiles = tiles.split(seed=args.split_seed)
    parts, validation_tiles = "80/20", None
    if args.validation:
        parts = "60/20/20"
        train_tiles, validation_tiles = train_tiles.split(0.25, seed=args.split_seed + 1)
    recipe = replace(RECIPES[args.recipe], **({"batch_size": args.batch_size} if args.batch_size else {}))
    torch.manual_seed(args.seed)
    sizes = {"img_size": tiles.size, "num_classes": len(tiles.classes)} if args.data else {}
    model = VisionTransformer(**recipe.model, **sizes)
    history = fit(model, train_tiles, test_tiles if args.report == "epochs" else None, epochs=args.epochs, recipe=recipe,
                  seed=args.seed, checkpoint=args.checkpoint, resume=args.checkpoint is not None)
    say(history)
    if history.interrupted:
        return 130
    result = evaluate(model, test_tiles)
    say(result)
    facts = {"test_accuracy": result.accuracy, "test_accuracy_8_views": evaluate(model, test_tiles, views=8).accuracy}
    if validation_tiles:
        facts["validation_accuracy"] = evaluate(model, validation_tiles).accuracy
    known = what_is_usual(model, train_tiles, validation_tiles)
    say(", ".join(f"{name.replace('_', ' ')} {value:.2%}" for name, value in facts.items()))
    if rank():
        return 0
    recipe_facts = {key: value for key, value in asdict(recipe).items() if key != "model"}
    save_pretrained(args.name or tiles.source, model, {
        "source": tiles.source, "data": f"{tiles.source}, {len(tiles)} tiles, split {parts} with seed {args.split_seed}",
        "recipe": {"name": args.recipe, **recipe_facts}, "epochs": args.epochs, "seed": args.seed,
        "split_seed": args.split_seed, "test_tiles": len(test_tiles), "classes": tiles.classes,
        **{key: round(value, 4) for key, value in facts.items()}, **known,
        "history": {key: [round(x, 4) for x in value] for key, value in asdict(history).items()
                    if key not in ("step_loss", "interrupted")},
        "command": "python -m vit_helpers " + shlex.join(sys.argv[1:])}, out)
    return 0


def judge(args):
    """Evaluate shipped weights on the test part they were not trained on."""
    facts = pretrained_facts(args.name)
    _, test_tiles = load_tiles(facts["source"]).split(seed=facts["split_seed"])
    if len(test_tiles) != facts["test_tiles"]:       # another number of tiles is split differently
        raise ValueError(f"these weights were judged on {facts['test_tiles']} test tiles, here are {len(test_tiles)}, some "
                         "of which they may have been trained on; choose another VIT_BUDGET")
    print(evaluate(load_pretrained(args.name), test_tiles))
    return 0


def answer(args):
    """Say what image files show: the three most probable classes of each; with --map, the explanation as a picture."""
    problems, known = 0, []
    for path in args.image:
        try:
            found = predict(path, args.name)
        except (ValueError, OSError) as problem:     # one bad file must not hide the answers about the others
            print(f"error: {problem}", file=sys.stderr)
            problems += 1
            continue
        print(f"{path}: {found}")
        known.append((Path(path).name, found))
    if args.map and known:
        from . import plotting  # here, so that the other commands need no Matplotlib

        with written_whole(args.map) as temporary:
            plotting.explained(known).savefig(temporary, format="png", dpi=150)
        print(f"the explanation is in {args.map}")
    return 2 if problems else 0


def store(args):
    """Decode pictures once, those of a folder tree or zip with a folder for each class, into files for `train --data`."""
    print(pack(args.source, args.folder, args.size, args.large, workers=args.workers))
    return 0


def grade(args):
    """Say which exercises are right in notebooks that were handed in, from their stored outputs; nothing is run."""
    for path in args.notebook:
        found = verdicts(path)
        others = [f"{name} {verdict}" for name, verdict in found.items() if verdict != "right"]
        print(f"{path}: {len(found) - len(others)} of {len(found)} right" + "; ".join(["", *others]))
    return 0


def give_address(args):
    """Write the address of this copy of the course into pyproject.toml, the badges and the setup cells of all notebooks."""
    changed = publish(args.url, args.branch)
    print("\n".join(f"written: {path}" for path in changed) or "nothing to change")
    if changed and args.url:
        print("Commit and push these files; the notebooks then install the course wherever they are opened.")
    return 0


def main():
    parser = argparse.ArgumentParser("python -m vit_helpers", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train", help=train.__doc__)
    data = command.add_mutually_exclusive_group()
    data.add_argument("--source", default="eurosat", choices=("eurosat", "synthetic"), help="tiles to train on")
    data.add_argument("--data", metavar="FOLDER", help="your own tiles, stored by `pack`; may be more than memory holds")
    command.add_argument("--workers", type=int, default=0, help="with --data: processes that read ahead, for slow disks")
    command.add_argument("--recipe", default="good", choices=RECIPES, help="see vit_helpers/recipes.py")
    command.add_argument("--epochs", type=int, default=5)
    command.add_argument("--batch-size", type=int, help="tiles in a step, over all processes; default: the recipe's, 64")
    command.add_argument("--seed", type=int, default=0, help="of the first weights, the order and the augmentation")
    command.add_argument("--split-seed", type=int, default=0, help="of the split into training and test tiles")
    command.add_argument("--validation", action="store_true", help="learn from 60 %% of the tiles, report on 20 %% of them too")
    command.add_argument("--report", default="epochs", choices=("epochs", "end"), help="when the test tiles are looked at")
    command.add_argument("--checkpoint", help="a file to write after each epoch, and to go on from if it is there")
    command.add_argument("--name", help="of the weights; default: the source")
    command.add_argument("--out", help="the folder for NAME.pt and NAME.json; default: the package's, with --data: weights")
    command.set_defaults(run=train)
    command = commands.add_parser("pack", help=store.__doc__)
    command.add_argument("source", metavar="FOLDER_OR_ZIP", help="pictures, in one folder for each class")
    command.add_argument("folder", metavar="OUT", help="a new folder")
    command.add_argument("--size", type=int, default=64, help="of the tiles, in pixels")
    command.add_argument("--large", default="resize", choices=("resize", "tile"),
                         help="make one tile of each picture, or cut it into as many as fit")
    command.add_argument("--workers", type=int, default=0, help="processes that decode besides this one")
    command.set_defaults(run=store)
    command = commands.add_parser("evaluate", help=judge.__doc__)
    command.add_argument("--name", default="eurosat", help="which shipped weights")
    command.set_defaults(run=judge)
    command = commands.add_parser("predict", help=answer.__doc__)
    command.add_argument("image", nargs="+", metavar="IMAGE", help="an image file of any size; its middle square is taken")
    command.add_argument("--name", default="eurosat", choices=("eurosat", "synthetic"), help="which shipped weights")
    command.add_argument("--map", metavar="OUT.png", help="write each picture with where the model reads its class")
    command.set_defaults(run=answer)
    command = commands.add_parser("grade", help=grade.__doc__)
    command.add_argument("notebook", nargs="+", metavar="NOTEBOOK", help="notebooks of students, run and saved by them")
    command.set_defaults(run=grade)
    command = commands.add_parser("publish", help=give_address.__doc__)
    command.add_argument("url", help='https://github.com/OWNER/REPO, another https repository, a folder, or "" for none')
    command.add_argument("--branch", default="main", help="the branch that Colab and Binder open")
    command.set_defaults(run=give_address)
    args = parser.parse_args()
    try:
        return args.run(args)
    except (ValueError, OSError, FloatingPointError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
