"""Evaluation: every figure on a case small enough for a pencil, and the model is left as it was found."""

import math

import pytest
import torch
from torch import nn

from vit_helpers import Evaluation, Tiles, VisionTransformer, eight_views, evaluate, normalize
from vit_helpers.evaluation import class_means, familiarity, pooled_features

# Six images of three classes. True: 0 0 0 1 1 2. Predicted: 0 0 1 1 0 1. Class 2 is never predicted.
PROBABILITIES = torch.tensor([[0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.3, 0.6, 0.1],
                              [0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.0, 1.0, 0.0]])
RESULT = Evaluation((PROBABILITIES + 1e-12).log(), torch.tensor([0, 0, 0, 1, 1, 2]), ("a", "b", "c"))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = VisionTransformer(img_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2, mlp_dim=24, dropout=0.5)
    nn.init.normal_(model.head.weight)
    return model


@pytest.fixture
def tiles():
    random = torch.Generator().manual_seed(0)
    return Tiles(torch.randint(0, 256, (23, 3, 8, 8), generator=random, dtype=torch.uint8), torch.arange(23) % 10)


def test_accuracy_and_loss_by_hand():
    assert RESULT.predictions.tolist() == [0, 0, 1, 1, 0, 1]
    assert RESULT.accuracy == pytest.approx(3 / 6)
    torch.testing.assert_close(RESULT.probabilities, PROBABILITIES)
    sure = Evaluation(PROBABILITIES[:4].log(), RESULT.labels[:4], RESULT.classes)
    assert sure.loss == pytest.approx(-math.log(0.9 * 0.8 * 0.3 * 0.7) / 4)


def test_confusion_by_hand():
    assert RESULT.confusion.tolist() == [[2, 1, 0], [1, 1, 0], [0, 1, 0]]            # rows are the truth
    assert RESULT.confusion.dtype == torch.int64


def test_per_class_figures_by_hand():
    figures = {name: values.tolist() for name, values in RESULT.per_class.items()}
    assert figures["precision"] == pytest.approx([2 / 3, 1 / 3, 0])
    assert figures["recall"] == pytest.approx([2 / 3, 1 / 2, 0])
    assert figures["f1"] == pytest.approx([2 / 3, 2 / 5, 0])
    assert figures["support"] == [3, 2, 1]


def test_a_class_without_images_has_zeros_and_no_nan():
    result = Evaluation(torch.eye(3)[[0, 1]], torch.tensor([0, 1]), ("a", "b", "c"))
    for values in result.per_class.values():
        assert values[2] == 0 and values.isfinite().all()
    assert result.confusion.shape == (3, 3)


def test_calibration_by_hand():
    # Three bins: none is less sure than 1/3; 0.5 and 0.6 are both wrong; of 0.7, 0.8, 0.9 and 1.0 only the last is.
    count, confidence, accuracy = RESULT.calibration(bins=3)
    assert count.tolist() == [0, 2, 4]
    assert confidence.tolist() == pytest.approx([math.nan, 0.55, 0.85], nan_ok=True)
    assert accuracy.tolist() == pytest.approx([math.nan, 0, 0.75], nan_ok=True)
    assert [len(values) for values in RESULT.calibration()] == [10, 10, 10]


def test_the_table_names_every_class():
    lines = str(RESULT).splitlines()
    assert "50.0% on 6 images" in lines[0] and len(lines) == 5
    assert [line.split()[0] for line in lines[2:]] == ["a", "b", "c"]
    assert lines[2].split()[1:] == ["66.7%", "66.7%", "0.667", "3"]


