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
    """One measurement as a list of rows."""
    if "runs" in facts:
        return race_rows(facts)
    if "notebooks" in facts:
        return [{"lesson": name, "minutes": row["minutes"], "peak_MB": row["peak_mb"]}
                for name, row in facts["notebooks"].items()]
    return facts.get("rows") or facts["result"]


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
            new = f"{setting(everything[mark])}\n\n{table(rows_of(everything[mark]))}"
        text = between(text, mark, new)
    return text


def readme_results():
    """README's table of results, from what is stored."""
    everything = stored()
    race, fast = ({row["run"]: row for row in race_rows(everything[name])} for name in ("race", "race-stem"))
    conv = everything["conv-eurosat"]
    raced = f"{len(everything['race']['seeds'])} training seeds"

    def whole(study):                                # the runs on 80/20
        rows = [row for row in study["rows"] if "80/20" in row["data"]]
        one, eight = ([row[key] for row in rows] for key in ("test_accuracy", "test_accuracy_8_views"))
        minutes = statistics.mean(row["seconds"] for row in rows) / 60
        return percent(one), (f"{minutes:.0f} min on one core, {len(rows)} training seeds; eight flips and "
                              f"transposes averaged: {percent(eight)}")

    rows = [(what, percent(run["test_accuracy"]), f"{run['seconds']} s, {seeds}") for what, run, seeds in (
        ("Plain tutorial program: post-norm, Adam, 5 epochs", race["plain"], raced),
        ("Recipe `quick`, 0.8 epochs", race["quick, 0.8 epochs"], raced),
        ("Recipe `good` with a convolutional stem, 2.5 epochs", fast["good+stem, 2.5 epochs"],
         "1 training seed"))]
    rows += [("Recipe `best`, 45 epochs (seed 0 ships)", *whole(everything["best-eurosat"])),
             (f"Recipe `conv`, a convolutional stem, {conv['epochs']} epochs (seed 0 ships)", *whole(conv))]
    rows += [(f"In new places: {row['model']}", percent(row["accuracy"]),
              f"recipe `conv`, {row['epochs']} epochs, {len(row['accuracy'])} training seeds")
             for row in everything["places"]["rows"] if (row["split"], row["recipe"]) == ("spatial", "conv")]
    lines = ["| what | test accuracy | setting |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
