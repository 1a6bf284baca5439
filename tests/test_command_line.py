"""`python -m vit_helpers`: trains, writes weights with their facts, judges them, and says what went wrong."""

import json
import os
import re
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from test_in_the_wild import picture, put

import vit_helpers.__main__ as module
from vit_helpers import Tiles, load_pretrained, predict, pretrained_facts, save_checkpoint, training
from vit_helpers.evaluation import class_means, familiarity, pooled_features
from vit_helpers.synthetic import synthetic_tiles


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run a command line on 60 synthetic tiles: (exit code, stdout, stderr); in its own folder."""
    tiles = Tiles(*synthetic_tiles(60), source="synthetic")
    monkeypatch.setattr(module, "load_tiles", lambda source: tiles)
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["vit_helpers", *map(str, words)])
        try:
            code = module.main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def test_train_writes_weights_and_facts_that_evaluate_finds_again(run, monkeypatch, tmp_path):
    words = ("train", "--source", "synthetic", "--epochs", 2, "--seed", 3, "--split-seed", 5)
    code, printed, _ = run(*words)
    facts = pretrained_facts("weights/synthetic.pt")
    run(*words)                                              # the same weights, bit for bit
    assert pretrained_facts("weights/synthetic.pt")["sha256"] == facts["sha256"]
    assert code == 0 and len([*(tmp_path / "weights").iterdir()]) == 2
    assert (facts["seed"], facts["test_tiles"], facts["recipe"]["name"]) == (3, 10, "good")
    assert facts["data"] == "synthetic, 60 tiles, split 80/20 with seed 5"
    assert facts["command"].startswith("python -m vit_helpers train --source synthetic --epochs 2 --seed 3")
    assert facts["history"]["test_accuracy"][1:] == [facts["test_accuracy"]]
    code, judged, _ = run("evaluate", "--weights", "weights/synthetic.pt")
    assert code == 0 and judged.startswith("accuracy") and judged.strip() in printed     # the very same table
    for more, there in ((120, "20 of 120"), (61, "10 of 61")):           # some of which they may have learned
        others = Tiles(*synthetic_tiles(more), source="synthetic")
        monkeypatch.setattr(module, "load_tiles", lambda source, others=others: others)
        complaints = run("evaluate", "--weights", "weights/synthetic.pt")[2]
        assert f"judged on 10 test tiles, here are {there}" in complaints


def test_validation_tiles_are_kept_apart(run, monkeypatch, tmp_path):
    evaluate, fit = Mock(wraps=module.evaluate), Mock(wraps=module.fit)
    monkeypatch.setattr(module, "evaluate", evaluate)
    monkeypatch.setattr(module, "fit", fit)
    words = ("--source", "synthetic", "--recipe", "plain", "--report", "end", "--validation", "--seed", 4)
    assert run("train", *words, "--batch-size", 7)[0] == 0 and fit.call_args.args[2] is None
    assert (fit.call_args.kwargs["seed"], fit.call_args.kwargs["recipe"].batch_size) == (4, 7)
    facts = pretrained_facts("weights/synthetic.pt")
    assert "split 60/20/20" in facts["data"] and facts["model"]["pool"] == "cls"
    judged = [call.args[1] for call in evaluate.call_args_list]
    test, again, validation = ({image.numpy().tobytes() for image in tiles.images} for tiles in judged)
    assert len(test) == len(validation) == 10 and test == again and not test & validation
    model, learned = load_pretrained(tmp_path / "weights" / "synthetic.pt"), fit.call_args.args[1]
    means = class_means(pooled_features(model, learned), learned.labels, 10)
    torch.testing.assert_close(torch.tensor(facts["class_means"]), means, atol=1e-4, rtol=0)
    assert (familiarity(pooled_features(model, judged[2]), means) >= facts["usual_from"]).sum() == 9   # of 10
    best = module.evaluate(model, judged[2]).best_temperature()
    assert facts["temperature"] == pytest.approx(best, abs=1e-4)


def test_a_folder_of_pictures_is_learned_from_judged_and_used_as_the_readme_says(run, tmp_path):
    folder, mine = tmp_path / "Meine Fotos (Übung)", tmp_path / "weights" / "mine.pt"
    names = [f"{('summer', 'Winter ü')[i % 2]}/{i}.png" for i in range(20)]
    put({name: picture(12 * i, "PNG", (50 + i, 80)) for i, name in enumerate(names)}, folder)
    Image.fromarray(np.full((64, 64), 300, np.uint16)).save(folder / "summer" / "16 bits.tif")
    words = ("train", "--data", folder, "--epochs", 1, "--name", "mine")
    assert re.search(r"16 bits\.tif.* run from 300 to 300.*--white", run(*words)[2])
    code, printed, _ = run(*words, "--white", 3000)
    facts = pretrained_facts(mine)
    assert code == 0 and printed.rstrip().endswith("mine.pt") and mine.exists()
    assert facts["classes"] == ["Winter ü", "summer"] and facts["data"].startswith("Meine Fotos (Übung), 21 ")
    code, judged, _ = run("evaluate", "--weights", mine, "--data", folder)
    assert code == 0 and judged[judged.index("accuracy"):].strip() in printed
    assert "say where: --data FOLDER" in run("evaluate", "--weights", mine)[2]
    path = folder / "summer" / "16 bits.tif"                # of which the weights know what is white
    code, printed, _ = run("predict", path, "--weights", mine, "--map", tmp_path / "map ü.png")
    assert code == 0 and printed.startswith(f"{path}: ") and "summer" in printed and "Winter ü" in printed


def test_ctrl_c_ends_the_command_without_weights_and_it_goes_on_when_called_again(run, monkeypatch, tmp_path):
    words = ("train", "--source", "synthetic", "--epochs", 2, "--checkpoint", tmp_path / "run.pt")

    def save_and_press_ctrl_c(path, **state):                # no signal: xdist's workers ignore SIGINT
        save_checkpoint(path, **state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_checkpoint", save_and_press_ctrl_c)
        code, printed, complaints = run(*words)
    done = torch.load(tmp_path / "run.pt")["history"]
    assert code == 130 and "model and history are usable" in printed and not complaints
    assert len(done["loss"]) == 1
    assert not (tmp_path / "weights" / "synthetic.pt").exists() and run(*words)[0] == 0
    found = pretrained_facts("weights/synthetic.pt")["history"]
    assert len(found["loss"]) == 2 and found["seconds"][:1] == [round(x, 4) for x in done["seconds"]]


@pytest.mark.parametrize(("words", "message"), [
    (["train", "--epochs", "0"], "error: epochs=0 must be a number above 0"),
    (["train", "--data", "no/such/folder"], "there is no folder or zip archive"),
    (["train", "--recipe", "secret"], "invalid choice: 'secret'"),
    (["evaluate", "--weights", "mine"], "error: no shipped weights are named 'mine'"),
    (["evaluate", "--weights", "none.pt"], "error: there is no file none.pt")])
def test_an_error_is_one_sentence_and_exit_code_2(run, words, message):
    code, printed, complaints = run(*words)
    assert code == 2 and message in complaints.splitlines()[-1] and message not in printed
    assert complaints.startswith(("error: ", "usage: ")) and "Traceback" not in complaints


def test_as_a_command_of_its_own(tmp_path):
    words = [sys.executable, "-m", "vit_helpers", "train", "--out", tmp_path]
    nowhere = {**os.environ, "EUROSAT_ROOT": str(tmp_path / "nowhere")}
    result = subprocess.run(words, env=nowhere, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: no EuroSAT tiles in")


def test_predict_answers_for_each_picture_and_goes_on_after_a_bad_one(run, monkeypatch, tmp_path):
    monkeypatch.undo()                                       # the shipped weights
    monkeypatch.setattr(sys, "argv", [])
    tile = torch.from_numpy(synthetic_tiles(4)[0][3])
    bad, good, drawn = (tmp_path / name for name in ("bad.png", "tile[1].png", "map.png"))
    Image.fromarray(tile.permute(1, 2, 0).numpy()).save(good)        # a name, though it looks like a pattern
    bad.touch()
    code, printed, complaints = run("predict", bad, good, "--name", "synthetic", "--map", drawn)
    assert code == 2 and printed.splitlines()[0] == f"{good}: {predict(tile, 'synthetic')}"
    assert printed.endswith("map.png\n") and Image.open(drawn).format == "PNG"
    assert len(complaints.splitlines()) == 1 and "bad.png cannot be read" in complaints


@pytest.mark.parametrize(("name", "int8"), [("eurosat", False), ("synthetic", True)])
def test_export_writes_a_file_that_answers_as_predict_does(run, monkeypatch, tmp_path, name, int8):
    """In about ten lines without PyTorch, with what the file itself says."""
    runtime = pytest.importorskip("onnxruntime")
    monkeypatch.undo()                                       # the shipped weights
    tiles, out = torch.from_numpy(synthetic_tiles(6)[0]), tmp_path / "weights" / "ü.onnx"
    code, printed, complaints = run("export", "--name", name, "--out", out, *["--int8"] * int8)
    assert code == 0 and printed == f"{out}: {0.8 if int8 else 2.5} MB\n" and complaints == ""
    assert [*out.parent.iterdir()] == [out]
    session = runtime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    known = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()
             if key != "onnx.infer"}
    assert tiles.shape[2:] == tuple(known["size"])
    images = ((tiles.numpy() / known["white"] - known["mean"]) / known["std"]).astype(np.float32)
    found = session.run(["probabilities"], {"images": images})[0]
    predictions = [predict(tile, name) for tile in tiles]
    assert known["classes"] == list(predictions[0].classes)
    wanted = np.stack([prediction.probabilities.numpy() for prediction in predictions])
    np.testing.assert_allclose(found, wanted, atol=0.05 if int8 else 1e-4)


def test_export_says_what_is_missing(run, monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setattr("vit_helpers.exporting.find_spec", lambda name: None)
    code, printed, complaints = run("export", "--name", "synthetic", "--out", tmp_path / "x.onnx")
    assert code == 2 and printed == "" and not [*tmp_path.iterdir()]
    assert complaints == "error: ONNX files need onnx and onnxscript; run: pip install onnx onnxscript\n"
