"""The command line: `python -m vit_helpers train` makes weights, `python -m vit_helpers evaluate` judges them."""

import argparse
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from . import RECIPES, VisionTransformer, evaluate, fit, load_pretrained, load_tiles
from .pretrained import WEIGHTS, pretrained_facts, save_pretrained


def train(args):
    """Train on four fifths of the tiles, report on the last fifth, write weights and facts."""
    Path(args.out).mkdir(parents=True, exist_ok=True)        # better to fail before training than after it
    tiles = load_tiles(args.source)
    train_tiles, test_tiles = tiles.split(seed=args.split_seed)
    parts, validation_tiles = "80/20", None
    if args.validation:
        parts = "60/20/20"
        train_tiles, validation_tiles = train_tiles.split(0.25, seed=args.split_seed + 1)
    recipe = RECIPES[args.recipe]
    torch.manual_seed(args.seed)
    model = VisionTransformer(**recipe.model)
    history = fit(model, train_tiles, test_tiles if args.report == "epochs" else None, epochs=args.epochs, recipe=recipe,
                  seed=args.seed, checkpoint=args.checkpoint, resume=args.checkpoint is not None)
    print(history)
    if history.interrupted:
        return 130
    result = evaluate(model, test_tiles)
    print(result)
    facts = {"test_accuracy": result.accuracy, "test_accuracy_8_views": evaluate(model, test_tiles, views=8).accuracy}
    if validation_tiles:
        facts["validation_accuracy"] = evaluate(model, validation_tiles).accuracy
    print(", ".join(f"{name.replace('_', ' ')} {value:.2%}" for name, value in facts.items()))
    recipe_facts = {key: value for key, value in asdict(recipe).items() if key != "model"}
    save_pretrained(args.name or tiles.source, model, {
        "source": tiles.source, "data": f"{tiles.source}, {len(tiles)} tiles, split {parts} with seed {args.split_seed}",
        "recipe": {"name": args.recipe, **recipe_facts}, "epochs": args.epochs, "seed": args.seed,
        "split_seed": args.split_seed, "test_tiles": len(test_tiles),
        **{key: round(value, 4) for key, value in facts.items()},
        "history": {key: [round(x, 4) for x in value] for key, value in asdict(history).items()
                    if key not in ("step_loss", "interrupted")},
        "command": "python -m vit_helpers " + shlex.join(sys.argv[1:])}, args.out)
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


def main():
    parser = argparse.ArgumentParser("python -m vit_helpers", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train", help=train.__doc__)
    command.add_argument("--source", default="eurosat", choices=("eurosat", "synthetic"), help="tiles to train on")
    command.add_argument("--recipe", default="good", choices=RECIPES, help="see vit_helpers/training.py")
    command.add_argument("--epochs", type=int, default=5)
    command.add_argument("--seed", type=int, default=0, help="of the first weights, the order and the augmentation")
    command.add_argument("--split-seed", type=int, default=0, help="of the split into training and test tiles")
    command.add_argument("--validation", action="store_true", help="learn from 60 %% of the tiles, report on 20 %% of them too")
    command.add_argument("--report", default="epochs", choices=("epochs", "end"), help="when the test tiles are looked at")
    command.add_argument("--checkpoint", help="a file to write after each epoch, and to go on from if it is there")
    command.add_argument("--name", help="of the weights; default: the source")
    command.add_argument("--out", default=WEIGHTS, help="the folder to write NAME.pt and NAME.json to")
    command.set_defaults(run=train)
    command = commands.add_parser("evaluate", help=judge.__doc__)
    command.add_argument("--name", default="eurosat", help="which shipped weights")
    command.set_defaults(run=judge)
    args = parser.parse_args()
    try:
        return args.run(args)
    except (ValueError, OSError, FloatingPointError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