def test_evaluate_gives_the_logits_of_the_model_in_order(model, tiles):
    with torch.no_grad():
        wanted = model.eval()(normalize(tiles.images))
    for batch_size in (256, 5, 1):
        result = evaluate(model, tiles, batch_size)
        torch.testing.assert_close(result.logits, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(result.labels, tiles.labels) and result.classes == tiles.classes
    assert not result.logits.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_turns_dropout_off_and_puts_the_mode_back(model, tiles, training):
    model.train(training)
    first = evaluate(model, tiles)
    assert torch.equal(evaluate(model, tiles).logits, first.logits) and model.training is training
    weird = Tiles(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="takes 8x8 images, not 16x16"):
        evaluate(model, weird)
    assert model.training is training


def test_no_tiles_and_other_classes_are_refused(model, tiles):
    with pytest.raises(ValueError, match="no tiles to evaluate on"):
        evaluate(model, tiles.select(torch.arange(0)))
    model.head = nn.Linear(16, 4)
    with pytest.raises(ValueError, match=r"\(4,\) logits .*10 classes; build it with num_classes=10"):
        evaluate(model, tiles)


def test_eight_views_are_averaged_as_probabilities(model, tiles):
    result = evaluate(model, tiles, views=8)
    with torch.no_grad():
        by_hand = torch.stack([model.eval()(normalize(view)).softmax(dim=1) for view in eight_views(tiles.images)]).mean(dim=0)
    torch.testing.assert_close(result.probabilities, by_hand)
    assert not torch.allclose(result.probabilities, evaluate(model, tiles).probabilities)


def test_eight_views_make_the_answer_the_same_for_each_view(model, tiles):
    result = evaluate(model, tiles, views=8).logits
    for view in eight_views(tiles.images):
        torch.testing.assert_close(evaluate(model, Tiles(view, tiles.labels), views=8).logits, result)


def test_a_number_of_views_that_is_not_there(model, tiles):
    with pytest.raises(ValueError, match=r"views=3 is unknown; choose 1 .* or 8"):
        evaluate(model, tiles, views=3)


def sure(scale, n=2000, seed=0):
    """An Evaluation whose probabilities are right on average at temperature `scale`."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, 5, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).flatten()      # drawn as the logits say
    return Evaluation(logits * scale, labels, tuple("abcde"))


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_best_temperature_undoes_a_scale(scale):
    result = sure(scale)
    temperature = result.best_temperature()
    assert temperature == pytest.approx(scale, rel=0.1)
    repaired = result.at_temperature(temperature)
    for other in (0.9, 1.1):                                 # a minimum of the loss
        assert repaired.loss < result.at_temperature(other * temperature).loss
    assert torch.equal(repaired.predictions, result.predictions) and repaired.calibration_error() < 0.03
    assert scale == 1 or result.calibration_error() > 0.1


def test_a_temperature_that_is_none_is_refused():
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="must be above 0"):
            sure(1).at_temperature(wrong)


def test_the_best_temperature_stays_finite_where_every_answer_is_right():
    result = Evaluation(torch.eye(3), torch.arange(3), tuple("abc"))
    assert 0.009 < result.best_temperature() < 0.1          # the smaller the better, down to where the loss is 0


def test_the_calibration_error_by_hand():
    confidence = torch.tensor([0.95, 0.95, 0.95, 0.65])
    result = Evaluation(torch.stack([confidence, 1 - confidence], dim=1).log(), torch.tensor([0, 0, 0, 1]), ("a", "b"))
    assert result.calibration_error(bins=10) == pytest.approx((3 * 0.05 + 0.65) / 4, abs=1e-6)


def test_pooled_features_are_what_the_head_reads():
    model = VisionTransformer(pool="mean", dropout=0.5, embed_dim=16, depth=1, mlp_dim=16)
    torch.nn.init.normal_(model.head.weight)
    tiles = Tiles(torch.randint(0, 256, (7, 3, 64, 64), dtype=torch.uint8), torch.zeros(7, dtype=torch.long))
    features = pooled_features(model, tiles, batch_size=3)
    assert features.shape == (7, 16) and model.training and not features.requires_grad
    assert torch.allclose(model.head(features), evaluate(model, tiles).logits, atol=1e-4)
    with pytest.raises(ValueError, match="the Tiles are empty"):
        pooled_features(model, tiles.select(torch.arange(0)))


def test_class_means_and_familiarity_by_hand():
    features, labels = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 0, 1])
    means = class_means(features, labels, 2)
    assert means.tolist() == [[2.0, 0.0], [0.0, 5.0]]
    assert familiarity(torch.tensor([[3.0, 4.0], [-1.0, 0.0], [9.0, 0.0]]), means).tolist() == pytest.approx([0.8, 0.0, 1.0])
    with pytest.raises(ValueError, match="class 2 has no features"):
        class_means(features, labels, 3)
