"""The detector: matching and losses against brute force and torchvision, average precision against COCO's own program."""

import io
from contextlib import redirect_stdout
from itertools import permutations

import pytest
import torch
from torch import nn
from torchvision.ops import box_iou, generalized_box_iou, generalized_box_iou_loss

from vit_helpers import GOOD, Tiles, VisionTransformer, learn, load_weights, normalize
from vit_helpers.heads import COCO, Detector, average_precision, detect, detection_loss, match, overlap, standing_on
from vit_helpers.scenes import objects
from vit_helpers.synthetic import synthetic_tiles

SMALL = dict(img_size=32, patch_size=8, num_classes=5, embed_dim=16, depth=2, num_heads=2, mlp_dim=32, dropout=0.0)


def small(queries=(2, 3), **changes):
    torch.manual_seed(0)
    return Detector(VisionTransformer(**{**SMALL, **changes}), queries)


def some_boxes(n, generator=None):
    """n boxes left, top, right, bottom from 0 to 1, none of them empty."""
    corners = torch.rand(n, 2, 2, generator=generator).sort(dim=1).values
    return torch.cat([corners[:, 0] * 0.9, corners[:, 1] * 0.9 + 0.1], dim=1)


def answers(scenes, queries, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(scenes, queries, classes + 1, generator=generator)
    return logits, some_boxes(scenes * queries, generator).reshape(scenes, queries, 4)


# The model

@pytest.mark.parametrize("options", [dict(), dict(pool="mean", positions="sincos"), dict(positions="none", stem="conv"),
                                     dict(img_size=(32, 48), in_channels=4)])
def test_answers_have_a_class_and_a_box_for_each_query(options):
    model = small(**options)
    height, width = model.encoder.img_size
    images = torch.randn(3, model.encoder.config["in_channels"], height, width)
    logits, boxes = model(images)
    assert logits.shape == (3, 6, 6) and boxes.shape == (3, 6, 4)
    both = model(images, patches=True)
    N = model.encoder.grid[0] * model.encoder.grid[1]
    assert torch.equal(both[0], logits) and torch.equal(both[1], boxes)
    assert both[2].shape == (3, N, 6) and both[3].shape == (3, N, 4)


def test_the_encoder_is_the_classifier_unchanged():
    classifier = VisionTransformer(**SMALL)
    model = small()
    assert type(model.encoder) is VisionTransformer
    model.encoder.load_state_dict(classifier.state_dict(), strict=True)
    assert not [name for name in model.state_dict() if name.startswith("encoder.")
                and name.removeprefix("encoder.") not in classifier.state_dict()]
    images = torch.randn(2, 3, 32, 32)
    model(images)
    assert torch.equal(model.encoder(images), classifier(images))            # and it still classifies


def test_queries_run_through_the_blocks_as_tokens_beside_the_patches():
    model = small()
    images = torch.randn(2, 3, 32, 32)
    x = torch.cat([model.encoder.embed(images), model.queries.expand(2, -1, -1)], dim=1)
    assert x.shape == (2, 1 + 16 + 6, 16)
    for block in model.encoder.blocks:
        x = block(x)
    tokens = model.encoder.norm(x)
    nn.init.normal_(model.label.weight)
    logits, _, of_patches, _ = model(images, patches=True)
    assert torch.allclose(logits, model.label(tokens[:, 17:]), atol=1e-6)
    assert torch.allclose(of_patches, model.label(tokens[:, 1:17]), atol=1e-6)       # one head for both, CLS is left out


def test_at_the_start_every_query_says_nothing_and_stands_at_its_place():
    logits, boxes = small((2, 4))(torch.randn(2, 3, 32, 32))
    assert (logits.argmax(dim=2) == 5).all()
    middle = (boxes[0, :, :2] + boxes[0, :, 2:]) / 2
    assert torch.allclose(middle[:, 0], torch.tensor([1, 3, 5, 7] * 2) / 8)
    assert torch.allclose(middle[:, 1], torch.tensor([1, 1, 1, 1, 3, 3, 3, 3]) / 4)
    assert ((boxes[..., 2:] - boxes[..., :2] - 0.25).abs() < 0.01).all()


def test_boxes_have_left_before_right_whatever_the_weights():
    model = small()
    nn.init.normal_(model.box[2].weight, std=10)
    boxes = model(torch.randn(8, 3, 32, 32))[1]
    assert (boxes[..., :2] <= boxes[..., 2:]).all() and boxes.isfinite().all()


def test_images_of_another_size_keep_the_queries():
    model = small(positions="sincos")
    names = set(model.state_dict())
    model.encoder.set_img_size((48, 64))
    logits, _, of_patches, at_patches = model(torch.randn(1, 3, 48, 64), patches=True)
    assert logits.shape == (1, 6, 6) and of_patches.shape == (1, 48, 6) and set(model.state_dict()) == names
    middle = (at_patches[0, :, :2] + at_patches[0, :, 2:]) / 2
    assert torch.allclose(middle, model.patch_middles, atol=1e-6)                    # untrained: at their own places


def test_a_grid_without_queries_is_refused():
    with pytest.raises(ValueError, match=r"queries=\(0, 4\) must be .* choose \(4, 4\)"):
        small((0, 4))


# Overlap, matching, loss

def test_overlap_by_counting_cells():
    a, b = torch.tensor([0, 0, 4, 4.0]) / 10, torch.tensor([2, 2, 6, 6.0]) / 10      # share 4 of 28 cells, 36 around both
    iou, giou = overlap(a, b)
    assert iou.item() == pytest.approx(4 / 28, abs=1e-6) and giou.item() == pytest.approx(4 / 28 - 8 / 36, abs=1e-6)
    iou, giou = overlap(a, torch.tensor([0.6, 0, 1, 0.4]))                           # apart: 32 of 40 cells are filled
    assert iou == 0 and giou.item() == pytest.approx(-8 / 40, abs=1e-6)
    assert [x.item() for x in overlap(a, a)] == [1, 1]


def test_overlap_equals_torchvision():
    a, b = some_boxes(50), some_boxes(40)
    iou, giou = overlap(a[:, None], b)
    assert torch.allclose(iou, box_iou(a, b), atol=1e-6) and torch.allclose(giou, generalized_box_iou(a, b), atol=1e-5)


def test_overlap_of_empty_boxes_is_a_number_with_a_gradient():
    point = torch.full((1, 4), 0.5, requires_grad=True)
    iou, giou = overlap(point, point.detach())
    (iou + giou).sum().backward()
    assert iou.isfinite().all() and giou.isfinite().all() and point.grad.isfinite().all()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("objects_, queries", [(4, 4), (3, 5), (1, 4)])
def test_matching_is_the_cheapest_of_all_permutations(objects_, queries, seed):
    logits, boxes = answers(1, queries, 3, seed)
    classes, true = torch.randint(3, (objects_,)), some_boxes(objects_)
    giou, sure = generalized_box_iou(boxes[0], true), logits[0].softmax(dim=1)

    def price(chosen):
        return sum(5 * (boxes[0, q] - true[o]).abs().sum() + 2 * (1 - giou[q, o]) - sure[q, classes[o]]
                   for o, q in enumerate(chosen)).item()

    best = min(permutations(range(queries), objects_), key=price)
    owner = match(logits[0], boxes[0], classes, true)
    assert owner.dtype == torch.int64 and owner.sort().values.tolist() == [-1] * (queries - objects_) + list(range(objects_))
    assert price([owner.tolist().index(o) for o in range(objects_)]) == pytest.approx(price(best), abs=1e-5)


def test_patches_that_stand_on_an_object():
    middles = Detector(VisionTransformer(**{**SMALL, "img_size": (16, 32)}), (1, 1)).patch_middles
    assert torch.allclose(middles[[0, 3, 4]], torch.tensor([[0.125, 0.25], [0.875, 0.25], [0.125, 0.75]]))
    boxes = torch.tensor([[0, 0, 0.5, 0.5], [0.625, 0, 1, 1.0]])                     # a middle on the left border is inside
    assert standing_on(middles, boxes).tolist() == [0, 0, 1, 1, -1, -1, 1, 1]
    assert standing_on(middles, boxes[:, [2, 1, 2, 3]]).tolist() == [-1] * 8
    assert standing_on(middles, boxes[:0]).tolist() == [-1] * 8


def test_loss_equals_one_written_scene_by_scene_with_torchvision():
    logits, boxes = answers(4, 5, 3)
    classes, true = [torch.randint(3, (k,)) for k in (2, 0, 5, 1)], [some_boxes(k) for k in (2, 0, 5, 1)]
    named, weights, off = 0.0, 0.0, 0.0
    for i in range(4):
        owner = match(logits[i], boxes[i], classes[i], true[i]).tolist()
        q = torch.tensor([owner.index(o) for o in range(len(true[i]))], dtype=torch.int64)
        target = torch.full((5,), 3)
        target[q] = classes[i]
        weight = torch.where(target == 3, 0.2, 1.0)
        named += (weight * nn.functional.cross_entropy(logits[i], target, reduction="none")).sum()
        weights += weight.sum()
        off += 5 * (boxes[i, q] - true[i]).abs().sum() + 2 * generalized_box_iou_loss(boxes[i, q], true[i], reduction="sum")
    assert torch.allclose(detection_loss(logits, boxes, classes, true, nothing=0.2), named / weights + off / 8, atol=1e-5)


def test_loss_does_not_depend_on_the_order_of_objects_or_queries():
    logits, boxes = answers(1, 6, 3)
    classes, true = torch.tensor([0, 1, 2]), some_boxes(3)
    loss = detection_loss(logits, boxes, [classes], [true])
    order, turned = torch.tensor([2, 0, 1]), torch.randperm(6)
    assert torch.allclose(detection_loss(logits[:, turned], boxes[:, turned], [classes[order]], [true[order]]), loss, atol=1e-6)


def test_loss_with_given_owners_counts_each_answer_for_its_object():
    logits, boxes = answers(2, 4, 3)
    classes, true = [torch.tensor([2, 0]), torch.tensor([1])], [some_boxes(2), some_boxes(1)]
    owners = [torch.tensor([1, 1, -1, 0]), torch.tensor([-1, -1, 0, -1])]            # object 1 of scene 0 has two answers
    loss = detection_loss(logits, boxes, classes, true, owners, nothing=0.5)
    target = torch.tensor([[0, 0, 3, 2], [3, 3, 1, 3]])
    named = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), torch.tensor([1, 1, 1, 0.5]))
    placed, wanted = boxes[[0, 0, 0, 1], [0, 1, 3, 2]], torch.stack([true[0][1], true[0][1], true[0][0], true[1][0]])
    off = 5 * (placed - wanted).abs().sum() + 2 * generalized_box_iou_loss(placed, wanted, reduction="sum")
    assert torch.allclose(loss, named + off / 4, atol=1e-5)


