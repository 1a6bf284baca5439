"""Training: it learns, it stops and goes on without losing anything, and it says what is wrong."""

import dataclasses
import itertools
import math
import pickle

import pytest
import torch
from torch import nn

import vit_helpers.recipes as recipes
import vit_helpers.training as module
from vit_helpers import (
    FINETUNE,
    GOOD,
    PLAIN,
    History,
    Recipe,
    Tiles,
    VisionTransformer,
    batches,
    evaluate,
    fit,
    load_checkpoint,
    save_checkpoint,
)
from vit_helpers.synthetic import synthetic_tiles

RECIPES = pytest.mark.parametrize("recipe", [PLAIN, GOOD], ids=["plain", "good"])


def small_model(recipe=PLAIN, seed=0, **changes):
    torch.manual_seed(seed)
    sizes = dict(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, mlp_dim=24)
    return VisionTransformer(**{**recipe.model, **sizes, "dropout": 0.2, **changes})


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def without_time(history):
    return {name: value for name, value in dataclasses.asdict(history).items() if name != "seconds"}


@pytest.fixture(scope="module")
def tiles():
    """200 tiles of 8x8 noise whose brightness tells the ten classes apart: (160 for training, 40 for testing)."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 10
    images = labels[:, None, None, None] * 22 + torch.randint(0, 30, (200, 3, 8, 8), generator=random)
    return Tiles(images.to(torch.uint8), labels).split()


def interrupt(monkeypatch, epoch, step):
    """Press Ctrl-C at a step of an epoch (both from 1): where the batch is fetched."""
    epochs = []

    def interrupted(*args, **kwargs):
        epochs.append(1)
        for i, batch in enumerate(batches(*args, **kwargs), 1):
            if (len(epochs), i) == (epoch, step):
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(module, "batches", interrupted)


class Poisoned(nn.Module):
    """A model whose logits are not a number at one forward pass in training mode (counted from 1)."""

    def __init__(self, model, at):
        super().__init__()
        self.model, self.at, self.passes = model, at, 0

    def forward(self, images):
        self.passes += self.training
        return self.model(images) * (math.nan if self.training and self.passes == self.at else 1)


# Learning

@RECIPES
def test_one_batch_is_overfitted(recipe):
    random = torch.Generator().manual_seed(0)
    noise = Tiles(torch.randint(0, 256, (20, 3, 8, 8), generator=random, dtype=torch.uint8), torch.arange(20) % 10)
    # All patches: the pixels are noise, so only all of them tell one image from another.
    recipe = dataclasses.replace(recipe, augment=False, label_smoothing=0.0, learning_rate=5e-3, keep_tokens=1.0)
    model = small_model(recipe, dropout=0.0, embed_dim=32)
    history = fit(model, noise, epochs=150, recipe=recipe)
    assert history.loss[0] == pytest.approx(math.log(10), abs=1e-3)      # the head starts at zero: a uniform guess
    assert evaluate(model, noise).accuracy == 1 and history.loss[-1] < 0.1


@RECIPES
def test_both_recipes_learn_tiles_that_they_have_not_seen(recipe):
    train, test = Tiles(*synthetic_tiles(600)).split()
    torch.manual_seed(0)
    model = VisionTransformer(**{**recipe.model, "patch_size": 16, "embed_dim": 48, "depth": 2, "mlp_dim": 96})
    history = fit(model, train, test, epochs=8, recipe=dataclasses.replace(recipe, batch_size=32))
    assert history.test_accuracy[-1] > 0.25                  # guessing has 0.1, with 120 tiles +- 0.03
    assert history.loss[-1] < history.loss[0] - 0.2


def test_a_checkpoint_that_cannot_be_written_costs_a_warning_not_the_run(tiles, monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_checkpoint", full)     # disks that are really full are in test_faults.py
    with pytest.warns(UserWarning, match=r"run\.pt could not be written .*No space left on device.*training goes on"):
        history = fit(small_model(), tiles[0], epochs=2, recipe=PLAIN, checkpoint=tmp_path / "run.pt")
    assert len(history) == 2 and not history.interrupted


def test_the_training_accuracy_is_over_tiles_not_over_whole_batches():
    class Right(nn.Linear):
        def forward(self, images):                           # the brightness is the class; the weights have no say
            return (10 * torch.eye(2))[((images.flatten(1)[:, 0] > 0).long())] + 0 * self.weight.sum()

    labels = torch.arange(13) % 2
    bright = Tiles((labels * 255)[:, None, None, None].expand(-1, 3, 4, 4).to(torch.uint8), labels, ("dark", "bright"))
    for epochs, accuracy in ((1, [1.0]), (1.5, [1.0, 1.0])):
        history = fit(Right(1, 1), bright, epochs=epochs, recipe=dataclasses.replace(PLAIN, batch_size=8))
        assert history.train_accuracy == accuracy


def test_history_has_one_entry_for_each_epoch(tiles):
    train, test = tiles
    model = small_model()
    history = fit(model, train, test, epochs=2, recipe=PLAIN)
    assert len(history) == len(history.train_accuracy) == len(history.test_accuracy) == len(history.seconds) == 2
    assert len(history.step_loss) == 6 and not history.interrupted                   # 160 tiles: batches of 64, 64, 32
    assert history.loss == pytest.approx([sum(history.step_loss[:3]) / 3, sum(history.step_loss[3:]) / 3])
    assert history.test_accuracy[-1] == evaluate(model, test).accuracy
    assert len(str(history).splitlines()) == 3
    without = fit(small_model(), train, epochs=1, recipe=PLAIN)
    assert without.test_accuracy == [] and len(str(without).splitlines()) == 2


def test_the_bar_shows_loss_accuracy_and_epochs(tiles, capsys):
    history = fit(small_model(), *tiles, epochs=2, recipe=PLAIN)
    printed = capsys.readouterr().out
    for part in ("epoch 2/2", f"loss {history.loss[-1]:.3f}", f"test {history.test_accuracy[-1]:.1%}", "6/6"):
        assert part in printed


@RECIPES
def test_the_same_seed_gives_the_same_numbers(tiles, recipe):
    runs = []
    for seed in (0, 0, 1):
        model = small_model(recipe)
        torch.manual_seed(len(runs))                         # neither the global random state has a say,
        model.train(len(runs) > 0)                           # nor the mode in which the model comes
        runs.append((without_time(fit(model, *tiles, epochs=2, recipe=recipe, seed=seed)), weights_of(model)))
    assert runs[0][0] == runs[1][0] and same(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


def test_fit_leaves_the_global_random_state_alone(tiles):
    model = small_model()
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    fit(model, *tiles, epochs=1, recipe=GOOD, seed=7)
    assert torch.equal(torch.rand(3), wanted)


# Recipes

def test_the_plain_recipe_is_adam_and_nothing_else(tiles):
    """Against a training loop as every tutorial has it."""
    train, _ = tiles
    model, twin = small_model(dropout=0.0), small_model(dropout=0.0)
    fit(model, train, epochs=2, recipe=PLAIN, seed=3)
    optimizer, random = torch.optim.Adam(twin.parameters(), lr=1e-3), torch.Generator().manual_seed(3)
    for _ in range(2):
        for images, labels in batches(train, 64, shuffle=True, generator=random):
            optimizer.zero_grad()
            nn.functional.cross_entropy(twin(images), labels).backward()
            optimizer.step()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_the_good_recipe_gives_muon_the_matrices_of_the_blocks():
    model = small_model(GOOD)
    muon, adamw = recipes.make_optimizers(model, GOOD)
    assert isinstance(muon, torch.optim.Muon) and isinstance(adamw, torch.optim.AdamW)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = [sorted(names[id(p)] for p in group["params"]) for group in (*muon.param_groups, *adamw.param_groups)]
    matrices = [f"blocks.{i}.{part}.weight" for i in (0, 1) for part in ("attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2")]
    assert groups[0] == matrices
    assert groups[1] == ["head.weight", "patch_embed.proj.weight"] and adamw.param_groups[0]["weight_decay"] > 0
    assert all(name.endswith("bias") or "norm" in name for name in groups[2])
    assert adamw.param_groups[1]["weight_decay"] == 0
    assert sorted(itertools.chain(*groups)) == sorted(names.values())    # each parameter once


def test_the_learning_rate_warms_up_and_decays():
    steps = 200
    good = [recipes.learning_rate_factor(GOOD, step, steps) for step in range(steps)]
    assert 0 < good[0] < 0.1 and max(good) == 1 and 0 < good[-1] < 0.02
    peak = good.index(1)
    assert peak + 1 == pytest.approx(GOOD.warmup * steps, abs=1)
    rise, fall = torch.tensor(good[:peak + 1]).diff(), torch.tensor(good[peak + 1:]).diff()
    torch.testing.assert_close(rise, rise[:1].expand_as(rise), atol=1e-5, rtol=0)    # straight up, then straight down
    torch.testing.assert_close(fall, fall[:1].expand_as(fall), atol=1e-5, rtol=0)
    assert rise[0] > 0 > fall[0]
    assert {recipes.learning_rate_factor(PLAIN, step, steps) for step in range(steps)} == {1}
    assert recipes.learning_rate_factor(Recipe(warmup=0.5), 150, steps) == 1          # no decay: it stays up
    assert all(0 < recipes.learning_rate_factor(GOOD, 0, n) <= 1 for n in (1, 2, 3))


def test_bf16_is_used_only_where_it_is_fast(tiles, monkeypatch):
    train, _ = tiles
    results = {}
    for fast, wanted in ((True, True), (False, True), (False, False)):
        kinds, model = set(), small_model()
        model.blocks[0].attn.qkv.register_forward_hook(lambda module, x, y, kinds=kinds: kinds.add(y.dtype))
        monkeypatch.setattr(module, "has_fast_bf16", lambda device, fast=fast: fast)
        results[fast, wanted] = fit(model, train, epochs=1, recipe=Recipe(bf16=wanted)).step_loss
        assert kinds == {torch.bfloat16 if fast else torch.float32}
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert results[False, True] == results[False, False]
    assert results[True, True] == pytest.approx(results[False, False], abs=0.05)


def test_few_tokens_first_and_all_of_them_at_the_end(tiles):
    train, test = tiles
    model, seen = small_model(GOOD), []
    model.blocks[0].register_forward_hook(lambda block, x, y: seen.append(y.shape[1]) if block.training else None)
    recipe = dataclasses.replace(GOOD, keep_tokens=0.5, keep_until=0.6, batch_size=40)
    fit(model, train, test, epochs=5, recipe=recipe)                                 # 4 steps an epoch, 4 patches an image
    assert seen == [2] * 12 + [4] * 8


@pytest.mark.parametrize("keep", [0, -0.5, 1.5])
def test_a_share_of_tokens_that_cannot_be(tiles, keep):
    with pytest.raises(ValueError, match=f"keep_tokens={keep} .* between 0 and 1"):
        fit(small_model(), tiles[0], epochs=1, recipe=Recipe(keep_tokens=keep, keep_until=0.5))


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, [5]), (1.3, [10, 3]), (0.001, [1])])
def test_a_fraction_of_an_epoch(tiles, tmp_path, epochs, steps):
    train, test = tiles
    recipe = dataclasses.replace(GOOD, batch_size=16)                 # ten steps an epoch
    settings = dict(epochs=epochs, recipe=recipe, checkpoint=tmp_path / "run.pt")
    model = small_model(recipe)
    history = fit(model, train, test, **settings)
    assert len(history) == len(history.test_accuracy) == len(steps) and len(history.step_loss) == sum(steps)
    assert all(0 <= accuracy <= 1 for accuracy in history.train_accuracy)
    again = fit(small_model(recipe), train, test, **settings, resume=True)     # nothing is left to do
    assert without_time(again) == without_time(history)


def test_a_model_that_cannot_leave_patches_out_says_so(tiles):
    cnn = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    with pytest.raises(ValueError, match=r"Sequential cannot leave patches out.*keep_tokens=1.0"):
        fit(cnn, tiles[0], epochs=1, recipe=GOOD)
    assert len(fit(cnn, tiles[0], epochs=1, recipe=dataclasses.replace(GOOD, keep_tokens=1.0))) == 1


def test_cutmix_mixes_images_and_targets_in_the_same_proportion(tiles, monkeypatch):
    train, _ = tiles
    shares, losses = [], []
    monkeypatch.setattr(module, "cutmix", lambda images, generator: (shares.append(1) or images.flip(0), 0.0))
    monkeypatch.setattr(module.F, "cross_entropy",
                        lambda logits, labels, **options: losses.append(labels) or logits.square().mean())
    fit(small_model(), train, epochs=1, recipe=Recipe(cutmix=1.0, batch_size=16))
    assert len(shares) == 9                                           # ten steps, the last tenth without
    assert all(torch.equal(own, partner.flip(0)) for own, partner in zip(losses[:18:2], losses[1:18:2], strict=True))
    assert len(losses) == 19


def test_label_smoothing_and_augmentation_reach_the_training(tiles):
    train, _ = tiles
    plain = fit(small_model(), train, epochs=2, recipe=PLAIN).step_loss
    assert fit(small_model(), train, epochs=2, recipe=Recipe(augment=True)).step_loss != plain
    smoothed = fit(small_model(), train, epochs=2, recipe=Recipe(label_smoothing=0.1)).step_loss
    assert smoothed[0] == pytest.approx(plain[0]) and smoothed != plain


# Ctrl-C, checkpoints, resuming

@RECIPES
def test_a_resumed_run_ends_with_the_same_numbers(tiles, recipe, monkeypatch, tmp_path):
    train, test = tiles
    whole = small_model(recipe)
    history = fit(whole, train, test, epochs=3, recipe=recipe, seed=4)
    path = tmp_path / "run.pt"
    with monkeypatch.context() as ctrl_c:
        interrupt(ctrl_c, epoch=2, step=2)
        first = fit(small_model(recipe), train, test, epochs=3, recipe=recipe, seed=4, checkpoint=path)
    assert first.interrupted and len(first) == 1
    resumed = small_model(recipe, seed=99)                   # other first weights: everything comes from the file
    second = fit(resumed, train, test, epochs=3, recipe=recipe, seed=4, checkpoint=path, resume=True)
    assert without_time(second) == without_time(history)
    assert same(weights_of(resumed), weights_of(whole))
    assert list(tmp_path.iterdir()) == [path]
    again = small_model(recipe, seed=98)                     # a finished run has nothing left to do
    third = fit(again, train, test, epochs=3, recipe=recipe, seed=4, checkpoint=path, resume=True)
    assert third == second and same(weights_of(again), weights_of(whole))


def test_without_resume_a_checkpoint_is_overwritten(tiles, tmp_path):
    train, _ = tiles
    path = tmp_path / "run.pt"
    fit(small_model(), train, epochs=2, recipe=PLAIN, checkpoint=path)
    assert len(fit(small_model(), train, epochs=1, recipe=PLAIN, checkpoint=path)) == 1
    history = History()
    load_checkpoint(path, small_model(), history=history)
    assert len(history) == 1


@pytest.mark.parametrize("moment", ["first epoch", "second epoch", "evaluation", "checkpoint"])
def test_after_ctrl_c_model_and_history_are_usable(tiles, monkeypatch, capsys, tmp_path, moment):
    def press(*args, **kwargs):
        raise KeyboardInterrupt

    if moment == "evaluation":
        monkeypatch.setattr(module, "evaluate", press)
    elif moment == "checkpoint":
        monkeypatch.setattr(torch, "save", press)
    else:
        interrupt(monkeypatch, epoch=1 if moment == "first epoch" else 2, step=2)
    model, path = small_model(), tmp_path / "run.pt"
    history = fit(model, *tiles, epochs=3, recipe=PLAIN, checkpoint=path)
    monkeypatch.undo()
    finished = 1 if moment in ("second epoch", "checkpoint") else 0
    assert history.interrupted and len(history) == finished
    assert [len(values) for values in (history.test_accuracy, history.seconds, history.step_loss)] == [
        finished, finished, 3 * finished]
    assert len(str(history).splitlines()) == 1 + finished
    assert f"interrupted after {finished} of 3 epochs" in capsys.readouterr().out
    assert evaluate(model, tiles[1]).logits.isfinite().all()
    assert path.exists() == (moment == "second epoch") and len(list(tmp_path.iterdir())) == path.exists()
    assert len(fit(model, *tiles, epochs=1, recipe=PLAIN)) == 1          # and training can go on from here


def test_test_tiles_may_come_later(tiles, monkeypatch, tmp_path):
    train, test = tiles
    with monkeypatch.context() as ctrl_c:
        interrupt(ctrl_c, epoch=2, step=1)
        fit(small_model(), train, epochs=2, recipe=PLAIN, checkpoint=tmp_path / "run.pt")
    history = fit(small_model(), train, test, epochs=2, recipe=PLAIN, checkpoint=tmp_path / "run.pt", resume=True)
    assert len(history) == 2 and len(history.test_accuracy) == 1
    assert [line.count(" - ") for line in str(history).splitlines()] == [0, 1, 0]


def test_a_checkpoint_gives_back_the_model(tiles, tmp_path):
    model, twin, history = small_model(), small_model(seed=1), History()
    fitted = fit(model, *tiles, epochs=1, recipe=GOOD, checkpoint=tmp_path / "run.pt")
    load_checkpoint(tmp_path / "run.pt", twin, history=history)
    assert same(weights_of(twin), weights_of(model)) and history == fitted


class Code:
    """Unpickled without care, this would run code."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code from a checkpoint was run')",)


