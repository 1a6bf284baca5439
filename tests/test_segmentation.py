"""The segmenter, its loss, its measure, and maps of large scenes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from vit_helpers import EncoderBlock, VisionTransformer, land_use_map, normalize
from vit_helpers.evaluation import confusion_counts
from vit_helpers.heads import Segmenter, intersection_over_union, segment, segmentation_loss


def small(**other):
    return VisionTransformer(**{"img_size": (16, 24), "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2,
                                "mlp_dim": 16, "dropout": 0.0, **other})


@pytest.mark.parametrize("decoder", ["linear", "pixels"])
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_one_row_of_logits_for_each_pixel(decoder, pool):
    model = Segmenter(small(pool=pool), num_classes=5, decoder=decoder)
    assert model(torch.randn(2, 3, 16, 24)).shape == (2, 5, 16, 24)


def test_the_encoder_is_the_class_of_lesson_07_unchanged():
    classifier = small()
    model = Segmenter(small())
    assert type(model.encoder) is VisionTransformer and all(type(block) is EncoderBlock for block in model.encoder.blocks)
    model.encoder.load_state_dict(classifier.state_dict(), strict=True)
    images = torch.randn(2, 3, 16, 24)
    assert torch.equal(model.encoder(images), classifier(images))


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_linear_head_answers_for_the_right_patch(pool):
    model = Segmenter(small(pool=pool), num_classes=4, decoder="linear")
    images = torch.randn(1, 3, 16, 24)
    tokens = model.encoder.forward_features(images)[0, -6:]                  # six patches, without CLS
    logits = model(images)[0]
    for row in range(2):
        for column in range(3):
            middle = logits[:, row * 8 + 3:row * 8 + 5, column * 8 + 3:column * 8 + 5].mean(dim=(1, 2))
            nearest = [model.coarse(tokens[3 * r + c]) for r in range(2) for c in range(3)]
            own = nearest[3 * row + column]
            far = max((middle - other).abs().max() for other in nearest)
            assert (middle - own).abs().max() < far                          # bilinear: mostly its own token, near its center


def test_the_painting_head_puts_each_pixel_in_its_place():
    model = Segmenter(small(), num_classes=4, decoder="pixels")
    images = torch.randn(2, 3, 16, 24)
    linear = model(images)                                                   # at the start it adds nothing
    torch.nn.init.normal_(model.fine[2].weight)
    tokens = model.encoder.forward_features(images)[:, 1:]
    logits = model(images)
    for n in range(6):
        row, column = n // 3, n % 3
        own = model.fine(tokens[:, n]).reshape(2, 4, 8, 8)
        here = (slice(None), slice(None), slice(row * 8, row * 8 + 8), slice(column * 8, column * 8 + 8))
        torch.testing.assert_close(logits[here] - linear[here], own, atol=1e-5, rtol=1e-5)


def test_an_unknown_decoder_is_refused():
    with pytest.raises(ValueError, match="'nearest' is unknown; choose 'linear' or 'pixels'"):
        Segmenter(small(), decoder="nearest")


def test_the_loss_is_the_mean_over_pixels():
    logits, masks = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    by_hand = -torch.stack([logits[b, :, r, c].log_softmax(0)[masks[b, r, c]] for b in range(2) for r in range(4)
                            for c in range(5)]).mean()
    torch.testing.assert_close(segmentation_loss(logits, masks), by_hand)


@pytest.mark.parametrize(("masks", "message"), [
    (torch.zeros(2, 2, 5, dtype=torch.long), r"masks of \(2, 4, 5\), not \(2, 2, 5\)"),
    (torch.zeros(1, 4, 5, dtype=torch.long), "not"),
    (torch.full((2, 4, 5), 3), "classes 3 to 3"), (torch.full((2, 4, 5), -1), "classes -1 to -1")])
def test_masks_that_do_not_fit_are_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        segmentation_loss(torch.randn(2, 3, 4, 5), masks)


def test_a_few_steps_teach_it():
    torch.manual_seed(0)
    model, images = Segmenter(small(), num_classes=2, decoder="pixels"), torch.randn(8, 3, 16, 24)
    masks = (images[:, 0] > 0).long()                                        # a rule that each token can learn by itself
    optimizer, losses = torch.optim.Adam(model.parameters(), 3e-3), []
    for _ in range(60):
        losses.append(segmentation_loss(model(images), masks))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_segment_works_in_batches_and_in_eval_mode():
    model = Segmenter(small(dropout=0.5), num_classes=3).train()
    images = torch.randint(256, (5, 3, 16, 24), dtype=torch.uint8)
    masks = segment(model, images, batch_size=2)
    assert masks.dtype == torch.int64 and masks.shape == (5, 16, 24) and model.training
    with torch.no_grad():
        torch.testing.assert_close(masks, model.eval()(normalize(images)).argmax(dim=1))
    with pytest.raises(ValueError, match="no images"):
        segment(model, images[:0])


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_iou_equals_counting_pixels(seed, K):
    random = torch.Generator().manual_seed(seed)
    truth, said = torch.randint(K, (2, 3, 6, 5), generator=random)
    iou = intersection_over_union(confusion_counts(truth, said, K + 1))
    for c in range(K + 1):
        a = {i for i, v in enumerate(truth.flatten().tolist()) if v == c}
        b = {i for i, v in enumerate(said.flatten().tolist()) if v == c}
        if a | b:
            assert iou[c].item() == pytest.approx(len(a & b) / len(a | b))
        else:
            assert iou[c].isnan()


def test_confusion_counts_rows_are_the_truth():
    counts = confusion_counts(torch.tensor([[0, 0], [1, 2]]), torch.tensor([[0, 2], [2, 2]]), 3)
    assert counts.tolist() == [[1, 0, 1], [0, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize(("labels", "predictions", "message"), [
    (torch.zeros(3, dtype=torch.long), torch.zeros(2, dtype=torch.long), "one prediction for each label"),
    (torch.tensor([3]), torch.tensor([0]), "labels run from 3"), (torch.tensor([0]), torch.tensor([-1]), "predictions run")])
def test_confusion_counts_refuses_what_does_not_fit(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        confusion_counts(labels, predictions, 3)


class ByColor(torch.nn.Module):
    """A classifier whose class is the brighter half of what it sees: red or green. It counts what it is shown."""

    def __init__(self, img_size=(4, 4), dense=False):
        super().__init__()
        self.img_size, self.dense, self.shown = img_size, dense, 0
        self.scale = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, images):
        self.shown += len(images)
        return self.scale * (images[:, :2] if self.dense else images[:, :2].mean(dim=(2, 3)))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("shape", "stride"), [((4, 4), 2), ((7, 10), 3), ((8, 11), 3), ((8, 8), 4), ((9, 5), 1)])
def test_a_map_is_the_mean_over_the_windows_that_see_a_pixel(shape, stride, dense):
    picture = torch.randint(256, (3, *shape), dtype=torch.uint8)
    model = ByColor(dense=dense)
    painted = land_use_map(model, picture, stride, batch_size=5)
    assert painted.shape == (2, *shape)
    torch.testing.assert_close(painted.sum(dim=0), torch.ones(shape))
    starts = [sorted({*range(0, n - 4, stride), n - 4}) for n in shape]
    assert model.shown == len(starts[0]) * len(starts[1])
    for r in range(shape[0]):
        for c in range(shape[1]):
            said = []
            for top in starts[0]:
                for left in starts[1]:
                    if top <= r < top + 4 and left <= c < left + 4:
                        answer = model(normalize(picture[None, :, top:top + 4, left:left + 4])).softmax(dim=1)[0]
                        said.append(answer[:, r - top, c - left] if dense else answer)
            torch.testing.assert_close(painted[:, r, c], torch.stack(said).mean(dim=0).detach())


def test_a_segmenter_slides_too():
    model = Segmenter(small(img_size=16), num_classes=3, decoder="pixels")
    picture = torch.randint(256, (3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(land_use_map(model, picture), F.softmax(model(normalize(picture[None])), dim=1)[0])


@pytest.mark.parametrize(("picture", "stride", "message"), [
    (torch.zeros(3, 3, 9, dtype=torch.uint8), 2, "at least 4 x 4 pixels"),
    (torch.zeros(1, 3, 9, 9, dtype=torch.uint8), 2, r"not \(1, 3, 9, 9\)"),
    (torch.zeros(3, 9, 9, dtype=torch.uint8), 5, "stride=5"), (torch.zeros(3, 9, 9, dtype=torch.uint8), 0, "stride=0")])
def test_maps_refuse_what_cannot_be_painted(picture, stride, message):
    with pytest.raises(ValueError, match=message):
        land_use_map(ByColor(), picture, stride)
