"""The shipped weights: they load without a network, their facts are complete, and they reach what the facts say."""

import hashlib
import shlex
import time
import urllib.error

import pytest
import timm
import torch
import torchvision

import vit_helpers.pretrained as module
import vit_helpers.runtime as runtime
from vit_helpers import (
    Tiles,
    VisionTransformer,
    evaluate,
    from_torchvision,
    load_pretrained,
    load_published,
    load_weights,
    normalize,
    pretrained_facts,
    stage_differences,
)
from vit_helpers.evaluation import familiarity, pooled_features
from vit_helpers.synthetic import synthetic_tiles

NAMES = pytest.mark.parametrize("name", ["eurosat", "eurosat-60-20-20", "eurosat-plain", "synthetic", "synthetic-60-20-20"])
CHECKED = pytest.mark.parametrize("name", ["eurosat", "eurosat-60-20-20", "synthetic", "synthetic-60-20-20"])


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
    split = "60/20/20" if "--validation" in facts["command"] else "80/20"
    assert f"split {split} with seed {facts['split_seed']}" in facts["data"]
    assert facts["test_accuracy"] > (0.7 if facts["recipe"]["name"] == "plain" else 0.9)
    assert len(facts["history"]["loss"]) == facts["epochs"]
    curve = facts["history"]["test_accuracy"]                # empty where the test tiles were opened once, at the end
    assert not curve or curve[-1] == pytest.approx(facts["test_accuracy"], abs=1e-4)
    words = [word for word in shlex.split(facts["command"]) if word != "--validation"]       # the only one without a value
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


@CHECKED
def test_what_predict_needs_to_know_is_there(name):
    facts = pretrained_facts(name)
    assert 0.3 < facts["temperature"] < 1.5 and 0 < facts["usual_from"] < 1
    assert torch.tensor(facts["class_means"]).shape == (10, 128)


@pytest.mark.parametrize("name", ["eurosat", "eurosat-60-20-20"])
def test_confidence_holds_on_the_real_test_tiles(eurosat, name):
    facts = pretrained_facts(name)
    _, test = eurosat.split(seed=facts["split_seed"])
    model = load_pretrained(name)
    result = evaluate(model, test)
    assert result.at_temperature(facts["temperature"]).calibration_error() < 0.02 < result.calibration_error()
    means = torch.tensor(facts["class_means"])
    usual = (familiarity(pooled_features(model, test), means) >= facts["usual_from"]).float().mean().item()
    assert usual == pytest.approx(0.95, abs=0.02)


def test_auto_goes_by_the_budget(monkeypatch):
    for budget, name in (("smoke", "synthetic"), ("lesson", "eurosat"), ("full", "eurosat")):
        monkeypatch.setenv("VIT_BUDGET", budget)
        assert pretrained_facts()["name"] == name


def test_an_unknown_name_is_refused_with_those_that_exist():
    for load in (load_pretrained, pretrained_facts):
        with pytest.raises(ValueError, match="named 'imagenet'; choose 'eurosat' or 'eurosat-60-20-20' or 'eurosat-plain' or "):
            load("imagenet")


