"""The benchmark compares like with like: equal models, equal images, each process its own memory. No timing is judged."""

import json
import math
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import throughput
import torch
from torch import nn

from vit_helpers import GOOD, VisionTransformer, eurosat, has_fast_bf16

SMALL = dict(img_size=16, patch_size=8, num_classes=10, embed_dim=32, depth=2, num_heads=2, mlp_dim=48)
TORCHVISION_TO_OURS = (("class_token", "cls_token"), ("conv_proj", "patch_embed.proj"), ("heads.head", "head"),
                       ("encoder.pos_embedding", "pos_embed"), (r"encoder\.layers\.encoder_layer_", "blocks."),
                       (r"encoder\.ln\.", "norm."), ("ln_", "norm"), ("self_attention.in_proj_", "attn.qkv."),
                       ("self_attention.out_proj", "attn.proj"), (r"mlp\.0", "mlp.fc1"), (r"mlp\.3", "mlp.fc2"))


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.delenv("EUROSAT_ROOT", raising=False)


def numbers(rows):
    """All numbers of the rows but the parameters' difference, which is text."""
    return [value for row in rows for value in row.values() if isinstance(value, (int, float))]


def all_finite_and_positive(rows):
    return len(rows) > 0 and all(math.isfinite(value) and value > 0 for value in numbers(rows))


# Peers

@pytest.mark.parametrize("geometry", [SMALL, throughput.GEOMETRY], ids=["small", "as measured"])
def test_the_models_have_equal_sizes_up_to_the_named_difference(geometry):
    models = throughput.contestants(geometry)
    sizes = {name: throughput.parameters(model) for name, (model, _) in models.items()}
    assert list(sizes) == ["ours", "timm", "torchvision", "vit-pytorch"]
    assert sizes["timm"] == sizes["torchvision"] == sizes["ours"]
    assert sizes["vit-pytorch"] == sizes["ours"] + throughput.named_difference(geometry)
    images = torch.randn(2, 3, geometry["img_size"], geometry["img_size"])
    for name, (model, difference) in models.items():
        assert model(images).shape == (2, 10), name
        assert bool(difference) == (sizes[name] != sizes["ours"])
        assert all(m.approximate == "none" for m in model.modules() if isinstance(m, nn.GELU)), name
        nn.init.normal_(list(model.parameters())[-2])        # a head of zeros would hide a dropout
        assert torch.equal(model.train()(images), model(images)), name


@pytest.mark.parametrize("peer", ["timm", "torchvision"])
def test_with_the_peers_weights_ours_gives_the_same_logits(peer):
    models = throughput.contestants(SMALL)
    # In float64, where another GELU or epsilon shows, however small.
    ours, theirs = (models[name][0].double().eval() for name in ("ours", peer))
    for parameter in theirs.parameters():                    # zeros would hide a lost bias or head
        nn.init.normal_(parameter, std=0.2)
    weights = theirs.state_dict()
    if peer == "torchvision":
        for pattern, name in TORCHVISION_TO_OURS:
            weights = {re.sub(pattern, name, key): value for key, value in weights.items()}
    ours.load_state_dict(weights, strict=True)
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-10, rtol=1e-10)
    assert ours(images).std() > 0.01


def test_a_training_step_changes_every_parameter_and_leaves_no_gradient():
    for name, (model, _) in throughput.contestants(SMALL).items():
        before = {key: value.clone() for key, value in model.state_dict().items()}
        nn.init.normal_(list(model.parameters())[-2])        # a head of zeros sends no gradient down
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        throughput.training_step(model, torch.randn(4, 3, 16, 16), torch.arange(4), [optimizer], bf16=False)()
        moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
        assert moved == before.keys(), name
        assert all(p.grad is None for p in model.parameters()), name


def test_in_each_round_everyone_goes_once():
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = throughput.in_turn(steps, rounds=4, device=torch.device("cpu"), warmup=2)
    rounds = [calls[i:i + 3] for i in range(0, len(calls), 3)]
    assert len(rounds) == 6 and all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1, "always in the same order"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 4, "b": 4, "c": 4}


def test_the_ratio_compares_within_rounds():
    assert throughput.speedup([1, 10, 2], [2, 20, 4]) == 2   # a round ten times slower for both changes nothing


def test_peers_give_finite_positive_rows(capsys):
    rows = throughput.peers(rounds=1, batch_size=2, geometry=SMALL)
    assert all_finite_and_positive(rows)
    assert len(rows) == 4 * 2 * (2 if has_fast_bf16("cpu") else 1)
    assert all(row["ours_is_faster_by"] == 1 for row in rows if row["model"] == "ours")
    throughput.print_table(rows)
    printed = capsys.readouterr().out
    assert printed.count(f"{throughput.named_difference(SMALL):+}: norms") == len(rows) // 4


# Pipeline