@pytest.fixture
def checkpoint(tiles, tmp_path):
    """A whole checkpoint of a run of one epoch."""
    path = tmp_path / "run.pt"
    fit(small_model(), tiles[0], epochs=1, recipe=PLAIN, checkpoint=path)
    return path


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "code", "raw code", "list", "tensor", "no model", "no tensors"])
def test_a_damaged_checkpoint_is_refused_and_changes_nothing(tiles, checkpoint, damage):
    content = {"cut": checkpoint.read_bytes()[:-2000], "empty": b"", "text": b"404 not found",
               "raw code": pickle.dumps(Code(), protocol=2)}.get(damage)
    if content is not None:
        checkpoint.write_bytes(content)
    else:
        torch.save({"code": {"model": Code()}, "list": [1, 2], "tensor": torch.zeros(3), "no model": {"weights": {}},
                    "no tensors": {"model": {"head": 1}, "settings": None}}[damage], checkpoint)
    before, model, history = checkpoint.read_bytes(), small_model(seed=1), History()
    weights = weights_of(model)
    with pytest.raises(ValueError, match=r"run\.pt is not a whole checkpoint of this course; delete it and train again"):
        load_checkpoint(checkpoint, model, history=history)
    with pytest.raises(ValueError, match=r"run\.pt is not a whole checkpoint"):
        fit(model, tiles[0], epochs=1, recipe=PLAIN, checkpoint=checkpoint, resume=True)
    assert same(weights_of(model), weights) and history == History() and checkpoint.read_bytes() == before


