"""The measurements as text: RESULTS.md, and README's short table. `lessons.py --pages` writes both."""

import json
import statistics
import textwrap
from pathlib import Path

from record import stored

from vit_helpers.pretrained import WEIGHTS

ROOT = Path(__file__).parents[2]
PAGE = Path(__file__).with_name("RESULTS.md")
SECTIONS = {                                         # name of the measurement: title, what to know about it
    "race": (
        "The race",
        "The plain program that many tutorials teach (`baseline.py`: post-norm, JPEG files decoded in every "
        "epoch, Adam) against the course, in turn on the same machine. The clock covers everything once the "
        "files are on the disk, except the tests. The course decodes the files once; the last column counts "
        "that in."),
    "race-float32": ("The race without bf16 units", "The same on a processor without bf16 units."),
    "best-eurosat": (
        "The shipped EuroSAT weights",
        "The recipe `best`. The seeds were fixed beforehand, and seed 0 ships. Each run opened the test "
        "tiles once, at its end. Eight views average the answer over the flips and transposes of a tile, at "
        "eight times the cost."),
    "best-synthetic": ("The shipped synthetic weights", "The same on synthetic tiles, for use offline."),
    "walk": ("From the plain recipe to the good one", ""),
    "patch_size": ("Patch size", ""),
    "positions": ("Positions", ""),
    "optimizers": ("Optimizers", ""),
    "learning_rate": ("Learning rates", "[Lesson 08](../../notebooks/08_training.ipynb) plots the losses."),
    "images": ("Number of training images", ""),
    "peers": (
        "Beside other libraries",
        "Same geometry, same optimizer, in turn on random images. The ratio is the median over rounds, each "
        "compared within itself."),
    "pipeline": (
        "The input pipeline",
        "One epoch of augmented batches, against PIL and torchvision's transforms in a `DataLoader`. The "
        "files came from memory, the kindest case for them."),
    "growth": (
        "How time and memory grow",
        "One factor at a time: a training step of the good recipe with all patches."),
    "lessons": ("Running the lessons", "The peak is the most memory that the kernel held."),
}
SHOWN = {                                            # lesson: phrases of the outputs that RESULTS.md quotes
    "01_eurosat_data": ["color alone:"],
    "08_training": ["epoch     loss"],
    "09_evaluation": ["ECE", "test tiles (should not be)"],
    "12_pretrained": ["linear probe"],
    "13_segmentation": ["mean IoU", "sliding classifier", "sliding segmenter"],
    "14_detection": ["class and place"],
    "15_video": ["one frame"],
    "16_generation": ["labels, from scratch", "judge on real", "recognized"],
}
OF_WEIGHTS = ("name", "data", "epochs", "steps", "seed", "test_accuracy", "test_accuracy_8_views", "loss",
              "seconds", "command")


def between(text, mark, new):
    """`text` with what is between <!-- mark --> and <!-- /mark --> replaced by `new`."""
    before, rest = text.split(f"<!-- {mark} -->\n")
    return f"{before}<!-- {mark} -->\n{new}\n<!-- /{mark} -->{rest.split(f'<!-- /{mark} -->', 1)[1]}"


def percent(values):
    """Mean and sample standard deviation of shares, as text."""
    values = values if isinstance(values, list) else [values]
    spread = f" ± {statistics.stdev(values) * 100:.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values) * 100:.1f}{spread} %"