def test_right_answers_cost_next_to_nothing():
    true, classes = some_boxes(2), torch.tensor([1, 0])
    logits = torch.full((1, 3, 4), -20.0)
    logits[0, torch.arange(3), torch.tensor([0, 3, 1])] = 20                         # query 1: nothing
    boxes = torch.stack([true[1], torch.rand(4), true[0]])[None]
    assert detection_loss(logits, boxes, [classes], [true]).item() == pytest.approx(0, abs=1e-5)
    assert match(logits[0], boxes[0], classes, true).tolist() == [1, -1, 0]


def test_scenes_without_objects_teach_to_say_nothing():
    model = small()
    logits, boxes = model(torch.randn(2, 3, 32, 32))
    loss = detection_loss(logits, boxes, [torch.zeros(0, dtype=torch.int64)] * 2, [torch.zeros(0, 4)] * 2)
    loss.backward()
    assert loss.isfinite() and model.label.bias.grad[5] < 0 < model.label.bias.grad[0]       # "nothing" is to grow
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert [len(part) for part in detect(model, image, least=0.99)[0]] == [0, 0, 0]


@pytest.mark.parametrize("classes, boxes, message", [
    ([[0]], [1], "2 scenes need as many lists of classes and of boxes, not 1 and 1"),
    ([[0], [0, 1]], [1, 1], r"scene 1 has 2 classes, so its boxes must be \(2, 4\), not \(1, 4\)"),
    ([[0], [0] * 5], [1, 5], "scene 1 has 5 objects, more than the 4 queries; choose a Detector with at least 5 queries"),
    ([[0], [3]], [1, 1], "classes must be 0 to 2, not 0 to 3"),
    ([[-1], [0]], [1, 1], "classes must be 0 to 2, not -1 to 0"),
])
def test_truths_that_do_not_fit_are_refused(classes, boxes, message):
    logits, predicted = answers(2, 4, 3)
    with pytest.raises(ValueError, match=message):
        detection_loss(logits, predicted, [torch.tensor(c) for c in classes], [some_boxes(n) for n in boxes])


