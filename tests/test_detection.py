"""The detector against brute force and torchvision, average precision against pycocotools."""

import io
from contextlib import redirect_stdout
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import generalized_box_iou, generalized_box_iou_loss

from vit_helpers import Tiles, VisionTransformer, learn, normalize
from vit_helpers.heads import COCO, Detector, average_precision, detect, detection_loss, match, object_at
from vit_helpers.scenes import objects
from vit_helpers.synthetic import synthetic_tiles

SMALL = dict(img_size=32, patch_size=8, num_classes=5, embed_dim=16, depth=2, num_heads=2, mlp_dim=32)


def small(queries=(2, 3), **changes):
    torch.manual_seed(0)
    return Detector(VisionTransformer(**{**SMALL, **changes}), queries).eval()


def some_boxes(n, generator=None):
    """n boxes left, top, right, bottom from 0 to 1, none of them empty."""
    corners = torch.rand(n, 2, 2, generator=generator).sort(dim=1).values
    return torch.cat([corners[:, 0] * 0.9, corners[:, 1] * 0.9 + 0.1], dim=1)


def answers(scenes, queries, seed=0):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(scenes, queries, 4, generator=random)               # three classes, and "nothing"
    return logits, some_boxes(scenes * queries, random).reshape(scenes, queries, 4)


@pytest.mark.parametrize("options", [
    dict(pool="mean", positions="sincos"), dict(positions="none", stem="conv"), dict(img_size=(32, 48))])
def test_there_is_a_class_and_a_box_for_each_query_and_each_patch(options):
    model = small(**options)
    for size in (model.encoder.img_size, (48, 64)):
        model.encoder.set_img_size(size)
        images, N = torch.randn(3, 3, *size), len(model.patch_middles)
        both = model(images, patches=True)
        assert [part.shape for part in both] == [(3, 6, 6), (3, 6, 4), (3, N, 6), (3, N, 4)]
        torch.testing.assert_close(model(images), both[:2])
        torch.testing.assert_close((both[3][0, :, :2] + both[3][0, :, 2:]) / 2, model.patch_middles)


def test_queries_run_through_the_unchanged_encoder_as_tokens_beside_the_patches():
    model, classifier, images = small(), VisionTransformer(**SMALL).eval(), torch.randn(2, 3, 32, 32)
    model.encoder.load_state_dict(classifier.state_dict())
    x = torch.cat([classifier.embed(images), model.queries.expand(2, -1, -1)], dim=1)
    tokens = classifier.norm(nn.Sequential(*classifier.blocks)(x))
    nn.init.normal_(model.label.weight)
    logits, _, of_patches, _ = model(images, patches=True)
    torch.testing.assert_close(logits, model.label(tokens[:, 17:]))
    torch.testing.assert_close(of_patches, model.label(tokens[:, 1:17]))             # CLS is left out


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("k", "queries"), [(4, 4), (3, 5), (1, 4), (0, 2)])
def test_matching_is_the_cheapest_of_all_permutations(k, queries, seed):
    (logits,), (boxes,) = answers(1, queries, seed)
    boxes = 0.9 * boxes[:1] + 0.1 * boxes                    # so near to each other that the class counts too
    classes, true = torch.randint(3, (k,)), some_boxes(k)
    giou, sure = generalized_box_iou(boxes, true), logits.softmax(dim=1)

    def price(chosen):
        return sum(5 * (boxes[q] - true[o]).abs().sum() + 2 * (1 - giou[q, o]) - sure[q, classes[o]]
                   for o, q in enumerate(chosen))

    owner = match(logits, boxes, classes, true).tolist()
    assert sorted(owner) == [-1] * (queries - k) + list(range(k))
    best = min(map(price, permutations(range(queries), k)))
    assert abs(price([owner.index(o) for o in range(k)]) - best) < 1e-5


def test_points_on_objects():
    middles = small(img_size=(16, 32)).patch_middles
    assert middles[[0, 3, 4]].tolist() == [[0.125, 0.25], [0.875, 0.25], [0.125, 0.75]]
    boxes = torch.tensor([[0, 0, 0.375, 0.5], [0.625, 0, 1, 1.0]])  # left borders are inside, right ones not
    assert object_at(middles, boxes).tolist() == [0, -1, 1, 1, -1, -1, 1, 1]
    assert object_at(middles, boxes[:0]).tolist() == [-1] * 8


