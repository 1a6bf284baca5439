"""`python -m vit_helpers`: trains, writes weights with their facts, judges them, and explains what went wrong."""

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

import vit_helpers.__main__ as module
import vit_helpers.pretrained
import vit_helpers.training
from vit_helpers import Tiles, load_pretrained, load_tiles, predict
from vit_helpers.synthetic import synthetic_tiles


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run a command line on 60 synthetic tiles: (exit code, stdout, stderr). Weights are those in tmp_path / "out"."""
    tiles = Tiles(*synthetic_tiles(60), source="synthetic")
    monkeypatch.setattr(module, "load_tiles", lambda source: tiles)
    monkeypatch.setattr(vit_helpers.pretrained, "WEIGHTS", tmp_path / "out")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["vit_helpers", *map(str, words)])
        try:
            code = module.main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def test_train_writes_weights_and_facts_that_load(run, tmp_path):
    words = ("train", "--source", "synthetic", "--epochs", 2, "--seed", 3, "--out", tmp_path / "out")
    code, printed, complaints = run(*words)
    assert code == 0 and "Traceback" not in complaints
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["synthetic.json", "synthetic.pt"]
    facts = json.loads((tmp_path / "out" / "synthetic.json").read_text(encoding="utf-8"))
    assert (facts["epochs"], facts["seed"], facts["test_tiles"], facts["recipe"]["name"]) == (2, 3, 10, "good")
    assert facts["command"] == f"python -m vit_helpers {' '.join(map(str, words))}"
    assert "60 tiles, split 80/20 with seed 0" in facts["data"] and facts["split_seed"] == 0
    assert facts["history"]["test_accuracy"][-1] == facts["test_accuracy"] and len(facts["history"]["loss"]) == 2
    assert f"accuracy {facts['test_accuracy']:.1%} on 10 images" in printed
    assert load_pretrained("synthetic").config == facts["model"]
    code, judged, _ = run("evaluate", "--name", "synthetic")
    assert code == 0 and judged.strip() in printed           # the very same table


def test_the_plain_recipe_builds_the_plain_model(run, tmp_path):
    assert run("train", "--source", "synthetic", "--recipe", "plain", "--epochs", 1, "--out", tmp_path / "out")[0] == 0
    model = load_pretrained("synthetic")
    assert model.config["pool"] == "cls" and model.config["positions"] == "learned"


def test_the_best_recipe_opens_the_test_tiles_once_and_keeps_some_for_validation(run, monkeypatch, tmp_path):
    judged, evaluate = [], module.evaluate
    monkeypatch.setattr(module, "evaluate", lambda model, tiles, **options: judged.append(tiles) or evaluate(
        model, tiles, **options))
    monkeypatch.setattr(vit_helpers.training, "evaluate", None)      # nothing is judged while the model learns
    words = ("train", "--source", "synthetic", "--recipe", "best", "--epochs", 2, "--report", "end", "--split-seed", 5,
             "--validation", "--out", tmp_path / "out")
    code, printed, _ = run(*words)
    facts = json.loads((tmp_path / "out" / "synthetic.json").read_text(encoding="utf-8"))
    assert code == 0 and facts["data"].endswith("split 60/20/20 with seed 5") and facts["recipe"]["name"] == "best"
    assert [len(tiles) for tiles in judged] == [10, 10, 10, 10] and facts["history"]["test_accuracy"] == []
    assert judged[0] is judged[1] and judged[2] is judged[3]          # one view, then eight; accuracy, then temperature
    pixels = [{image.numpy().tobytes() for image in tiles.images} for tiles in judged]
    assert not pixels[0] & pixels[2]
    for name in ("test_accuracy", "test_accuracy_8_views", "validation_accuracy"):
        assert f"{name.replace('_', ' ')} {facts[name]:.2%}" in printed


def test_an_interrupted_run_goes_on_from_its_checkpoint(run, monkeypatch, tmp_path):
    words = ("train", "--source", "synthetic", "--epochs", 2, "--out", tmp_path / "out")
    assert run(*words)[0] == 0
    wanted = load_pretrained("synthetic").state_dict()
    (tmp_path / "out" / "synthetic.pt").unlink()
    words += ("--checkpoint", tmp_path / "run.pt")
    with monkeypatch.context() as ctrl_c:
        calls, evaluate = [], vit_helpers.training.evaluate

        def press(*args):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return evaluate(*args)

        ctrl_c.setattr(vit_helpers.training, "evaluate", press)
        code, printed, _ = run(*words)
    assert code == 130 and "interrupted after 1 of 2 epochs" in printed
    assert not (tmp_path / "out" / "synthetic.pt").exists()  # nothing half-trained is shipped
    assert run(*words)[0] == 0
    found = load_pretrained("synthetic").state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_weights_are_not_judged_on_tiles_they_may_have_learned(run, monkeypatch, tmp_path):
    assert run("train", "--source", "synthetic", "--epochs", 1, "--out", tmp_path / "out")[0] == 0
    monkeypatch.setattr(module, "load_tiles", lambda source: Tiles(*synthetic_tiles(120), source="synthetic"))
    code, _, complaints = run("evaluate", "--name", "synthetic")
    assert code == 2 and "judged on 10 test tiles, here are 20" in complaints


@pytest.mark.parametrize(("words", "message"), [
    (["train", "--epochs", "0"], "error: epochs=0 must be a number above 0"),
    (["train", "--epochs", "many"], "invalid int value: 'many'"),
    (["train", "--source", "mnist"], "invalid choice: 'mnist'"),
    (["train", "--recipe", "secret"], "invalid choice: 'secret'"),
    (["evaluate", "--name", "eurosat"], "error: no shipped weights are named 'eurosat'"),
    (["fly"], "invalid choice: 'fly'"),
    ([], "the following arguments are required"),
])
def test_errors_go_to_stderr_with_exit_code_2(run, tmp_path, words, message):
    if words[:1] == ["train"]:
        words = [*words, "--out", tmp_path / "out"]
    code, printed, complaints = run(*words)
    assert code == 2 and message in complaints and message not in printed and "Traceback" not in complaints


def test_a_folder_that_cannot_be_written_is_noticed_before_training(run, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setattr(module, "fit", lambda *args, **kwargs: pytest.fail("trained for nothing"))
    code, _, complaints = run("train", "--source", "synthetic", "--out", tmp_path / "file" / "out")
    assert code == 2 and complaints.startswith("error: ") and str(tmp_path / "file") in complaints


def test_a_diverging_run_is_an_error_not_a_traceback(run, monkeypatch, tmp_path):
    def diverge(*args, **kwargs):
        raise FloatingPointError("the loss is nan at step 2 of 3, epoch 1")

    monkeypatch.setattr(module, "fit", diverge)
    code, _, complaints = run("train", "--source", "synthetic", "--out", tmp_path / "out")
    assert code == 2 and complaints.strip() == "error: the loss is nan at step 2 of 3, epoch 1"
    assert list((tmp_path / "out").iterdir()) == []


def test_as_a_command_of_its_own(tmp_path):
    words = [sys.executable, "-m", "vit_helpers", "train", "--out", str(tmp_path)]
    result = subprocess.run(words, env={**os.environ, "EUROSAT_ROOT": str(tmp_path / "nowhere")},
                            capture_output=True, text=True, timeout=120)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: no EuroSAT tiles in") and "Traceback" not in result.stderr


@pytest.mark.parametrize("words", [("--help",), ("train", "--help"), ("evaluate", "--help"), ("predict", "--help")])
def test_help_is_printed(run, words):
    code, printed, _ = run(*words)
    assert code == 0 and printed.startswith("usage: python -m vit_helpers")


def test_predict_answers_for_each_picture_and_goes_on_after_a_bad_one(run, monkeypatch, tmp_path):
    monkeypatch.undo()                                       # the shipped weights
    monkeypatch.setattr(sys, "argv", [])
    tile = load_tiles("synthetic").images[3]
    Image.fromarray(tile.permute(1, 2, 0).numpy()).save(tmp_path / "tile.png")
    (tmp_path / "broken.png").write_bytes(b"")
    Image.new("RGBA", (200, 90), "purple").save(tmp_path / "purple.png")
    words = ("predict", tmp_path / "tile.png", tmp_path / "broken.png", tmp_path / "nowhere.png", tmp_path / "purple.png")
    code, printed, complaints = run(*words, "--name", "synthetic", "--map", tmp_path / "out" / "map.png")
    lines = printed.splitlines()
    assert code == 2 and len(lines) == 3
    assert lines[0] == f"{tmp_path / 'tile.png'}: {predict(tile, 'synthetic')}"
    assert lines[1].startswith(f"{tmp_path / 'purple.png'}: ") and lines[2].endswith("map.png")
    assert len(complaints.splitlines()) == 2 and "broken.png is empty (0 bytes)" in complaints and "nowhere.png" in complaints
    assert "Traceback" not in complaints
    drawn = Image.open(tmp_path / "out" / "map.png")
    assert drawn.format == "PNG" and drawn.width > 600 and [p.name for p in (tmp_path / "out").iterdir()] == ["map.png"]
    code, printed, _ = run("predict", tmp_path / "tile.png", "--name", "synthetic")
    assert code == 0 and printed.splitlines() == lines[:1]


def test_predict_without_any_picture_draws_nothing(run, monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", [])
    (tmp_path / "broken.png").write_bytes(b"hello")
    code, printed, complaints = run("predict", tmp_path / "broken.png", "--map", tmp_path / "map.png")
    assert code == 2 and printed == "" and "is not an image" in complaints and not (tmp_path / "map.png").exists()
