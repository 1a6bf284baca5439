"""Evaluation: figures on a case small enough for a pencil."""

import math

import pytest
import torch
from torch import nn

from vit_helpers import Evaluation, Tiles, VisionTransformer, dihedral_views, evaluate, normalize
from vit_helpers.evaluation import class_means, confusion_counts, pooled_features

# Six images of three classes. True: 0 0 0 1 1 2. Predicted: 0 0 1 1 0 1. Class 2 is never predicted.
PROBABILITIES = torch.tensor([[0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.3, 0.6, 0.1],
                              [0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.0, 1.0, 0.0]])
RESULT = Evaluation((PROBABILITIES + 1e-12).log(), torch.tensor([0, 0, 0, 1, 1, 2]), ("a", "b", "c"))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = VisionTransformer(8, 4, embed_dim=16, depth=1, num_heads=2, mlp_dim=24, dropout=0.5)
    nn.init.normal_(model.head.weight)
    return model


@pytest.fixture
def tiles():
    torch.manual_seed(1)
    return Tiles(torch.randint(0, 256, (23, 3, 8, 8), dtype=torch.uint8), torch.arange(23) % 10)


def test_accuracy_and_loss_by_hand_and_what_is_at_the_edge():
    """Confusion, calibration and its error by hand or by loops: lesson 09."""
    assert RESULT.predictions.tolist() == [0, 0, 1, 1, 0, 1] and RESULT.accuracy == pytest.approx(3 / 6)
    torch.testing.assert_close(RESULT.probabilities, PROBABILITIES)
    sure = Evaluation(PROBABILITIES[:4].log(), RESULT.labels[:4], RESULT.classes)
    assert sure.loss == pytest.approx(-math.log(0.9 * 0.8 * 0.3 * 0.7) / 4)
    sure = Evaluation(50 * torch.eye(3), torch.arange(3), RESULT.classes)
    assert sure.calibration(bins=4)[0].tolist() == [0, 0, 0, 3]              # 1 belongs to the last bin
    with pytest.raises(AssertionError):                      # it would be counted in the next class's row
        confusion_counts(torch.tensor([0]), torch.tensor([3]), 3)


def test_figures_by_class_and_their_table_by_hand():
    figures = {name: values.tolist() for name, values in RESULT.per_class.items()}
    assert figures["precision"] == pytest.approx([2 / 3, 1 / 3, 0])
    assert figures["recall"] == pytest.approx([2 / 3, 1 / 2, 0])
    assert figures["f1"] == pytest.approx([2 / 3, 2 / 5, 0]) and figures["support"] == [3, 2, 1]
    lines = str(RESULT).splitlines()
    assert "50.0% on 6 images" in lines[0] and [line.split()[0] for line in lines[2:]] == ["a", "b", "c"]
    assert lines[2].split()[1:] == ["66.7%", "66.7%", "0.667", "3"]
    without = Evaluation(torch.eye(3)[:2], torch.arange(2), ("a", "b", "c"))                 # no image of c
    assert all(values[2] == 0 for values in without.per_class.values()) and without.confusion.shape == (3, 3)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_best_temperature_undoes_a_scale(scale):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2000, 5, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).flatten()      # as they say
    result = Evaluation(logits * scale, labels, tuple("abcde"))
    temperature = result.best_temperature()
    assert temperature == pytest.approx(scale, rel=0.1)
    repaired = result.at_temperature(temperature)
    for other in (0.9, 1.1):                                 # a minimum of the loss
        assert repaired.loss < result.at_temperature(other * temperature).loss
    assert torch.equal(repaired.predictions, result.predictions) and repaired.calibration_error() < 0.03
    assert scale == 1 or result.calibration_error() > 0.1
    right = Evaluation(torch.eye(3), torch.arange(3), tuple("abc"))
    assert 0.009 < right.best_temperature() < 0.1            # the smaller the better, but it stays finite


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_gives_the_logits_of_the_model_in_order_and_leaves_its_mode(model, tiles, training):
    wanted = model.eval()(normalize(tiles.images)).detach()
    model.train(training)
    result = evaluate(model, tiles, batch_size=5)
    torch.testing.assert_close(result.logits, wanted)
    assert torch.equal(result.labels, tiles.labels) and result.classes == tiles.classes
    model.head = nn.Linear(16, 4)
    with pytest.raises(ValueError, match=r"\(4,\) logits .*10 classes; build it with num_classes=10"):
        evaluate(model, tiles)
    assert model.training is training and not result.logits.requires_grad


def test_eight_views_are_averaged_as_probabilities_and_each_view_gets_the_same_answer(model, tiles):
    result = evaluate(model, tiles, views=8)
    views = [model.eval()(normalize(view)).softmax(dim=1) for view in dihedral_views(tiles.images)]
    torch.testing.assert_close(result.probabilities, torch.stack(views).mean(dim=0))
    assert not torch.allclose(result.probabilities, evaluate(model, tiles).probabilities)
    for view in dihedral_views(tiles.images):
        torch.testing.assert_close(evaluate(model, Tiles(view, tiles.labels), views=8).logits, result.logits)


def test_features_are_what_the_head_reads_and_their_means_by_class(model, tiles):
    features = pooled_features(model, tiles, batch_size=3)
    assert features.shape == (23, 16) and model.training and not features.requires_grad
    torch.testing.assert_close(model.head(features), evaluate(model, tiles).logits)
    means = class_means(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 0, 1]), 2)
    assert means.tolist() == [[2.0, 0.0], [0.0, 5.0]]
