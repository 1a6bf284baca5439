"""The segmenter, its loss and its measure, and maps of large pictures."""

from itertools import product

import pytest
import torch

from vit_helpers import VisionTransformer, land_use_map, normalize
from vit_helpers.heads import Segmenter, segment, segmentation_loss


def small(img_size=(16, 24), **other):
    torch.manual_seed(0)
    sizes = dict(embed_dim=16, depth=1, num_heads=2, mlp_dim=16, dropout=0.0)
    return VisionTransformer(img_size, 8, **{**sizes, **other})


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_encoder_is_unchanged_and_each_token_paints_around_its_patch(pool):
    model, classifier = Segmenter(small(pool=pool), num_classes=4), small(pool=pool)
    model.encoder.load_state_dict(classifier.state_dict())
    images = torch.randn(1, 3, 16, 24)
    tokens = classifier.forward_features(images)[:, -6:]                     # six patches, without CLS
    logits = model(images)
    assert logits.shape == (1, 4, 16, 24)
    own = model.coarse(tokens)[0].T.unflatten(1, (2, 3))                     # (K, rows, columns)
    torch.testing.assert_close(logits[0, :, ::15, ::23], own[:, :, ::2])     # corners have no neighbors


def test_the_painting_head_puts_each_pixel_in_its_place():
    model = Segmenter(small(), num_classes=4, decoder="pixels")
    images = torch.randn(2, 3, 16, 24)
    linear = model(images)                                                   # at the start it adds nothing
    torch.nn.init.normal_(model.fine[2].weight)
    own = model.fine(model.encoder.forward_features(images)[:, 1:]).reshape(2, 6, 4, 8, 8)
    added = model(images) - linear
    for n in range(6):
        top, left = 8 * (n // 3), 8 * (n % 3)
        torch.testing.assert_close(added[:, :, top:top + 8, left:left + 8], own[:, n], atol=1e-5, rtol=1e-5)
    with pytest.raises(AssertionError, match="'nearest' is unknown"):
        Segmenter(small(), decoder="nearest")


def test_the_loss_takes_masks_of_bytes_which_stay_where_they_are():
    logits, masks = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    assert segmentation_loss(logits, masks.to(torch.uint8)) == segmentation_loss(logits, masks)
    assert segmentation_loss(logits.to("meta"), masks).device.type == "meta"     # any device, masks stay here


def test_segment_works_in_batches_and_in_eval_mode():
    model = Segmenter(small(dropout=0.5), num_classes=3).train()
    images = torch.randint(256, (5, 3, 16, 24), dtype=torch.uint8)
    masks = segment(model, images, batch_size=2)
    assert masks.dtype == torch.int64 and model.training
    assert torch.equal(masks, model.eval()(normalize(images)).argmax(dim=1))


@pytest.mark.parametrize(("dense", "stride"), [(True, 5), (True, 16), (False, 7)])
def test_a_land_use_map_is_the_mean_over_the_windows_that_see_a_pixel(full, dense, stride):
    model = Segmenter(small(16), 3, "pixels").eval() if dense else small(16, num_classes=3).eval()
    torch.nn.init.normal_(model.fine[2].weight if dense else model.head.weight)
    picture, total, seen = torch.randint(256, (3, 23, 36), dtype=torch.uint8), torch.zeros(3, 23, 36), 0
    for top, left in product({*range(0, 7, stride), 7}, {*range(0, 20, stride), 20}):
        window = torch.zeros(23, 36)
        window[top:top + 16, left:left + 16] = 1
        said = model(normalize(picture[None, :, top:top + 16, left:left + 16])).softmax(dim=1).detach()
        total[:, window == 1] += said.reshape(3, -1)
        seen = seen + window
    torch.testing.assert_close(land_use_map(model, picture, stride, batch_size=5), total / seen)