@pytest.mark.parametrize("box", [[0.5, 0.1, 0.2, 0.3], [0, 0, 48, 48], [-0.1, 0, 1, 1], [0.1, 0.1, float("nan"), 0.5]])
def test_boxes_that_are_none_are_refused(box):
    logits, predicted = answers(1, 4, 3)
    with pytest.raises(ValueError, match="from 0 to 1, with left < right"):
        detection_loss(logits, predicted, [torch.tensor([0])], [torch.tensor([box])])


def test_bfloat16_answers_give_a_float32_loss_with_gradients():
    model = small()
    nn.init.normal_(model.label.weight)
    with torch.autocast("cpu", torch.bfloat16):
        logits, boxes = model(torch.randn(2, 3, 32, 32))
        loss = detection_loss(logits, boxes, [torch.tensor([1]), torch.tensor([0, 2])], [some_boxes(1), some_boxes(2)])
    loss.backward()
    assert logits.dtype == boxes.dtype == loss.dtype == torch.float32 and model.queries.grad.abs().sum() > 0


def test_a_few_scenes_are_learned_by_heart():
    tiles = Tiles(*synthetic_tiles(100))
    generator = torch.Generator().manual_seed(0)
    images, boxes, classes = objects(tiles, 4, size=32, counts=(1, 2), sides=(10, 16), generator=generator)
    model = small(num_classes=10, embed_dim=32, positions="sincos")
    losses = learn(model, lambda model, _: detection_loss(*model(normalize(images)), classes, boxes), steps=150, recipe=GOOD)
    assert losses[-1] < 0.25 * losses[0]
    found = detect(model, images)
    assert average_precision(found, list(zip(boxes, classes, strict=True)), 10)[0] > 0.9