def test_weights_that_are_saved_load_again(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "WEIGHTS", tmp_path)
    torch.manual_seed(0)
    model = VisionTransformer(img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, mlp_dim=16, pool="mean").eval()
    torch.nn.init.normal_(model.head.weight)
    module.save_pretrained("mine", model, {"seed": 3}, tmp_path)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(load_pretrained("mine")(images), model(images))
    assert pretrained_facts("mine") == {"name": "mine", "model": model.config, "seed": 3, "sha256": hashlib.sha256(
        (tmp_path / "mine.pt").read_bytes()).hexdigest()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.json", "mine.pt"]
    module.save_pretrained("mine", VisionTransformer(depth=1), {}, tmp_path)         # weights and facts that do not match
    torch.save(model.state_dict(), tmp_path / "mine.pt")
    with pytest.raises(ValueError, match="it was damaged or replaced"):
        load_pretrained("mine")


SIZES = [dict(img_size=64, patch_size=16, embed_dim=48, depth=2, num_heads=3, mlp_dim=96),
         dict(img_size=64, patch_size=8, embed_dim=128, depth=4, num_heads=4, mlp_dim=256),
         dict(img_size=224, patch_size=16, embed_dim=192, depth=12, num_heads=3, mlp_dim=768),
         dict(img_size=224, patch_size=32, embed_dim=768, depth=3, num_heads=12, mlp_dim=3072)]


def torchvision_model(sizes):
    names = {"img_size": "image_size", "embed_dim": "hidden_dim", "depth": "num_layers"}
    return torchvision.models.VisionTransformer(num_classes=7, **{names.get(k, k): v for k, v in sizes.items()})


def timm_model(sizes):
    sizes = dict(sizes)
    return timm.models.VisionTransformer(num_classes=7, mlp_ratio=sizes.pop("mlp_dim") / sizes["embed_dim"], **sizes)


def pair_of(make, sizes):
    """A reference model with random weights everywhere, and ours with its weights."""
    torch.manual_seed(0)
    reference = make(sizes)
    for parameter in reference.parameters():
        if not parameter.any():                              # zeros would hide a wrong mapping
            torch.nn.init.normal_(parameter, std=0.02)
    weights = reference.state_dict()
    ours = VisionTransformer(num_classes=7, dropout=0.0, **sizes)
    ours.load_state_dict(from_torchvision(weights) if make is torchvision_model else weights, strict=True)
    return ours, reference


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"{sizes['img_size']}px-{sizes['embed_dim']}x{sizes['depth']}")
@pytest.mark.parametrize("make", [torchvision_model, timm_model])
@pytest.mark.parametrize("gradients", [False, True], ids=["values", "gradients"])
def test_equal_to_torchvision_and_timm_stage_by_stage(make, sizes, gradients):
    ours, reference = pair_of(make, sizes)
    images = torch.randn(2, 3, sizes["img_size"], sizes["img_size"])
    differences = stage_differences(ours, reference, images, gradients)
    blocks = [f"block {i}" for i in range(sizes["depth"])]
    assert list(differences) == ["patch embedding", "positions", *blocks, "norm", "logits"]
    assert max(differences.values()) <= 1e-5, differences
    assert not ours.blocks[0]._forward_hooks and not reference._forward_hooks


@pytest.mark.parametrize("make", [torchvision_model, timm_model])
def test_the_gradients_of_all_weights_are_equal_too(make):
    ours, reference = pair_of(make, SIZES[0])
    images = torch.randn(4, 3, 64, 64)
    for model in (ours, reference):
        torch.nn.functional.cross_entropy(model.eval()(images), torch.tensor([0, 1, 2, 3])).backward()
    theirs = {name: p.grad for name, p in reference.named_parameters()}
    theirs = from_torchvision(theirs) if make is torchvision_model else theirs
    assert theirs.keys() == dict(ours.named_parameters()).keys()
    assert all(torch.allclose(p.grad, theirs[name], atol=1e-5) for name, p in ours.named_parameters())


def test_a_stage_that_differs_is_named():
    ours, reference = pair_of(torchvision_model, SIZES[0])
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours.blocks[1].attn.qkv.weight += 0.1
    differences = stage_differences(ours, reference, images)
    assert max(differences[name] for name in ("patch embedding", "positions", "block 0")) <= 1e-5
    assert differences["block 1"] > 1e-3
    assert stage_differences(reference, ours, images) == differences         # neither is the right one: no sign
    ours.blocks[0].norm1.eps = 1e-2                          # not a weight: no state dict would tell
    assert stage_differences(ours, reference, images)["block 0"] > 1e-5
    with pytest.raises(ValueError, match="the models have 2 and 4 blocks"):
        stage_differences(ours, torchvision_model({**SIZES[0], "depth": 4}), images)
    with pytest.raises(ValueError, match=r"stage 'patch embedding' is \(2, 16, 48\) in one model and \(2, 16, 96\)"):
        stage_differences(ours, torchvision_model({**SIZES[0], "embed_dim": 96}), images)
    with pytest.raises(TypeError, match="Linear is no VisionTransformer"):
        stage_differences(ours, torch.nn.Linear(2, 2), images)


def test_positions_of_loaded_weights_are_stretched_to_other_sizes():
    ours, _ = pair_of(torchvision_model, SIZES[1])
    assert ours.set_img_size(96)(torch.randn(1, 3, 96, 96)).shape == (1, 7)


def test_names_that_have_no_place_are_listed():
    weights = torchvision.models.VisionTransformer(32, 16, 1, 2, 8, 8, representation_size=4).state_dict()
    with pytest.raises(ValueError, match=r"no place .*: heads.pre_logits.weight, heads.pre_logits.bias$"):
        from_torchvision(weights)
    with pytest.raises(ValueError, match="timm's names need no renaming"):
        from_torchvision(timm_model(SIZES[0]).state_dict())


def tiny(**options):
    return VisionTransformer(**{**dict(img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, mlp_dim=16), **options})