def written(key, value):
    if "accuracy" in key:
        return percent(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def table(rows):
    """Rows (dicts, which may lack keys) as a Markdown table; of lists only accuracies are shown."""
    keys = list(dict.fromkeys(key for row in rows for key, value in row.items()
                              if "accuracy" in key or not isinstance(value, (list, dict))))
    lines = [f"| {' | '.join(key.replace('_', ' ') for key in keys)} |", "|---" * len(keys) + "|"]
    for row in rows:
        cells = [written(key, row[key]) if key in row else "" for key in keys]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def race_rows(race):
    """One row for each kind of run, over all seeds."""
    rows, plain = [], race["runs"]["plain"]
    for name, runs in race["runs"].items():
        row = {"run": name, "test_accuracy": [run["accuracy"] for run in runs],
               "seconds": round(statistics.mean(run["seconds"] for run in runs)),
               "peak_mb": round(max(run["peak_mb"] for run in runs))}
        if "accuracy_8_views" in runs[0]:
            row["accuracy_8_views"] = [run["accuracy_8_views"] for run in runs]
        if name != "plain":
            pairs = [(theirs["seconds"], ours["seconds"]) for theirs, ours in zip(plain, runs, strict=True)]
            row["times_as_fast"] = statistics.mean(theirs / ours for theirs, ours in pairs)
            decoding = race["decode_seconds"]
            row["with_decoding"] = statistics.mean(theirs / (ours + decoding) for theirs, ours in pairs)
        rows.append(row)
    return rows


def setting(facts):
    """Date, machine and setting of a measurement in one line."""
    machine = facts["machine"]
    parts = [facts["date"], f"{machine['cpu']}, {machine['cores']} cores, threads: {machine['threads']}",
             machine["device"], f"{'with' if machine['fast_bf16'] else 'without'} fast bf16",
             f"PyTorch {machine['torch']}"]
    if "seeds" in facts:
        parts.append(f"training seeds {facts['seeds']}")
    if "judged_on" in facts:
        parts.append(f"judged on {facts['judged_on']} of {facts['source']}")
    if "decode_seconds" in facts:
        parts.append(f"decoding all files, once: {facts['decode_seconds']:.1f} s")
    return " · ".join([*parts, f"`{facts['command']}`"])


def tables(name, facts):
    """The tables of one measurement, a list of Markdown texts."""
    if name.startswith("race"):
        return [table(race_rows(facts))]
    if name == "lessons":
        return [table([{"lesson": lesson, "minutes": row["minutes"], "peak_MB": row["peak_mb"]}
                       for lesson, row in facts["notebooks"].items()])]
    if name == "growth":
        return [table(facts["result"]["model"]), table(facts["result"]["data"])]
    result = facts.get("rows") or facts["result"]
    return [table(result if isinstance(result, list) else result["rows"])]


def section(name, facts):
    title, about = SECTIONS[name]
    what = facts.get("what", "").partition("\n")[0]
    words = " ".join(text for text in (what, about, facts.get("note")) if text)
    return "\n\n".join([f"## {title}", textwrap.fill(words, 116), setting(facts), *tables(name, facts)])


def shipped(folder):
    """What is stored beside the weights in `folder`, as a table."""
    facts = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return table([{key: fact[key] for key in OF_WEIGHTS if key in fact} for fact in facts])


def stored_outputs(name):
    """What the code cells of a notebook printed, a list of texts."""
    notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return ["".join("".join(output.get("text", "")) for output in cell["outputs"]) for cell in cells]


def shown(name):
    """The outputs of a lesson that hold its results, as stored."""
    outputs, kept = stored_outputs(name), []
    for phrase in SHOWN[name]:
        found = [text for text in outputs if phrase in text]
        if not found:
            raise ValueError(f"{name} no longer prints {phrase!r}; correct SHOWN in {__file__}")
        if found[-1].rstrip() not in kept:           # one cell may hold two of the phrases
            kept.append(found[-1].rstrip())
    return f"[{name}](../../notebooks/{name}.ipynb)\n\n```\n" + "\n".join(kept) + "\n```"


def results():
    """RESULTS.md's text with all measurements renewed; its words at the top and at the end stay."""
    everything = stored()
    text = between(PAGE.read_text(encoding="utf-8"), "measured", "\n\n".join(
        section(name, everything[name]) for name in SECTIONS))
    text = between(text, "weights", f"{shipped(WEIGHTS)}\n\n{shipped(WEIGHTS / 'heads')}")
    return between(text, "lessons", "\n\n".join(map(shown, SHOWN)))


def readme_rows():
    """README's results, from what is stored."""
    everything = stored()
    race = {row["run"]: row for row in race_rows(everything["race"])}
    raced = f"{len(everything['race']['seeds'])} training seeds"
    best = everything["best-eurosat"]["rows"]
    split = [row for row in best if "80/20" in row["data"]]
    thousand = {row["model"]: row for row in everything["images"]["rows"] if row["images"] == 1000}
    names = {"plain": "Plain tutorial program: post-norm, Adam, 5 epochs",
             "quick, 0.8 epochs": "Recipe `quick`, 0.8 epochs",
             "best, 20 epochs": "Recipe `best`, 20 epochs"}
    rows = [(words, percent(race[name]["test_accuracy"]), f"{race[name]['seconds']} s, {raced}")
            for name, words in names.items()]
    slow = {row["run"]: row for row in race_rows(everything["race-float32"])}
    rows.insert(2, ("The same without bf16 units (AVX2)", percent(slow["quick, 0.8 epochs"]["test_accuracy"]),
                    f"{slow['quick, 0.8 epochs']['seconds']} s, plain program: {slow['plain']['seconds']} s"))
    minutes = statistics.mean(row["seconds"] for row in split) / 60
    trained = f"{len(split)} training seeds"
    rows.append(("Recipe `best`, 45 epochs (seed 0 ships)", percent([row["test_accuracy"] for row in split]),
                 f"{minutes:.0f} min on one core, {trained}"))
    rows.append(("The same, averaged over eight flips and transposes",
                 percent([row["test_accuracy_8_views"] for row in split]),
                 f"8 times the cost of an answer, {trained}"))
    rows.append(("The same recipe, 60/20/20 split", percent(best[-1]["test_accuracy"]), "1 training seed"))
    rows.append(("Only 1,000 labeled tiles: ViT, and a CNN of its size",
                 f"{percent(thousand['ViT']['accuracy'])}, {percent(thousand['CNN']['accuracy'])}",
                 f"{thousand['ViT']['epochs']} epochs, 1 seed"))
    return rows


def readme_results():
    heads = ("what", "test accuracy", "setting")
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in readme_rows())])
