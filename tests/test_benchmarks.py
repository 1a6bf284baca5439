"""The benchmarks: the baseline is what its description says, the runs are comparable, and the tables add up."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import lessons
import nbformat
import pytest
import race
import torch
import what_matters
from baseline import PlainViT, train_plain
from PIL import Image
from record import record
from torch import nn

import vit_helpers.pretrained
from vit_helpers import CLASSES, GOOD, PLAIN, Tiles
from vit_helpers.eurosat import COUNTS
from vit_helpers.synthetic import synthetic_tiles

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.fixture
def files(tmp_path):
    """Forty tiles as JPEG files in torchvision's layout; returns the root and the tiles."""
    images, labels = synthetic_tiles(40)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "eurosat" / "2750" / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{i:03}.jpg", quality=95)
    return tmp_path, Tiles(images, labels)


def test_the_baseline_is_the_plain_program():
    model = PlainViT()
    layer = model.encoder.layers[0]
    assert len(model.encoder.layers) == 4 and not layer.norm_first and layer.dropout.p == 0.1
    assert (layer.self_attn.embed_dim, layer.self_attn.num_heads, layer.linear1.out_features) == (128, 4, 256)
    assert model.pos_embed.shape == (1, 65, 128) and 0.9 < model.pos_embed.std() < 1.1       # random, not small
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 10)
    attended = nn.Sequential(*list(model.encoder.layers))(torch.randn(2, 65, 128))
    torch.testing.assert_close(attended.std(dim=2), torch.ones(2, 65), atol=0.02, rtol=0)    # post-norm: the norm comes last


def test_the_baseline_learns_from_jpeg_files_and_its_clock_runs(files):
    root, tiles = files
    curve = list(train_plain(str(root), list(range(len(tiles))), list(range(0, len(tiles), 2)), epochs=2))
    (first, accuracy), (second, _) = curve
    assert 0 < first < second and 0 <= accuracy <= 1 and accuracy * 20 == pytest.approx(round(accuracy * 20))


def test_both_are_judged_on_the_same_tiles():
    train, test = race.split_positions()
    labels = torch.arange(10).repeat_interleave(torch.tensor(COUNTS))
    tiles = Tiles(torch.zeros(27_000, 1, 1, 1, dtype=torch.uint8), labels)
    assert len(train) == 21_600 and len(test) == 5400 and sorted(train + test) == list(range(27_000))
    expected = [part.labels.tolist() for part in tiles.split()]
    assert [labels[part].tolist() for part in (train, test)] == expected


def test_the_same_tiles_by_their_pixels(eurosat):
    for part, positions in zip(eurosat.split(), race.split_positions(), strict=True):
        assert torch.equal(part.images[::500], eurosat.images[positions[::500]])


def test_the_report_of_a_race_by_hand():
    plain = [{"seconds": 400, "accuracy": 0.80, "peak_mb": 700, "curve": [[200, 0.7], [400, 0.80]]},
             {"seconds": 200, "accuracy": 0.82, "peak_mb": 800, "curve": [[100, 0.7], [200, 0.82]]}]
    good = [{"seconds": 10, "accuracy": 0.85, "accuracy_8_views": 0.9, "peak_mb": 500},
            {"seconds": 20, "accuracy": 0.87, "accuracy_8_views": 0.9, "peak_mb": 600}]
    slow = [{"seconds": 1, "accuracy": 0.5, "accuracy_8_views": 0.5, "peak_mb": 5}] * 2
    text = race.report({"seeds": [0, 1], "decode_seconds": 5,
                   "runs": {"plain": plain, "good, 1 epoch": good, "slow": slow}})
    assert "81.0 ± 1.4 %" in text and "86.0 ± 1.4 %" in text and "15.0 ± 7.1 s" in text
    assert "300 s 81.0%" in text and "25.0x" in text and "800 MB" in text            # 25 = mean of 40 and 10
    assert "(81.0%) in 1/25.0 of its time; with the decoding 1/17.3" in text         # mean of 400/15 and 200/25
    assert "slow: at least" not in text


def test_a_race_without_the_archive_says_where_to_put_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no EuroSAT.zip in .*; set EUROSAT_ROOT, or name its folder with --root"):
        race.unpack(tmp_path, tmp_path / "files")