@pytest.mark.parametrize(("counts", "given"), [((2, 0, 5, 1), False), ((2, 0, 5, 1), True), ([0] * 4, False)])
def test_the_loss_equals_one_written_scene_by_scene_with_torchvision(counts, given):
    logits, boxes = answers(4, 5)
    classes, true = [torch.randint(3, (k,)) for k in counts], [some_boxes(k) for k in counts]
    owners = [match(*scene) for scene in zip(logits, boxes, classes, true, strict=True)]
    if given:                                                # an object may then have several answers
        owners[0], owners[3] = torch.tensor([1, 1, -1, 0, -1]), torch.tensor([0] * 5)
    targets, off = [], []
    for some, kinds, wanted, owner in zip(boxes, classes, true, owners, strict=True):
        for box, o in zip(some, owner.tolist(), strict=True):
            targets.append(3 if o < 0 else kinds[o].item())
            if o >= 0:
                off.append(5 * (box - wanted[o]).abs().sum() + 2 * generalized_box_iou_loss(box, wanted[o]))
    named = F.cross_entropy(logits.flatten(0, 1), torch.tensor(targets), torch.tensor([1, 1, 1, 0.2]))
    loss = detection_loss(logits, boxes, classes, true, owners if given else None, nothing=0.2)
    torch.testing.assert_close(loss, named + sum(off) / max(1, len(off)))


@pytest.mark.parametrize(("classes", "boxes", "message"), [
    ([3], [[0, 0, 1, 1]], "0 to 2"), ([-1], [[0, 0, 1, 1]], "0 to 2"),
    ([0], [[0, 0, 48, 48]], "divide pixels"), ([0], [[0.5, 0, 0, 1]], "left < right")])
def test_impossible_truths_are_refused(classes, boxes, message):
    with pytest.raises(ValueError, match=message):
        detection_loss(*answers(1, 4), [torch.tensor(classes)], [torch.tensor(boxes)])


def test_a_few_scenes_are_learned_by_heart(full):
    tiles, random = Tiles(*synthetic_tiles(100)), torch.Generator().manual_seed(0)
    images, boxes, classes = objects(tiles, 4, size=32, counts=(1, 2), sides=(10, 16), generator=random)
    model = small(num_classes=10, embed_dim=32, positions="sincos", dropout=0.0)
    learn(model, lambda model, _: detection_loss(*model(normalize(images)), classes, boxes), steps=150)
    assert average_precision(detect(model, images), list(zip(boxes, classes, strict=True)), 10)[0] > 0.9


def test_detect_gives_the_surest_first_and_leaves_out_the_unsure():
    model, images = small().train(), torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    for layer in (model.label, model.box[2]):
        nn.init.normal_(layer.weight)
    found = detect(model, images, batch=2)
    assert model.training and len(found) == 5 and detect(model, images[:0]) == []
    logits, boxes = model.eval()(normalize(images))
    scores, kinds = logits.softmax(dim=2)[..., :5].max(dim=2)                # "nothing" is no finding
    for i, answer in enumerate(found):
        order = scores[i].argsort(descending=True)
        torch.testing.assert_close(answer, (boxes[i, order].clamp(0, 1), kinds[i, order], scores[i, order]))
    for (*_, some), (*_, score) in zip(detect(model, images, least=0.5), found, strict=True):
        assert torch.equal(some, score[score >= 0.5])


def random_case(seed, copies=2):
    """Truths of 12 images, and detections, some near a true box, with scores that repeat."""
    random, detections, truths = torch.Generator().manual_seed(seed), [], []
    for _ in range(12):
        k, m = torch.randint(0, 7, (2,), generator=random).tolist()
        true, kinds = some_boxes(k, random), torch.randint(4, (k,), generator=random)
        near = true.repeat(copies, 1) + 0.03 * torch.rand(copies * k, 4, generator=random)
        found = torch.cat([kinds.repeat(copies), torch.randint(4, (m,), generator=random)])
        scores = torch.randint(11, (copies * k + m,), generator=random) / 10
        detections.append((torch.cat([near, some_boxes(m, random)]), found, scores))
        truths.append((true, kinds))
    return detections, truths


def coco_says(detections, truths):
    """AP at each threshold, by pycocotools."""
    coco, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")

    def entries(images):
        rows = [(i, *row) for i, parts in enumerate(images, 1) for row in zip(*parts, strict=True)]
        return [dict(id=n, image_id=i, category_id=int(kind), area=1.0, iscrowd=0, score=float(*score or [1]),
                     bbox=[*box[:2].tolist(), *(box[2:].double() - box[:2].double()).tolist()])
                for n, (i, box, kind, *score) in enumerate(rows, 1)]

    images, categories = [dict(id=i + 1) for i in range(len(truths))], [dict(id=c) for c in range(4)]
    with redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = dict(images=images, categories=categories, annotations=entries(truths), info={})
        truth.createIndex()
        run = evaluation.COCOeval(truth, truth.loadRes(entries(detections)), "bbox")
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, 2]         # (T, 101, K), all areas, 100 an image
    return torch.stack([torch.tensor(p[p > -1].mean()) for p in precision])


@pytest.mark.parametrize(("seed", "copies"), [(0, 2), (1, 2), (2, 2), (3, 100)])
def test_average_precision_equals_pycocotools(seed, copies):
    detections, truths = random_case(seed, copies)
    torch.testing.assert_close(average_precision(detections, truths, 4), coco_says(detections, truths))


def test_average_precision_without_objects_is_no_number():
    found, truths = random_case(1)
    nobody = [[part[:0] for part in image] for image in truths]
    assert average_precision(found, nobody, 4).isnan().all() and len(COCO) == 10