@pytest.mark.parametrize(("changes", "message"), [
    (dict(embed_dim=24), r"head\.weight is \(10, 16\), the model needs \(10, 24\)"),
    (dict(depth=3), r"blocks\.2\.attn\.qkv\.weight is missing"),
    (dict(depth=1), r"blocks\.1\.attn\.qkv\.weight is not part of the model"),
    (dict(pool="mean"), "cls_token is not part of the model"),
])
def test_a_checkpoint_of_another_model_is_refused_and_changes_nothing(tiles, checkpoint, changes, message):
    model, before = small_model(**changes), checkpoint.read_bytes()
    weights = weights_of(model)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(checkpoint, model)
    with pytest.raises(ValueError, match="belong to another model"):
        fit(model, tiles[0], epochs=1, recipe=PLAIN, checkpoint=checkpoint, resume=True)
    assert same(weights_of(model), weights) and checkpoint.read_bytes() == before


@pytest.mark.parametrize(("name", "changes"), [
    ("epochs", dict(epochs=2)), ("seed", dict(seed=1)), ("learning_rate", dict(recipe=Recipe(learning_rate=0.1))),
    ("optimizer", dict(recipe=GOOD)), ("tiles", dict(train=60))])
def test_a_checkpoint_of_another_run_is_refused_and_changes_nothing(tiles, checkpoint, name, changes):
    model, before = small_model(seed=1), checkpoint.read_bytes()
    weights, settings = weights_of(model), {"epochs": 1, "recipe": PLAIN, **changes}
    train = tiles[0].subset(settings.pop("train", 160))
    with pytest.raises(ValueError, match=f"belongs to a run with other settings: .*'{name}'"):
        fit(model, train, checkpoint=checkpoint, resume=True, **settings)
    assert same(weights_of(model), weights) and checkpoint.read_bytes() == before