def test_records_are_added_one_by_one_with_their_command(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/anywhere/race.py", "--seeds", "0", "--out", "/tmp/x.json"])
    for name in ("race", "walk", "race"):
        record(name, {"rows": [name]}, tmp_path / "measured.json")
    kept = json.loads((tmp_path / "measured.json").read_text(encoding="utf-8"))
    assert list(kept) == ["race", "walk"] and kept["walk"]["rows"] == ["walk"]
    assert kept["race"]["command"] == "python tests/benchmarks/race.py --seeds 0"
    assert kept["race"]["machine"]["torch"] == torch.__version__


def test_the_walk_ends_at_the_good_recipe_and_changes_one_thing_at_a_time(monkeypatch):
    seen = []
    monkeypatch.setattr(what_matters, "trial", lambda train, judged, recipe, epochs, seed: seen.append(recipe) or {
        "seconds": 1.0, "accuracy": 0.5})
    rows = what_matters.walk(None, None, [0])
    assert seen[0] == PLAIN and seen[-1].model == GOOD.model and rows[0]["change"] == "plain recipe"
    assert all(before != after for before, after in itertools.pairwise(seen[:-1]))   # the last one only has more epochs


def test_one_study_from_the_command_line(tmp_path, monkeypatch):
    words = ["positions", "--seeds", "0", "--source", "synthetic", "--out", tmp_path / "measured.json"]
    monkeypatch.setattr(sys, "argv", ["what_matters.py", *map(str, words)])
    monkeypatch.setattr(what_matters, "load_tiles", lambda source: Tiles(*synthetic_tiles(150), source=source))
    what_matters.main()
    study = json.loads((tmp_path / "measured.json").read_text(encoding="utf-8"))["positions"]
    assert [row["positions"] for row in study["rows"]] == ["none", "learned", "sincos"]
    assert all(0 <= row["accuracy"][0] <= 1 and row["seconds"] > 0 for row in study["rows"])
    assert study["judged_on"] == "20 validation tiles" and study["source"] == "synthetic"


def test_a_run_of_the_course_is_judged_with_one_and_with_eight_views(monkeypatch):
    tiles = Tiles(*synthetic_tiles(100), source="synthetic")
    monkeypatch.setattr(race, "load_tiles", lambda source, root: tiles)
    result = race.run_course(root="", recipe="good", epochs=1, seed=0, device="cpu", bf16=False, views=(1, 8))
    assert result["seconds"] > 0 and result["curve"] == [(result["seconds"], result["accuracy"])]
    assert all(0 <= result[name] <= 1 and result[f"seconds_for_{name}"] > 0 for name in ("accuracy", "accuracy_8_views"))


def test_the_shipped_weights_are_made_and_recorded_by_one_command(tmp_path):
    words = ["--source", "synthetic", "--epochs", "1", "--seeds", "4", "--weights", tmp_path / "weights",
             "--folder", tmp_path / "runs", "--out", tmp_path / "measured.json"]
    subprocess.run([sys.executable, str(BENCHMARKS / "best.py"), *map(str, words)], check=True, capture_output=True)
    kept = json.loads((tmp_path / "measured.json").read_text(encoding="utf-8"))["best-synthetic"]
    shipped = json.loads((tmp_path / "weights" / "synthetic.json").read_text(encoding="utf-8"))
    assert [row["seed"] for row in kept["rows"]] == [4, 4] and "80/20" in kept["rows"][0]["data"]
    assert "60/20/20" in kept["rows"][1]["data"] and kept["rows"][1]["validation_accuracy"] <= 1
    assert shipped["test_accuracy"] == kept["rows"][0]["test_accuracy"] and (tmp_path / "weights" / "synthetic.pt").exists()
    assert shipped["command"] == kept["recipe"] + " --seed 4" and "--out" not in shipped["command"]


@pytest.mark.parametrize("which", ["generator", "masked"])
def test_shipped_heads_are_made_by_one_command(which, tmp_path):
    words = [sys.executable, BENCHMARKS / "shipped_heads.py", which, "--source", "synthetic", "--steps", "2", "--out", tmp_path]
    subprocess.run([str(word) for word in words], check=True, capture_output=True)
    facts = json.loads((tmp_path / f"{which}.json").read_text(encoding="utf-8"))
    assert facts["steps"] == 2 and facts["loss"] > 0 and facts["command"].endswith(f"shipped_heads.py {which} --steps 2")
    assert (tmp_path / f"{which}.pt").stat().st_size < 4_000_000
    shipped = json.loads((vit_helpers.pretrained.WEIGHTS / "heads" / f"{which}.json").read_text(encoding="utf-8"))
    assert shipped["model"] == facts["model"] and shipped["recipe"] == facts["recipe"]           # the same, trained longer


def test_a_lesson_is_run_measured_and_stored_without_its_controls(tmp_path):
    slider = nbformat.v4.new_code_cell("import ipywidgets\nipywidgets.IntSlider()", metadata={"tags": ["slider"]})
    cells = [nbformat.v4.new_markdown_cell("# 99"), nbformat.v4.new_code_cell("ADDRESS = 1"), slider,
             nbformat.v4.new_code_cell("held = bytearray(300_000_000)\nprint(len(held))")]
    path = tmp_path / "99.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    facts = lessons.run(path)
    stored = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [1, 2, 3] and "widgets" not in stored["metadata"]
    assert code[1]["outputs"] == [] and code[2]["outputs"][0]["text"] == ["300000000\n"]
    assert 0 < facts["minutes"] < 1 and (facts["peak_mb"] is None or 300 < facts["peak_mb"] < 900)
    assert facts["code"] == lessons.code_of(stored)
    stored["cells"][1]["source"] = "ADDRESS = 2"             # another address is no other lesson
    assert facts["code"] == lessons.code_of(stored)
    stored["cells"][3]["source"] += "#"
    assert facts["code"] != lessons.code_of(stored)


def test_the_map_keeps_its_words_and_takes_the_figures_of_the_last_run():
    names = [path.stem for path in lessons.NOTEBOOKS]
    readme = "\n".join(f"| [{name}](notebooks/{name}.ipynb) | words | old |" for name in names)
    figures = {name: {"minutes": 0.25 * i, "peak_mb": 1000 + i} for i, name in enumerate(names)}
    lines = lessons.with_map(readme, figures).splitlines()
    assert lines[5] == f"| [{names[5]}](notebooks/{names[5]}.ipynb) | words | 40 | 40 | 1.2 | 1,005 |"
    assert lines[0].endswith("| words | 10 | – | 0.0 | 1,000 |") and len(lines) == len(names)


def test_notes_for_teachers_name_every_exercise_and_the_mistakes_of_its_checker():
    notes = lessons.notes_for_teachers()
    assert notes.count("<details>") == notes.count("</details>") == len(lessons.NOTEBOOKS) - 1
    assert "**5.1 · scaled scores · 5 minutes · ★☆☆** (`scaled_scores`). Common wrong answers:" in notes
    assert "- the scores are not divided by anything; divide by the square root of the head width." in notes
