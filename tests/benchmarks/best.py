"""The shipped EuroSAT weights: three seeds on the 80/20 split, one more on 60/20/20; seed 0 is what ships.

    python tests/benchmarks/best.py [--epochs 45] [--seeds 0 1 2] [--at-once 2]

Every choice was made on a validation part of the training tiles; each run opens the test tiles once, at its end. The seeds
are fixed beforehand, and the first one ships whatever it reaches. The facts go to vit_helpers/measured.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from record import record

from vit_helpers.pretrained import WEIGHTS


def train(words, folder, threads):
    """Run `python -m vit_helpers train` with `words`, writing to `folder`; returns the facts about the weights."""
    words = [sys.executable, "-m", "vit_helpers", *words, "--out", str(folder), "--checkpoint", str(folder / "run.pt")]
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, stdout=log, stderr=log, check=True)
    return json.loads(next(folder.glob("*.json")).read_text(encoding="utf-8"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="eurosat", choices=("eurosat", "synthetic"))
    parser.add_argument("--epochs", type=int, default=45)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side, which share the cores")
    parser.add_argument("--weights", default=WEIGHTS, help="where the first run's weights go")
    parser.add_argument("--folder", help="for the runs' weights, logs and checkpoints; if it is there, they go on")
    parser.add_argument("--out", help="another file than vit_helpers/measured.json")
    args = parser.parse_args()
    base = ["train", "--source", args.source, "--recipe", "best", "--epochs", str(args.epochs), "--report", "end"]
    runs = [[*base, "--seed", str(seed)] for seed in args.seeds]
    checked = f"{args.source}-60-20-20"
    runs.append([*base, "--seed", str(args.seeds[0]), "--validation", "--name", checked])
    threads = max(1, os.cpu_count() // args.at_once)
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(args.at_once) as pool:
        folders = [Path(args.folder or temporary, f"run{i}") for i in range(len(runs))]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        facts = list(pool.map(train, runs, folders, [threads] * len(runs)))
        command = "python -m vit_helpers " + " ".join(base)
        Path(args.weights).mkdir(parents=True, exist_ok=True)
        # How sure to be, and what is usual, is found with the run that left validation tiles aside.
        facts[0] |= {key: facts[-1][key] for key in ("temperature", "usual_from")}
        for folder, words, fact in zip((folders[0], folders[-1]), (runs[0], runs[-1]), (facts[0], facts[-1]), strict=True):
            shutil.copy(folder / f"{fact['name']}.pt", args.weights)
            # The command that makes them where they are shipped, not in this run's folder.
            shipped = {**fact, "command": "python -m vit_helpers " + " ".join(words)}
            (Path(args.weights) / f"{fact['name']}.json").write_text(json.dumps(shipped, indent=2) + "\n", encoding="utf-8")
    kept = ("data", "seed", "test_accuracy", "test_accuracy_8_views", "validation_accuracy")
    rows = [{**{key: fact[key] for key in kept if key in fact}, "seconds": round(sum(fact["history"]["seconds"]), 1),
             "train_accuracy": fact["history"]["train_accuracy"][-1]} for fact in facts]
    record(f"best-{args.source}", {"recipe": command, "epochs": args.epochs, "at_once": args.at_once,
                                   "threads_each": threads, "rows": rows}, args.out)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