def test_a_checkpoint_of_weights_only_cannot_be_resumed(tiles, tmp_path):
    model = small_model()
    save_checkpoint(tmp_path / "weights.pt", model)
    load_checkpoint(tmp_path / "weights.pt", twin := small_model(seed=1))
    assert same(weights_of(twin), weights_of(model))
    with pytest.raises(ValueError, match="holds weights only"):
        fit(model, tiles[0], epochs=1, recipe=PLAIN, checkpoint=tmp_path / "weights.pt", resume=True)


def test_a_missing_checkpoint_is_an_error_for_load_and_a_fresh_start_for_fit(tiles, tmp_path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "run.pt", small_model())
    assert len(fit(small_model(), tiles[0], epochs=1, recipe=PLAIN, checkpoint=tmp_path / "run.pt", resume=True)) == 1


# A loss that is not finite

def test_a_nan_loss_stops_training_and_keeps_the_last_good_epoch(tiles, tmp_path):
    train, test = tiles
    good = Poisoned(small_model(), at=None)
    fit(good, train, epochs=1, recipe=PLAIN)
    poisoned, path = Poisoned(small_model(), at=3 + 2), tmp_path / "run.pt"          # three steps make an epoch
    with pytest.raises(FloatingPointError, match="nan at step 2 of 3, epoch 2") as error:
        fit(poisoned, train, test, epochs=4, recipe=PLAIN, checkpoint=path)
    assert "a tenth of the learning rate" in str(error.value)
    assert len(error.value.history) == len(error.value.history.test_accuracy) == 1
    # With another number of epochs, but the same constant learning rate, the first epoch is the same.
    assert same(weights_of(poisoned), weights_of(good))
    saved = Poisoned(small_model(seed=1), at=None)
    load_checkpoint(path, saved)
    assert same(weights_of(saved), weights_of(good))
    mended = Poisoned(small_model(seed=1), at=None)          # with the cause mended, the run goes on from there
    assert len(fit(mended, train, test, epochs=4, recipe=PLAIN, checkpoint=path, resume=True)) == 4