# Finding

def test_detect_gives_the_surest_first_and_leaves_out_the_unsure():
    model = small()
    for layer in (model.label, model.box[2]):
        nn.init.normal_(layer.weight)
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    found = detect(model, images, batch=2)
    logits, boxes = model.eval()(normalize(images))
    probability = logits.softmax(dim=2)[..., :5]
    assert len(found) == 5
    for i, (box, kind, score) in enumerate(found):
        assert box.shape == (6, 4) and kind.shape == score.shape == (6,) and (score.diff() <= 0).all()
        query = probability[i].amax(dim=1).argsort(descending=True)
        assert torch.allclose(score, probability[i].amax(dim=1)[query], atol=1e-5)
        assert torch.equal(kind, probability[i].argmax(dim=1)[query])
        assert torch.allclose(box, boxes[i, query].clamp(0, 1), atol=1e-5)
    fewer = detect(model, images, least=0.5)
    assert all((score >= 0.5).all() and len(score) == (whole[2] >= 0.5).sum()
               for (_, _, score), whole in zip(fewer, found, strict=True))


def test_detect_leaves_the_mode_of_the_model_and_takes_no_images():
    model = small().train()
    assert detect(model, torch.zeros(0, 3, 32, 32, dtype=torch.uint8)) == [] and model.training


# Average precision

def random_case(seed, images=12, classes=4, near=True):
    """Truths, and detections of which some lie near a true box, with scores that repeat."""
    generator = torch.Generator().manual_seed(seed)
    detections, truths = [], []
    for _ in range(images):
        k, m = torch.randint(0, 7, (2,), generator=generator).tolist()
        true, kinds = some_boxes(k, generator), torch.randint(classes, (k,), generator=generator)
        boxes, found = some_boxes(m, generator), torch.randint(classes, (m,), generator=generator)
        if near and k:
            who = torch.randint(k, (2 * k,), generator=generator)
            moved = true[who] + 0.05 * torch.rand(2 * k, 4, generator=generator) * (true[who, 2:] - true[who, :2]).repeat(1, 2)
            boxes, found = torch.cat([boxes, moved]), torch.cat([found, kinds[who]])
        detections.append((boxes, found, (10 * torch.rand(len(boxes), generator=generator)).round() / 10))
        truths.append((true, kinds))
    return detections, truths