@pytest.fixture(params=["written", "archive"])
def place(request, tmp_path, monkeypatch):
    """Where `prepared` finds 40 tiles: None, so that it writes them itself, or a folder with a small EuroSAT.zip."""
    if request.param == "written":
        return None
    counts = throughput.write_synthetic(tmp_path, 40)
    monkeypatch.setattr(eurosat, "COUNTS", counts)
    monkeypatch.setattr(eurosat, "SHAPE", (40, 3, 64, 64))
    with zipfile.ZipFile(tmp_path / "EuroSAT.zip", "w") as archive:
        for path in tmp_path.glob("2750/*/*.jpg"):
            archive.write(path, path.relative_to(tmp_path))
            path.unlink()
    for folder in sorted(tmp_path.glob("2750/*")):
        folder.rmdir()
    (tmp_path / "2750").rmdir()
    return tmp_path


def test_all_ways_feed_the_same_images_normalized_alike(place):
    with throughput.prepared(40, place) as (folder, tiles, seconds):
        assert len(tiles) == 40 and seconds > 0
        ways = throughput.feeds(folder, tiles, 30, 8, torch.device("cpu"))
        epochs = {name: list(feed()) for name, feed in ways.items()}
    found = {}
    for name, epoch in epochs.items():
        images, labels = (torch.cat(parts) for parts in zip(*epoch, strict=True))
        assert [len(part) for _, part in epoch] == [8, 8, 8, 6], name
        assert images.shape == (30, 3, 64, 64) and images.dtype == torch.float32, name
        assert -1 <= images.min() < -0.5 and 0.5 < images.max() <= 1, name
        # A flipped image keeps its mean color, so each image can be found again in another order.
        found[name] = sorted(torch.cat([labels[:, None], images.mean((2, 3))], dim=1).tolist())
    assert len(found) == 3
    for name, facts in found.items():
        np.testing.assert_allclose(facts, found["ours"], atol=1e-5, err_msg=name)


def test_pipeline_gives_finite_positive_rows():
    result = throughput.pipeline(limit=20, rounds=1, batch_size=8)
    assert "synthetic" in result["files"] and (result["decoded_tiles"], len(result["rows"])) == (20, 3)
    assert all_finite_and_positive([*result["rows"], {"seconds": result["decoding_seconds"]}])
    assert {row["images"] for row in result["rows"]} == {20}


# Growth

def test_one_factor_moves_at_a_time_and_the_base_is_in_all():
    base = {**VisionTransformer(**GOOD.model).config, "batch": 64}
    moves = {"patch size": {"patch_size"}, "image size": {"img_size"}, "width": {"embed_dim", "mlp_dim"}, "depth": {"depth"},
             "batch": {"batch"}}
    for what, values in throughput.FACTORS.items():
        changes = []
        for value in values:
            arguments = throughput.changed(what, value, 64)
            config = {**VisionTransformer(**GOOD.model, **arguments["model"]).config, "batch": arguments["batch_size"]}
            changes.append({name for name in base if config[name] != base[name]})
        assert changes.count(set()) == 1, f"the base is not among the values of {what}"
        assert all(change in (set(), moves[what]) for change in changes), what
    assert base.items() >= throughput.GEOMETRY.items()


def test_each_row_of_growth_has_the_memory_of_its_own_process():
    ballast = np.ones(50_000_000)                            # 400 MB that a child must not take for its own
    rows = throughput.growth({"batch": (8, 64)}, rounds=1)
    assert ballast[-1] == 1 and all_finite_and_positive(rows)
    assert [(row["what"], row["value"], row["tokens"]) for row in rows] == [("batch", 8, 64), ("batch", 64, 64)]
    small, large = (row["peak_memory_mb"] for row in rows)
    assert 2 * small < large < 400


def test_the_last_row_of_data_is_predicted_from_the_one_before():
    rows = throughput.data_growth((20, 40), batch_size=10, predicted=120)
    assert all_finite_and_positive(rows) and [row["value"] for row in rows] == [20, 40, 120]
    _, measured, predicted = rows
    assert predicted["seconds_per_epoch"] == pytest.approx(3 * measured["seconds_per_epoch"])
    assert (measured["how"], predicted["how"]) == ("measured", "predicted from 40")


def test_the_command_prints_tables_and_writes_json(tmp_path):
    words = ["--rounds=1", "--batch-size=2", "--limit=10", "--epochs=1", "--tiles=20", "--device=cpu", "--factors", "--out"]
    out = tmp_path / "new" / "numbers.json"
    done = subprocess.run([sys.executable, throughput.__file__, *words, str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text(encoding="utf-8"))
    assert list(results) == ["peers", "pipeline", "growth"]
    peers, pipeline, growth = (section["result"] for section in results.values())
    rows = peers + pipeline["rows"] + growth["data"]
    assert all_finite_and_positive(rows)
    assert done.stdout.count(f"torch: {torch.__version__}") == 3         # the machine, at the top of each section
    assert "vit-pytorch" in done.stdout and "JPEG files, 2 workers" in done.stdout and "predicted from 20" in done.stdout