def test_a_nan_in_the_first_epoch_gives_back_the_first_weights(tiles, tmp_path):
    model = Poisoned(small_model(), at=1)
    weights = weights_of(model)
    with pytest.raises(FloatingPointError, match="nan at step 1 of 3, epoch 1"):
        fit(model, tiles[0], epochs=1, recipe=PLAIN, checkpoint=tmp_path / "run.pt")
    assert same(weights_of(model), weights) and list(tmp_path.iterdir()) == []


def test_weights_that_explode_in_the_very_last_step_are_noticed(tiles):
    model = small_model()
    weights = weights_of(model)
    model.head.weight.register_hook(lambda gradient: gradient * math.inf)            # the loss itself is finite
    with pytest.raises(FloatingPointError, match="last step of epoch 1 made weights that are not finite"):
        fit(model, tiles[0].subset(60), epochs=1, recipe=PLAIN)
    assert same(weights_of(model), weights)


# Data and settings that cannot work

def test_data_that_cannot_be_learned_from(tiles):
    train, _ = tiles
    model = small_model()
    weights = weights_of(model)
    with pytest.raises(ValueError, match="at least two classes, not no tiles"):
        fit(model, train.select(torch.arange(0)), epochs=1)
    with pytest.raises(ValueError, match="at least two classes, not 16 tiles of one class"):
        fit(model, train.select(torch.nonzero(train.labels == 3)[:, 0]), epochs=1)
    assert same(weights_of(model), weights)


