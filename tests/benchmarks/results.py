"""The measurements as text: RESULTS.md's tables and README's short one. `lessons.py --pages` writes both."""

import json
import re
import statistics
from pathlib import Path

from record import stored

from vit_helpers.pretrained import WEIGHTS

ROOT = Path(__file__).parents[2]
PAGE = Path(__file__).with_name("RESULTS.md")
SHARES = re.compile("accuracy|AP|IoU")               # what keys of lists of shares, 0 to 1, contain
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
    return f"{statistics.mean(values) * 100:.1f}{spread}%"


def written(key, value):
    if SHARES.search(key):
        return percent(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def table(rows):
    """Rows (dicts, which may lack keys) as a Markdown table; of lists only shares are shown."""
    keys = list(dict.fromkeys(key for row in rows for key, value in row.items()
                              if SHARES.search(key) or not isinstance(value, (list, dict))))
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
            decoding = race["decode_seconds"]
            row["times_as_fast"] = statistics.mean(theirs / ours for theirs, ours in pairs)
            row["with_decoding"] = statistics.mean(theirs / (ours + decoding) for theirs, ours in pairs)
        rows.append(row)
    return rows


def setting(facts):
    """Date, machine and setting of a measurement in one line."""
    parts = [facts["date"], facts["machine"]]
    if "seeds" in facts:
        parts.append(f"training seeds {facts['seeds']}")
    if "judged_on" in facts:
        parts.append(f"judged on {facts['judged_on']} of {facts['source']}")
    if "decode_seconds" in facts:
        parts.append(f"decoding all files, once: {facts['decode_seconds']:.1f} s")
    return " · ".join([*parts, f"`{facts['command']}`"])


def rows_of(facts):
    """All tables of one measurement, a list of lists of rows."""
    if "runs" in facts:
        return [race_rows(facts)]
    if "notebooks" in facts:
        return [[{"lesson": name, "minutes": row["minutes"], "peak_MB": row["peak_mb"]}
                 for name, row in facts["notebooks"].items()]]
    result = facts.get("rows") or facts["result"]
    return [result] if isinstance(result, list) else [v for v in result.values() if isinstance(v, list)]


def of_weights(folder):
    """What is stored beside the weights in `folder`, as a table."""
    facts = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return table([{key: fact[key] for key in OF_WEIGHTS if key in fact} for fact in facts])


def results():
    """RESULTS.md's text with all that stands between its marks renewed; its words stay."""
    text, everything = PAGE.read_text(encoding="utf-8"), stored()
    for mark in re.findall(r"^<!-- (\w\S*) -->$", text, re.M):
        if mark == "weights":
            new = f"{of_weights(WEIGHTS)}\n\n{of_weights(WEIGHTS / 'heads')}"
        else:
            new = "\n\n".join([setting(everything[mark]), *map(table, rows_of(everything[mark]))])
        text = between(text, mark, new)
    return text


def readme_results():
    """README's table of results, from what is stored."""
    everything = stored()
    race, fast, slow = ({row["run"]: row for row in race_rows(everything[name])}
                        for name in ("race", "race-stem", "race-float32"))
    plain, quick = race["plain"], race["quick, 0.8 epochs"]
    split, stems, fewer = (
        [row for row in everything[name]["rows"] if parts in row["data"]] for name, parts in (
            ("best-eurosat", "80/20"), ("conv-eurosat", "80/20"), ("conv-eurosat", "60/20/20")))
    places = {(row["model"], row["recipe"], row["split"]): row for row in everything["places"]["rows"]}
    raced = f"{len(everything['race']['seeds'])} training seeds"
    by_places = f"60/20/20 by longitude, {len(everything['places']['seeds'])} training seeds"
    good = [("ViT", "good"), ("ViT, convolutional stem", "good"), ("CNN", "good")]
    longer = [("ViT, convolutional stem", "conv"), ("CNN", "conv")]
    epochs = places[(*longer[0], "spatial")]["epochs"]

    def plan(what, by_run, where):
        names = ("quick, 2 epochs", "good+stem, 2.5 epochs", "good+stem, 6.5 epochs")
        runs = [by_run[name] for name in names]
        reached = ", ".join(percent(run["test_accuracy"]) for run in runs)
        seconds = ", ".join(str(run["seconds"]) for run in runs)
        plain = by_run["plain"]
        return (what, reached, f"{seconds} s, plain program: {plain['seconds']} s for "
                               f"{percent(plain['test_accuracy'])}; 1 training seed, {where}")

    def judged(rows):
        one, eight = ([row[key] for row in rows] for key in ("test_accuracy", "test_accuracy_8_views"))
        minutes = statistics.mean(row["seconds"] for row in rows) / 60
        return percent(one), (f"{minutes:.0f} min on one core, {len(rows)} training seeds; eight flips and "
                              f"transposes averaged: {percent(eight)}")

    def means(models, split):
        return ", ".join(percent(places[(*model, split)]["accuracy"]) for model in models)

    rows = [
        ("Plain tutorial program: post-norm, Adam, 5 epochs", percent(plain["test_accuracy"]),
         f"{plain['seconds']} s, {raced}"),
        ("Recipe `quick`, 0.8 epochs", percent(quick["test_accuracy"]), f"{quick['seconds']} s, {raced}"),
        plan("Longer: `quick`, 2 epochs; `good` with a convolutional stem, 2.5 and 6.5 epochs", fast,
             "an Intel Xeon"),
        plan("The same without bf16 units (AVX2)", slow, "that Xeon, with those units unused"),
        ("Recipe `best`, 45 epochs (seed 0 ships)", *judged(split)),
        (f"Recipe `conv`, a convolutional stem, {everything['conv-eurosat']['epochs']} epochs (seed 0 ships)",
         *judged(stems)),
        ("The same from 60% of the tiles (60/20/20 at random)", *judged(fewer)),
        ("**In new places**, recipe `good`, 5 epochs: ViT, with a convolutional stem, a CNN of its size; "
         f"the last two with recipe `conv`, {epochs} epochs",
         f"{means(good, 'spatial')}; {means(longer, 'spatial')}",
         f"{by_places}; at random, recipe `good`: {means(good, 'random')}"),
    ]
    lines = ["| what | test accuracy | setting |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
