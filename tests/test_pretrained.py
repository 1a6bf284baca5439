"""The shipped weights: they load without a network, their facts are complete, and they reach what the facts say."""

import shlex

import pytest
import torch

import vit_helpers.pretrained as module
from vit_helpers import Tiles, VisionTransformer, evaluate, load_pretrained, normalize, pretrained_facts
from vit_helpers.synthetic import synthetic_tiles

NAMES = pytest.mark.parametrize("name", ["eurosat", "eurosat-plain", "synthetic"])


@NAMES
def test_shipped_weights_load(name):
    model = load_pretrained(name)
    assert isinstance(model, VisionTransformer) and not model.training
    logits = model(normalize(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)))
    assert logits.shape == (2, 10) and logits.isfinite().all()
    assert all(p.isfinite().all() and p.abs().sum() > 0 for p in model.parameters())
    assert (module.WEIGHTS / f"{name}.pt").stat().st_size < 5_000_000    # the repository stays small


@NAMES
def test_their_facts_are_complete(name):
    facts = pretrained_facts(name)
    assert facts["name"] == name and facts["model"] == load_pretrained(name).config
    assert "80/20" in facts["data"] and f"seed {facts['split_seed']}" in facts["data"]
    assert facts["test_accuracy"] > (0.7 if facts["recipe"]["name"] == "plain" else 0.9)
    assert len(facts["history"]["loss"]) == facts["epochs"]
    curve = facts["history"]["test_accuracy"]                # empty where the test tiles were opened once, at the end
    assert not curve or curve[-1] == pytest.approx(facts["test_accuracy"], abs=1e-4)
    words = shlex.split(facts["command"])
    assert words[:4] == ["python", "-m", "vit_helpers", "train"]
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert options.get("--source", "eurosat") == facts["source"]
    assert options.get("--name", facts["source"]) == name
    assert int(options.get("--epochs", 5)) == facts["epochs"] and int(options.get("--seed", 0)) == facts["seed"]
    assert options.get("--recipe", "good") == facts["recipe"]["name"]
    assert "--out" not in options                            # the command makes them where they are shipped


def test_the_synthetic_weights_classify_tiles_they_have_never_seen():
    accuracy = evaluate(load_pretrained("synthetic"), Tiles(*synthetic_tiles(500, seed=1))).accuracy
    assert accuracy == pytest.approx(pretrained_facts("synthetic")["test_accuracy"], abs=0.05)


def test_the_eurosat_weights_reach_their_accuracy_on_the_real_test_tiles(eurosat):
    facts = pretrained_facts("eurosat")
    _, test = eurosat.split(seed=facts["split_seed"])
    assert len(test) == facts["test_tiles"]
    assert evaluate(load_pretrained("eurosat"), test).accuracy == pytest.approx(facts["test_accuracy"], abs=0.002)


def test_auto_goes_by_the_budget(monkeypatch):
    for budget, name in (("smoke", "synthetic"), ("lesson", "eurosat"), ("full", "eurosat")):
        monkeypatch.setenv("VIT_BUDGET", budget)
        assert pretrained_facts()["name"] == name


def test_an_unknown_name_is_refused_with_those_that_exist():
    for load in (load_pretrained, pretrained_facts):
        with pytest.raises(ValueError, match="named 'imagenet'; choose 'eurosat' or 'eurosat-plain' or 'synthetic'"):
            load("imagenet")


def test_weights_that_are_saved_load_again(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "WEIGHTS", tmp_path)
    torch.manual_seed(0)
    model = VisionTransformer(img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, mlp_dim=16, pool="mean").eval()
    torch.nn.init.normal_(model.head.weight)
    module.save_pretrained("mine", model, {"seed": 3}, tmp_path)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(load_pretrained("mine")(images), model(images))
    assert pretrained_facts("mine") == {"name": "mine", "model": model.config, "seed": 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.json", "mine.pt"]
    module.save_pretrained("mine", VisionTransformer(depth=1), {}, tmp_path)         # weights and facts that do not match
    torch.save(model.state_dict(), tmp_path / "mine.pt")
    with pytest.raises(ValueError, match="belong to another model"):
        load_pretrained("mine")