@pytest.mark.parametrize("epochs", [0, -1, True, math.inf, math.nan, "3", None])
def test_epochs_that_cannot_be(tiles, epochs):
    with pytest.raises(ValueError, match=f"epochs={epochs!r} must be a number above 0"):
        fit(small_model(), tiles[0], epochs=epochs)


def test_a_model_with_another_number_of_classes_or_another_image_size(tiles):
    with pytest.raises(ValueError, match="build it with num_classes=10"):
        fit(small_model(num_classes=4), tiles[0], epochs=1)
    with pytest.raises(ValueError, match="takes 16x16 images, not 8x8"):
        fit(small_model(img_size=16), tiles[0], epochs=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_a_gpu(tiles, tmp_path):
    model = small_model(GOOD)
    history = fit(model, *tiles, epochs=2, recipe=GOOD, checkpoint=tmp_path / "run.pt")
    assert next(model.parameters()).device.type == "cuda" and all(map(math.isfinite, history.step_loss))
    result, on_cpu = evaluate(model, tiles[1]), small_model(GOOD)
    load_checkpoint(tmp_path / "run.pt", on_cpu)
    assert result.logits.device.type == "cpu"
    torch.testing.assert_close(evaluate(on_cpu, tiles[1]).logits, result.logits, atol=1e-3, rtol=1e-3)


def test_layer_decay_gives_each_layer_a_share_of_the_rate_above_it():
    model = VisionTransformer(depth=2)
    recipe = dataclasses.replace(GOOD, layer_decay=0.5)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for optimizer in recipes.make_optimizers(model, recipe)
             for group in optimizer.param_groups for p in group["params"]}
    muon, adamw = recipe.muon_learning_rate, recipe.learning_rate
    assert rates.keys() == set(names.values())
    assert rates["head.weight"] == rates["norm.weight"] == adamw
    assert rates["blocks.1.attn.qkv.weight"] == muon / 2 and rates["blocks.1.norm1.weight"] == adamw / 2
    assert rates["blocks.0.mlp.fc1.weight"] == muon / 4 and rates["blocks.0.mlp.fc1.bias"] == adamw / 4
    assert rates["patch_embed.proj.weight"] == rates["cls_token"] == rates["pos_embed"] == adamw / 8
    for optimizer in recipes.make_optimizers(model, GOOD):
        assert {group["lr"] for group in optimizer.param_groups} <= {GOOD.muon_learning_rate, GOOD.learning_rate}