def coco_says(detections, truths, classes):
    """AP at each threshold, by pycocotools."""
    coco, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    size = [0, 0, 1, 1]

    def as_coco(box):
        left, top, right, bottom = box.double().tolist()
        return [left, top, right - left, bottom - top]

    gold, found = [], []
    for image, ((boxes, kinds, scores), (true, true_kinds)) in enumerate(zip(detections, truths, strict=True), 1):
        for box, kind in zip(true, true_kinds.tolist(), strict=True):
            b = as_coco(box)
            gold.append(dict(id=len(gold) + 1, image_id=image, category_id=kind, bbox=b, area=b[2] * b[3], iscrowd=0))
        found += [dict(image_id=image, category_id=kind, bbox=as_coco(box), score=score)
                  for box, kind, score in zip(boxes, kinds.tolist(), scores.tolist(), strict=True)]
    with redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = dict(images=[dict(id=i, width=size[2], height=size[3]) for i in range(1, len(truths) + 1)],
                             annotations=gold, categories=[dict(id=c, name=str(c)) for c in range(classes)], info={})
        truth.createIndex()
        run = evaluation.COCOeval(truth, truth.loadRes(found), "bbox")
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, 2]                                 # (T, 101, K), all areas, 100 an image
    return torch.stack([torch.tensor(p[p > -1].mean()) for p in precision])


@pytest.mark.parametrize("seed", range(8))
def test_average_precision_equals_pycocotools(seed):
    detections, truths = random_case(seed, near=seed > 0)
    ours, theirs = average_precision(detections, truths, 4), coco_says(detections, truths, 4)
    assert torch.allclose(ours, theirs, atol=1e-6), (ours, theirs)


def test_average_precision_equals_pycocotools_beyond_100_detections_of_an_image():
    generator = torch.Generator().manual_seed(0)
    true = some_boxes(5, generator)
    boxes = true.repeat(60, 1) + 0.01 * torch.rand(300, 4, generator=generator)
    detections = [(boxes, torch.zeros(300, dtype=torch.int64), torch.rand(300, generator=generator))]
    truths = [(true, torch.zeros(5, dtype=torch.int64))]
    assert torch.allclose(average_precision(detections, truths, 2), coco_says(detections, truths, 2), atol=1e-6)


def test_average_precision_by_hand():
    """Two objects; three detections, the first and the last right: precision 1 up to recall 1/2, 2/3 up to recall 1."""
    true = torch.tensor([[0, 0, 0.2, 0.2], [0.5, 0.5, 0.9, 0.9]])
    boxes = torch.tensor([[0, 0, 0.2, 0.2], [0.3, 0.0, 0.5, 0.2], [0.5, 0.5, 0.9, 0.9]])
    zeros = torch.zeros(3, dtype=torch.int64)
    detections, truths = [(boxes, zeros, torch.tensor([0.9, 0.8, 0.7]))], [(true, zeros[:2])]
    assert average_precision(detections, truths, 1, (0.5,)).item() == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_a_second_detection_of_the_same_object_is_wrong():
    true, zero = torch.tensor([[0, 0, 0.5, 0.5]]), torch.zeros(1, dtype=torch.int64)
    other = (torch.tensor([[0.6, 0.6, 0.9, 0.9]]), zero)
    twice = (true.repeat(2, 1), torch.zeros(2, dtype=torch.int64), torch.tensor([0.9, 0.8]))
    late = (other[0], zero, torch.tensor([0.7]))
    assert average_precision([twice, late], [(true, zero), other], 1, (0.5,)).item() == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_average_precision_at_the_ends():
    _, truths = random_case(1)
    perfect = [(boxes, classes, torch.ones(len(classes))) for boxes, classes in truths]
    assert torch.allclose(average_precision(perfect, truths, 4), torch.ones(10, dtype=torch.float64))
    none = [(boxes[:0], classes[:0], torch.zeros(0)) for boxes, classes in truths]
    assert (average_precision(none, truths, 4) == 0).all() and len(COCO) == 10
    empty = [(boxes[:0], classes[:0]) for boxes, classes in truths]
    assert average_precision(perfect, empty, 4).isnan().all()                        # nothing to find: no measure
    with pytest.raises(ValueError, match="12 scenes need as many lists"):
        average_precision(perfect, truths[:3], 4)


def test_weights_of_a_trained_classifier_fit():
    model = small(positions="sincos", pool="mean")
    load_weights(model.encoder, VisionTransformer(**{**SMALL, "positions": "sincos", "pool": "mean"}).state_dict())