def test_weights_that_do_not_fit_are_named_and_nothing_is_half_loaded(tmp_path):
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrong = tiny(num_classes=3, img_size=32).state_dict()
    wrong["extra.weight"] = wrong.pop("norm.bias")
    with pytest.raises(ValueError) as problem:
        load_weights(model, wrong)
    for words in ("the state dict belong to another model", "norm.bias is missing", "extra.weight is not part of the model",
                  "head.weight is (3, 16), the model needs (10, 16)", "pos_embed is (1, 65, 16), the model needs (1, 17, 16)",
                  "They would fit VisionTransformer(patch_size=4, in_channels=3, num_classes=3, embed_dim=16, depth=1, "
                  "mlp_dim=16, pool='cls'), with an img_size that has 64 patches"):
        assert words in str(problem.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match=r"under other names: pass from_torchvision\(weights\)"):
        load_weights(model, torchvision_model(SIZES[0]).state_dict())
    torch.save(tiny(depth=2).state_dict(), tmp_path / "deep.pt")
    with pytest.raises(ValueError, match=r"deep.pt belong to another model: blocks.1.attn.proj.bias is not part.*depth=2"):
        load_weights(model, tmp_path / "deep.pt")
    torch.save(before, tmp_path / "good.pt")
    with torch.no_grad():
        model.head.bias += 1
    assert load_weights(model, str(tmp_path / "good.pt")) is model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Harmful:
    """When it is unpickled with its code, `witness` appears. In the test's own folder: a leftover would fail later runs."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (open, (str(self.witness), "w"))


@pytest.mark.parametrize("content", ["module", "harmful", "checkpoint", "list", "empty dict", "text", "nothing", "cut"])
def test_a_file_that_is_no_plain_state_dict_is_refused(tmp_path, content):
    model, path, witness = tiny(), tmp_path / "weights.pt", tmp_path / "was-here"
    things = {"module": model, "harmful": Harmful(witness), "checkpoint": {"model": model.state_dict(), "epoch": 3},
              "list": [1, 2], "empty dict": {}}
    if content in things:
        torch.save(things[content], path)
    else:
        torch.save(model.state_dict(), path)
        path.write_bytes({"text": b"hello", "nothing": b"", "cut": path.read_bytes()[:5000]}[content])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"weights.pt is not a plain state dict .*torch.save\(model.state_dict\(\), path\)"):
        load_weights(model, path)
    assert not witness.exists()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_weights(tiny(), tmp_path / "nowhere.pt")


@pytest.fixture
def tiny_published(monkeypatch, tmp_path):
    """torchvision's vit_b_16 made small, so that `load_published` can be tested without 346 MB."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    sizes = {"image_size": 32, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    torch.manual_seed(0)
    reference = torchvision.models.VisionTransformer(**sizes)
    torch.nn.init.normal_(reference.heads.head.weight)
    monkeypatch.setattr(torchvision.models, "get_model",
                        lambda name, weights, image_size: torchvision.models.VisionTransformer(**{**sizes, "image_size": 32}))
    return reference.eval()


def test_published_weights_give_the_same_logits_in_our_class(monkeypatch, tiny_published):
    kind = torchvision.models.ViT_B_16_Weights
    monkeypatch.setattr(kind, "get_state_dict", lambda self, **options: tiny_published.state_dict())
    model, names = load_published()
    images = torch.randn(2, 3, 32, 32)
    assert len(names) == 1000 and "military uniform" in names and not model.training
    assert torch.allclose(model(images), tiny_published(images), atol=1e-5)


def test_published_weights_without_a_network_are_an_error_in_a_sentence(monkeypatch, tiny_published):
    def fail(self, **options):
        raise urllib.error.URLError("Name or service not known")

    kind = torchvision.models.ViT_B_16_Weights
    monkeypatch.setattr(kind, "get_state_dict", fail)
    with pytest.raises(OSError, match=r"weights of vit_b_16 could not be downloaded .*Name or service not known.*; try again"):
        load_published()
    monkeypatch.setattr(runtime, "PATIENCE", 0.3)
    monkeypatch.setattr(kind, "get_state_dict", lambda self, **options: time.sleep(5))
    started = time.monotonic()
    with pytest.raises(OSError, match=r"the network did not answer for 0\.3 seconds"):
        load_published()
    assert time.monotonic() - started < 3


def test_a_name_that_torchvision_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(ValueError, match="no ViT named 'vit_tiny'; choose 'vit_b_16', 'vit_b_32', 'vit_h_14', 'vit_l_16'"):
        load_published("vit_tiny")
