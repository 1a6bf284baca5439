"""Training: it learns, it stops and goes on without losing anything, and it says what is wrong."""

import copy
import dataclasses
import itertools
import math
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

import vit_helpers.training as module
from vit_helpers import GOOD, PLAIN, Recipe, Tiles, VisionTransformer, batches, evaluate, fit, recipes

pytestmark = pytest.mark.usefixtures("full")
CTRL_C = Mock(side_effect=KeyboardInterrupt)
RECIPES = pytest.mark.parametrize("recipe", [PLAIN, GOOD], ids=["plain", "good"])


def small_model(recipe=PLAIN, seed=0, **changes):
    torch.manual_seed(seed)
    sizes = dict(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, mlp_dim=24)
    return VisionTransformer(**{**recipe.model, **sizes, "dropout": 0.2, **changes})


def assert_same(model, other):
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


def without_time(history):
    return {name: value for name, value in vars(history).items() if name != "seconds"}


@pytest.fixture(scope="module")
def tiles():
    """200 tiles of 8x8 noise whose brightness is their class: (160 for training, 40 for testing)."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 10
    images = labels[:, None, None, None] * 22 + torch.randint(0, 30, (200, 3, 8, 8), generator=random)
    return Tiles(images.to(torch.uint8), labels).split()


def at_step(model, number, do):
    """In step `number` of its training, from 1, the model gives what `do` makes of its logits."""
    passes = []

    def hook(model, inputs, logits):
        passes.append(model.training)
        return do(logits) if model.training and sum(passes) == number else logits

    model.register_forward_hook(hook)
    return model


class WhiteShare(nn.Linear):
    """Says of black and white images (classes 0 and 1) exactly how large a share of them is white."""

    def forward(self, images):
        share = (images.mean(dim=(1, 2, 3)) + 1).div(2).clamp(1e-6, 1 - 1e-6)
        self.shares = [*getattr(self, "shares", ()), share[0].item()]
        return torch.stack([1 - share, share], dim=1).log() + 0 * self.weight.sum()


def black_and_white(n):
    labels = torch.arange(n) % 2
    images = (labels * 255)[:, None, None, None].expand(-1, 3, 16, 16).to(torch.uint8)
    return Tiles(images, labels, ("black", "white"))


@RECIPES
def test_one_batch_is_overfitted(recipe):
    images = torch.randint(0, 256, (20, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    noise = Tiles(images.to(torch.uint8), torch.arange(20) % 10)
    # All patches: the pixels are noise, so only all of them tell one image from another.
    changes = {"augment": False, "label_smoothing": 0.0, "learning_rate": 5e-3, "keep_tokens": 1.0}
    model = small_model(recipe, dropout=0.0, embed_dim=32)
    history = fit(model, noise, epochs=100, recipe=dataclasses.replace(recipe, **changes))
    assert history.loss[0] == pytest.approx(math.log(10), abs=1e-3)      # the head starts at zero
    assert evaluate(model, noise).accuracy == 1 and history.loss[-1] < 0.1


def test_the_training_accuracy_is_over_tiles_not_over_whole_batches():
    history = fit(WhiteShare(1, 1), black_and_white(13), epochs=1.5, recipe=Recipe(batch_size=8))
    assert history.train_accuracy == [1.0, 1.0]


def test_parts_are_trained_and_tested_without_gathering_their_images():
    parts = black_and_white(40).split(0.5)
    fit(WhiteShare(1, 1), *parts, epochs=1, recipe=Recipe(batch_size=8))
    assert all("images" not in vars(part) for part in parts)     # a folder larger than memory would not fit


@RECIPES
def test_the_same_seed_gives_the_same_numbers_and_leaves_the_global_ones_alone(tiles, recipe):
    runs = []
    for seed in (0, 0, 1):
        model = small_model(recipe).train(len(runs) > 0)     # neither the mode in which the model comes
        torch.manual_seed(len(runs))                         # nor the global random state has a say
        before = torch.get_rng_state()
        runs.append([without_time(fit(model, *tiles, epochs=2, recipe=recipe, seed=seed)), model])
        assert torch.equal(torch.get_rng_state(), before)
    assert runs[0][0] == runs[1][0] != runs[2][0]
    assert_same(runs[0][1], runs[1][1])


def test_learn_equals_fit(tiles):
    """Lesson 08 holds `fit` against the five lines of a loop by hand."""
    (one, other), feed = [small_model().eval() for _ in range(2)], []      # in whatever mode it comes
    before = torch.get_rng_state()

    def loss_of(model, generator):
        epochs = (batches(tiles[0], shuffle=True, generator=generator) for _ in range(2))
        feed.append(feed[0] if feed else itertools.chain.from_iterable(epochs))
        images, labels = next(feed[0])
        return nn.functional.cross_entropy(model(images), labels)

    wanted = fit(other, tiles[0], epochs=2, recipe=PLAIN, seed=3).step_loss
    assert module.learn(one, loss_of, steps=6, recipe=PLAIN, seed=3) == pytest.approx(wanted)
    torch.testing.assert_close(one.state_dict(), other.state_dict())
    assert torch.equal(before, torch.get_rng_state())


def test_bf16_is_used_only_where_it_is_fast(tiles, monkeypatch):
    results = {}
    for fast, wanted in ((True, True), (False, True), (False, False)):
        kinds, model, recipe = set(), small_model(), Recipe(bf16=wanted)
        model.blocks[0].attn.qkv.register_forward_hook(lambda layer, x, y, kinds=kinds: kinds.add(y.dtype))
        monkeypatch.setattr(module, "has_fast_bf16", lambda device, fast=fast: fast)
        results[fast, wanted] = fit(model, tiles[0], epochs=1, recipe=recipe).step_loss
        module.learn(model, lambda model, _: model(torch.ones(1, 3, 8, 8)).sum(), steps=1, recipe=recipe)
        assert kinds == {torch.bfloat16 if fast else torch.float32}
    assert results[True, True] != results[False, True] == results[False, False]
    assert results[True, True] == pytest.approx(results[False, False], abs=0.05)


def test_few_tokens_first_and_all_of_them_at_the_end(tiles):
    model, seen = small_model(GOOD), []
    model.blocks[0].register_forward_hook(lambda block, x, y: seen.append(y.shape[1]))
    recipe = dataclasses.replace(GOOD, keep_tokens=0.5, keep_until=0.6, batch_size=40)
    fit(model, tiles[0], epochs=5, recipe=recipe)            # 4 steps an epoch, 4 patches an image
    assert seen == [2] * 12 + [4] * 8


@pytest.mark.parametrize(("epochs", "steps"), [(2, [10, 10]), (0.5, [5]), (1.3, [10, 3]), (0.001, [1])])
def test_history_has_an_entry_for_each_epoch_even_a_fraction_of_one(tiles, tmp_path, epochs, steps):
    recipe = dataclasses.replace(GOOD, batch_size=16)        # 160 tiles are ten steps
    model, settings = small_model(recipe), dict(epochs=epochs, recipe=recipe, checkpoint=tmp_path / "run.pt")
    history = fit(model, *tiles, **settings)
    parts = torch.tensor(history.step_loss).split(steps)
    assert history.loss == pytest.approx([part.mean().item() for part in parts])
    assert len(history.test_accuracy) == len(history.seconds) == len(steps) and not history.interrupted
    assert history.test_accuracy[-1] == evaluate(model, tiles[1]).accuracy
    assert len(str(history).splitlines()) == 1 + len(steps)
    again = fit(small_model(recipe), *tiles, **settings, resume=True)        # nothing is left to do
    assert without_time(again) == without_time(history)


def test_cutmix_mixes_targets_in_the_proportion_of_the_images():
    """A model that says that proportion has the least loss that there is, its entropy."""
    model = WhiteShare(1, 1)
    losses = fit(model, black_and_white(2), epochs=20, recipe=Recipe(cutmix=1.0)).step_loss
    entropy = [-s * math.log(s) - (1 - s) * math.log(1 - s) for s in model.shares]
    assert losses == pytest.approx(entropy, abs=1e-4)
    assert min(losses[:9]) > 0.01 > max(losses[18:])         # the last tenth is without


def test_label_smoothing_and_augmentation_reach_the_training(tiles):
    plain, turned, smoothed = (fit(small_model(), tiles[0], epochs=2, recipe=recipe).step_loss
                               for recipe in (PLAIN, Recipe(augment=True), Recipe(label_smoothing=0.1)))
    assert turned != plain
    assert smoothed[0] == pytest.approx(plain[0]) and smoothed != plain  # the same of a uniform guess


@RECIPES
def test_a_resumed_run_ends_with_the_same_numbers(tiles, recipe, tmp_path):
    whole, settings = small_model(recipe), dict(epochs=3, recipe=recipe, seed=4)
    history = fit(whole, *tiles, **settings)
    settings["checkpoint"] = tmp_path / "run.pt"
    first = fit(at_step(small_model(recipe), 5, CTRL_C), *tiles, **settings)
    assert first.interrupted and len(first) == 1             # three steps make an epoch
    for seed in (98, 99):                # other first weights: all is in the file; then nothing is left to do
        resumed = small_model(recipe, seed)
        second = fit(resumed, *tiles, **settings, resume=True)
        assert without_time(second) == without_time(history)
        assert_same(resumed, whole)
    assert list(tmp_path.iterdir()) == [tmp_path / "run.pt"]
    assert len(fit(small_model(), tiles[0], epochs=1, checkpoint=tmp_path / "run.pt", recipe=PLAIN)) == 1


def test_a_checkpoint_of_a_run_with_other_settings_is_refused_and_changes_nothing(tiles, tmp_path):
    path, settings = tmp_path / "run.pt", {"epochs": 1, "recipe": PLAIN}
    fit(small_model(), tiles[0], checkpoint=path, **settings)
    model, content = small_model(seed=1), path.read_bytes()
    other = {"epochs": {"epochs": 2}, "seed": {"seed": 1}, "optimizer": {"recipe": GOOD}, "checksum": {}}
    for name, changes in other.items():
        some = Tiles(255 - tiles[0].images, tiles[0].labels) if name == "checksum" else tiles[0]
        with pytest.raises(ValueError, match=f"belongs to a run with other settings: .*'{name}"):
            fit(model, some, checkpoint=path, resume=True, **{**settings, **changes})
    assert_same(model, small_model(seed=1))
    assert path.read_bytes() == content


def test_numbers_of_numpy_in_a_recipe_leave_a_checkpoint_that_can_be_read(tiles, tmp_path):
    how = {"epochs": np.float64(1), "recipe": dataclasses.replace(PLAIN, learning_rate=np.float64(1e-3))}
    fit(small_model(), tiles[0], checkpoint=tmp_path / "run.pt", **how)
    assert len(fit(small_model(), tiles[0], checkpoint=tmp_path / "run.pt", resume=True, **how)) == 1


def test_what_is_frozen_keeps_the_averages_of_its_batch_norms(tiles):
    model = small_model(stem="conv").requires_grad_(False)
    model.head.requires_grad_(True)
    before = copy.deepcopy(model.patch_embed)
    fit(model, tiles[0], epochs=1, recipe=PLAIN)
    assert_same(model.patch_embed, before)


@pytest.mark.parametrize("moment", ["evaluation.batches", "training.save_checkpoint"])
def test_after_ctrl_c_model_and_history_are_usable(tiles, monkeypatch, capsys, moment):
    model, finished = small_model(), int(moment == "training.save_checkpoint")
    with monkeypatch.context() as ctrl_c:
        ctrl_c.setattr(f"vit_helpers.{moment}", CTRL_C)
        history = fit(model, *tiles, epochs=3, recipe=PLAIN, checkpoint="never.pt")
    assert history.interrupted and len(history) == len(history.test_accuracy) == finished
    assert len(history.step_loss) == 3 * finished and len(str(history).splitlines()) == 1 + finished
    assert f"interrupted after {finished} of 3 epochs" in capsys.readouterr().out
    assert all(layer.training for layer in model.modules())
    assert evaluate(model, tiles[1]).logits.isfinite().all()


@pytest.mark.parametrize(("step", "do", "message"), [
    (5, lambda logits: logits * math.nan, r"loss is not finite .*a tenth of the learning rate"),
    # The slope of the square root at 0 is not finite.
    (6, lambda logits: logits + (0 * logits).sqrt(), r"last step made weights that are not finite")])
def test_a_number_that_is_not_finite_gives_back_the_last_good_epoch(tiles, step, do, message):
    good, model = small_model(), at_step(small_model(), step, do)
    wanted = fit(good, *tiles, epochs=1, recipe=PLAIN)       # three steps make an epoch
    with pytest.raises(FloatingPointError, match=message) as error:
        fit(model, *tiles, epochs=2, recipe=PLAIN)
    assert_same(model, good)
    assert without_time(error.value.history) == without_time(wanted)


def test_learn_stops_where_the_loss_is_not_finite_and_ends_early_with_ctrl_c(capsys):
    with pytest.raises(FloatingPointError, match=r"not finite by step 10 of 30.*a tenth of the learning"):
        module.learn(nn.Linear(1, 1), lambda model, _: model(torch.ones(1)).sum() * math.nan, steps=30)
    impatient = at_step(nn.Linear(1, 1), 26, CTRL_C)
    losses = module.learn(impatient, lambda model, _: model(torch.ones(1)).sum(), steps=100)   # read by tens
    assert len(losses) == 20 and "interrupted after 20 of 100 steps" in capsys.readouterr().out


@pytest.mark.parametrize("fast", [True, False])
def test_muon_takes_the_steps_of_pytorchs_up_to_rounding_and_goes_on_from_its_state(fast, monkeypatch):
    monkeypatch.setattr(recipes, "has_fast_bf16", lambda _: fast)
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape) / 10) for shape in ((96, 32), (32, 32), (96, 32), (32, 64))]
    theirs = copy.deepcopy(ours)
    muon = recipes.Muon(ours, lr=0.012, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.012, weight_decay=0.1)
    for step in range(20):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p) * torch.rand(p.shape[1])
            q.grad = p.grad.clone()
        if step == 10:                                       # as from a checkpoint written with PyTorch's
            muon.load_state_dict(copy.deepcopy(reference.state_dict()))
        muon.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, atol=1e-4 if fast else 2e-3, rtol=0)    # a bfloat16 has 8 bits


@pytest.mark.parametrize(("stem", "filters"), [("linear", 0), ("conv", 7)])
def test_the_good_recipe_gives_muon_the_matrices_of_blocks_and_conv_stem_and_adamw_the_rest(stem, filters):
    model = VisionTransformer(**GOOD.model, stem=stem)
    names = {id(p): name for name, p in model.named_parameters()}
    muon, adamw = recipes.make_optimizers(model, GOOD)
    assert type(muon) is recipes.Muon and type(adamw) is torch.optim.AdamW and muon.defaults["weight_decay"]
    groups = [[names[id(p)] for p in group["params"]] for group in (*muon.param_groups, *adamw.param_groups)]
    assert len(groups[0]) == filters + 4 * 4
    assert all(name.startswith(("blocks.", "patch_embed.proj.")) for name in groups[0])
    assert sorted(name for group in groups for name in group) == sorted(names.values())
    for group in adamw.param_groups:
        assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] > 0}
    [sgd] = recipes.make_optimizers(model, dataclasses.replace(GOOD, optimizer="sgd"))
    assert type(sgd) is torch.optim.SGD and sgd.defaults["momentum"] == 0.9