def test_frozen_parameters_stay_as_they_are(tiles):
    tiles = tiles[0]
    model = VisionTransformer(8, 4, embed_dim=16, depth=1, mlp_dim=16, num_heads=2).requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter of the model is frozen"):
        fit(model, tiles, epochs=1)
    model.head.requires_grad_(True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, tiles, epochs=1, recipe=FINETUNE)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}


class Line(torch.nn.Module):
    """y = w x + b, for a loss of its own."""

    def __init__(self):
        super().__init__()
        self.w, self.b = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))


def distance_from_a_line(model, generator):
    x = torch.randn(16, generator=generator)
    return (model.w * x + model.b - (2 * x - 1)).square().mean()


def test_learn_equals_a_loop_by_hand():
    model, other = Line(), Line()
    losses = module.learn(model, distance_from_a_line, steps=25, recipe=Recipe(learning_rate=0.05), seed=3)
    optimizer, random, by_hand = torch.optim.Adam(other.parameters(), 0.05), torch.Generator().manual_seed(3), []
    for _ in range(25):
        loss = distance_from_a_line(other, random)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        by_hand.append(loss.item())
    assert losses == pytest.approx(by_hand) and torch.equal(model.w, other.w) and torch.equal(model.b, other.b)


def test_learn_follows_the_schedule_and_learns():
    model = Line()
    losses = module.learn(model, distance_from_a_line, steps=300, recipe=dataclasses.replace(GOOD, learning_rate=0.1))
    assert len(losses) == 300 and losses[-1] < 1e-3
    assert model.w.item() == pytest.approx(2, abs=0.05) and model.b.item() == pytest.approx(-1, abs=0.05)


def test_learn_is_repeatable_and_leaves_the_other_draws_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    runs = [module.learn(Line(), distance_from_a_line, steps=5, recipe=PLAIN, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2] and torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("steps", [0, -3, 1.5, True, "10", None])
def test_learn_refuses_steps_that_are_no_count(steps):
    with pytest.raises(ValueError, match=r"steps=.*such as 500"):
        module.learn(Line(), distance_from_a_line, steps=steps)


def test_learn_stops_where_the_loss_is_not_finite():
    def broken(model, generator):
        return distance_from_a_line(model, generator) * (math.nan if model.w.item() else 1)

    with pytest.raises(FloatingPointError, match=r"not finite at step 10 of 30.*build the model anew"):
        module.learn(Line(), broken, steps=30, recipe=PLAIN)


def test_learn_ends_early_with_ctrl_c(capsys):
    calls = []

    def impatient(model, generator):
        calls.append(1)
        if len(calls) == 26:
            raise KeyboardInterrupt
        return distance_from_a_line(model, generator)

    assert len(module.learn(Line(), impatient, steps=100, recipe=PLAIN)) == 20       # numbers are read ten at a time
    assert "interrupted after 20 of 100 steps" in capsys.readouterr().out


@pytest.mark.parametrize("fast", [True, False])
def test_learn_computes_in_bf16_only_where_that_is_fast(monkeypatch, fast):
    monkeypatch.setattr(module, "has_fast_bf16", lambda device: fast)
    kinds = set()

    def note(model, generator):
        kinds.add((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        return distance_from_a_line(model, generator)

    module.learn(Line(), note, steps=2, recipe=GOOD)
    assert kinds == {torch.bfloat16 if fast else torch.float32}
