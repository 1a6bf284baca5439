"""Trained weights: what ships loads unchanged and does what its facts say; torchvision's and timm's fit."""

import json
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision

from vit_helpers import Tiles, VisionTransformer, __main__, evaluate, load_weights, normalize, pretrained
from vit_helpers.evaluation import Evaluation, familiarity, pooled_features
from vit_helpers.pretrained import from_torchvision, load_pretrained, pretrained_facts, stage_differences
from vit_helpers.synthetic import synthetic_tiles

STORED = json.loads(Path(__file__).with_name("shipped_logits.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", STORED)
def test_shipped_weights_give_the_logits_that_were_stored(name):
    found = load_pretrained(name)(normalize(torch.from_numpy(synthetic_tiles(10)[0]))[[0, 3, 8]])
    # Equal to the last bit on the machine where they were stored; another processor rounds differently.
    torch.testing.assert_close(found, torch.tensor(STORED[name]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", STORED)
def test_their_facts_are_complete_and_their_command_is_understood(monkeypatch, name):
    facts, asked = pretrained_facts(name), []
    assert facts["name"] == name and facts["model"] == load_pretrained(name).config
    assert facts["test_accuracy"] > (0.7 if name == "eurosat-plain" else 0.9)
    assert len(facts["history"]["loss"]) == facts["epochs"]
    monkeypatch.setattr(sys, "argv", facts["command"].split()[2:])
    monkeypatch.setattr(__main__, "train", asked.append)
    __main__.main()
    [args] = asked
    assert (args.source, args.name or args.source, args.out) == (facts["source"], name, "weights")
    assert (args.epochs, args.seed, args.recipe) == (facts["epochs"], facts["seed"], facts["recipe"]["name"])
    split = "60/20/20" if args.validation else "80/20"
    assert f"split {split} with seed {facts['split_seed']}" in facts["data"]
    if name != "eurosat-plain":                              # what predict needs to know
        assert 0.3 < facts["temperature"] < 1.5 and 0 < facts["usual_from"] < 1
        assert torch.tensor(facts["class_means"]).shape == (10, 128)


def test_auto_is_eurosat_and_in_a_short_run_synthetic_which_classifies_unseen_tiles(monkeypatch):
    facts, unseen = pretrained_facts(), Tiles(*synthetic_tiles(500, seed=1))
    assert facts["name"] == "synthetic"
    assert evaluate(load_pretrained(), unseen).accuracy == pytest.approx(facts["test_accuracy"], abs=0.05)
    monkeypatch.delenv("VIT_SMOKE")
    assert pretrained_facts()["name"] == "eurosat"


@pytest.mark.parametrize("name", ["eurosat", "eurosat-60-20-20"])
def test_accuracy_and_confidence_hold_on_the_real_test_tiles(eurosat, name):
    facts, model = pretrained_facts(name), load_pretrained(name)
    test = eurosat.split(seed=facts["split_seed"])[1]
    features = pooled_features(model, test)
    result = Evaluation(model.head(features).detach(), test.labels, test.classes)
    assert result.accuracy == pytest.approx(facts["test_accuracy"], abs=0.002)
    assert result.at_temperature(facts["temperature"]).calibration_error() < 0.02 < result.calibration_error()
    usual = familiarity(features, torch.tensor(facts["class_means"])) >= facts["usual_from"]
    assert 0.93 < usual.float().mean() < 0.97


def test_weights_that_are_saved_load_again_and_damaged_or_other_ones_do_not(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path)
    path, model = tmp_path / "mine.pt", VisionTransformer(
        16, 4, 4, 3, embed_dim=16, depth=1, mlp_dim=16, stem="conv", positions="sincos", pool="mean")
    pretrained.save_pretrained("mine", model, {"seed": 3}, tmp_path)
    facts, weights = pretrained_facts("mine"), load_pretrained("mine").state_dict()
    assert facts == {"name": "mine", "model": model.config, "seed": 3, "sha256": facts["sha256"]}
    torch.testing.assert_close(weights, model.state_dict(), atol=0, rtol=0)
    pretrained.save_pretrained("mine", model.set_img_size(32), {"temperature": np.float32(0.5)}, tmp_path)
    assert load_pretrained("mine").img_size == (32, 32) and pretrained_facts("mine")["temperature"] == 0.5
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="was damaged or replaced"):
        load_pretrained("mine")
    with pytest.raises(ValueError, match="is not a whole file of weights"):
        load_weights(model, path)


def torchvision_model(depth=2):
    return torchvision.models.VisionTransformer(64, 16, depth, 3, 48, 96, num_classes=7)


def timm_model():
    return timm.models.VisionTransformer(64, 16, 3, 7, embed_dim=48, depth=2, num_heads=3, mlp_ratio=2)


def pair_of(make):
    """A reference model with random weights everywhere, and ours with its weights."""
    torch.manual_seed(0)
    reference = make()
    for parameter in reference.parameters():
        if not parameter.any():                              # zeros would hide a wrong mapping
            torch.nn.init.normal_(parameter, std=0.02)
    weights = reference.state_dict()
    ours = VisionTransformer(64, 16, 3, 7, embed_dim=48, depth=2, num_heads=3, mlp_dim=96, dropout=0.0)
    ours.load_state_dict(from_torchvision(weights) if make is torchvision_model else weights, strict=True)
    return ours.eval(), reference.eval()


@pytest.mark.parametrize("make", [torchvision_model, timm_model])
def test_equal_to_torchvision_and_timm_stage_by_stage_and_in_all_gradients(make):
    (ours, reference), images = pair_of(make), torch.randn(2, 3, 64, 64)
    for gradients in (False, True):
        differences = stage_differences(ours, reference, images, gradients)
        assert len(differences) == 2 + 4 and max(differences.values()) <= 1e-5, differences
    assert not ours.blocks[0]._forward_hooks and not reference._forward_hooks
    for model in (ours, reference):
        torch.nn.functional.cross_entropy(model(images), torch.tensor([3, 0])).backward()
    theirs = {name: p.grad for name, p in reference.named_parameters()}
    theirs = from_torchvision(theirs) if make is torchvision_model else theirs
    torch.testing.assert_close({n: p.grad for n, p in ours.named_parameters()}, theirs, atol=1e-5, rtol=1e-3)


def test_a_stage_that_differs_is_named():
    (ours, reference), images = pair_of(torchvision_model), torch.randn(2, 3, 64, 64)
    ours.blocks[1].attn.qkv.weight.data += 0.1
    differences = stage_differences(ours, reference, images)
    assert list(differences) == ["patch embedding", "positions", "block 0", "block 1", "norm", "logits"]
    assert differences["block 0"] <= 1e-5 and differences["block 1"] > 1e-3
    assert stage_differences(reference, ours, images) == differences     # neither is the right one: no sign
    ours.blocks[0].norm1.eps = 1e-2                          # not a weight: no state dict would tell
    assert stage_differences(ours, reference, images)["block 0"] > 1e-5
    with pytest.raises(ValueError, match="stages of other numbers or shapes"):
        stage_differences(ours, torchvision_model(depth=4), images)


def test_names_that_have_no_place_are_listed():
    weights = torchvision.models.VisionTransformer(32, 16, 1, 2, 8, 8, representation_size=4).state_dict()
    with pytest.raises(ValueError, match=r"no place .*: heads.pre_logits.weight, heads.pre_logits.bias$"):
        from_torchvision(weights)
    with pytest.raises(ValueError, match="timm's names need no renaming"):
        from_torchvision(timm_model().state_dict())


def test_published_weights_give_the_same_logits_in_our_class_or_one_sentence(full, monkeypatch, capfd):
    _, reference = pair_of(torchvision_model)                # in the place of vit_b_16, which has 346 MB
    waits, images = [], torch.randn(2, 3, 64, 64)

    def get_model(name, weights, progress):
        waits.append(socket.getdefaulttimeout())
        print("Downloading to /home/of/somebody", file=sys.stderr)
        if len(waits) > 1:
            raise OSError("Name or service not known")
        return reference

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    model, names = pretrained.load_published()
    assert len(names) == 1000 and "military uniform" in names and not model.training
    torch.testing.assert_close(model(images), reference(images), atol=1e-5, rtol=1e-4)
    with pytest.raises(OSError, match=r"of vit_b_16 could not be downloaded .*Name or service not known"):
        pretrained.load_published()
    assert waits == [10, 10] and socket.getdefaulttimeout() is None and capfd.readouterr().err == ""
