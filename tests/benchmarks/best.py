"""The shipped EuroSAT weights: three seeds on the 80/20 split; on 60/20/20 one, with the recipe conv three.

    python tests/benchmarks/best.py [--recipe conv] [--epochs 45] [--seeds 0 1 2] [--at-once 2]

Every choice was made on a validation part of the training tiles; each run opens the test tiles once, at its
end. The seeds are fixed beforehand, and the first one ships whatever it reaches.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from record import make_parser, record

from vit_helpers.pretrained import WEIGHTS

KEPT = ("data", "seed", "test_accuracy", "test_accuracy_8_views", "validation_accuracy")


def train(words, folder, threads):
    """Run `python -m vit_helpers` with `words`, writing to `folder`; the facts it stored, a dict."""
    words = [sys.executable, "-m", "vit_helpers", *words, "--out", folder, "--checkpoint", folder / "run.pt"]
    subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, check=True)
    return json.loads(next(folder.glob("*.json")).read_text(encoding="utf-8"))


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--source", default="eurosat", choices=("eurosat", "synthetic"))
    parser.add_argument("--recipe", default="best", choices=("best", "conv"))
    parser.add_argument("--epochs", type=int, default=45)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side, which share the cores")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where the first run's weights go")
    parser.add_argument("--folder", help="for weights and checkpoints; runs found there resume")
    parser.add_argument("--out", help="another file for the measurements")
    args = parser.parse_args()
    base = ["train", "--source", args.source, "--recipe", args.recipe, "--epochs", str(args.epochs),
            "--report", "end"]
    name = args.source if args.recipe == "best" else f"{args.source}-{args.recipe}"
    runs = [[*base, "--name", name, "--seed", str(seed)] for seed in args.seeds]
    first = len(runs)                                    # of those that leave validation tiles aside
    runs += [[*base, "--name", f"{name}-60-20-20", "--seed", str(seed), "--validation"]
             for seed in (args.seeds if args.recipe == "conv" else args.seeds[:1])]
    shipped = [0] if args.recipe == "conv" else [0, first]
    threads = max(1, os.cpu_count() // args.at_once)
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(args.at_once) as pool:
        folders = [Path(args.folder or temporary, f"run{i}") for i in range(len(runs))]
        facts = list(pool.map(train, runs, folders, [threads] * len(runs)))
        # The temperature, and what is usual, come from the run that left validation tiles aside.
        facts[0] |= {key: facts[first][key] for key in ("temperature", "usual_from")}
        args.weights.mkdir(parents=True, exist_ok=True)
        for i in shipped:
            name, command = facts[i]["name"], "python -m vit_helpers " + " ".join(runs[i])
            shutil.copy(folders[i] / f"{name}.pt", args.weights)
            text = json.dumps({**facts[i], "command": command}, indent=2) + "\n"
            (args.weights / f"{name}.json").write_text(text, encoding="utf-8")
    rows = [{**{key: fact[key] for key in KEPT if key in fact},
             "seconds": round(sum(fact["history"]["seconds"]), 1),
             "train_accuracy": fact["history"]["train_accuracy"][-1]} for fact in facts]
    torch.set_num_threads(threads)                       # as in each run: `record` says how many
    record(f"{args.recipe}-{args.source}", {
        "recipe": "python -m vit_helpers " + " ".join(base), "epochs": args.epochs,
        "at_once": args.at_once, "rows": rows}, args.out)


if __name__ == "__main__":
    main()
