"""Tiles on a disk: packed from folders and archives, the same training as in memory, and twenty gigabytes in little memory."""

import io
import os
import pickle
import stat
import sys
import zipfile

import numpy as np
import pytest
import torch
from beyond_memory import in_a_process_of_its_own
from PIL import Image

import vit_helpers.stored as module
from vit_helpers import GOOD, StoredTiles, Tiles, VisionTransformer, batches, evaluate, fit, normalize, pack
from vit_helpers.synthetic import synthetic_tiles


@pytest.fixture(scope="module")
def tiles():
    return Tiles(*synthetic_tiles(60), source="synthetic")


@pytest.fixture(scope="module")
def tree(tiles, tmp_path_factory):
    """The tiles as PNG files, in folders of their classes, with files beside them that are no pictures."""
    root = tmp_path_factory.mktemp("tree")
    for i, (image, label) in enumerate(zip(tiles.images, tiles.labels, strict=True)):
        path = root / "deep" / tiles.classes[label] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    (root / "deep" / "notes.txt").write_text("no picture", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def archive(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "tiles.zip"
    with zipfile.ZipFile(path, "w") as file:
        for member in sorted(tree.rglob("*")):
            file.write(member, member.relative_to(tree).as_posix())
    return path


@pytest.fixture
def small_files(monkeypatch):
    """Seven tiles in a file, two files open at a time."""
    monkeypatch.setattr(module, "SHARD", 7 * 3 * 64 * 64 + 5)
    monkeypatch.setattr(module, "OPEN", 2)


def everything(stored):
    """All its tiles, as a set of (label, bytes)."""
    return {(label, image.numpy().tobytes())
            for image, label in zip(stored.images_at(torch.arange(len(stored))), stored.labels.tolist(), strict=True)}


@pytest.mark.parametrize("source", ["tree", "archive"])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_tile_is_there_with_its_label(source, workers, tiles, request, small_files, tmp_path):
    stored = pack(request.getfixturevalue(source), tmp_path / "packed", workers=workers)
    assert stored.classes == tuple(sorted(tiles.classes)) == tiles.classes
    assert everything(stored) == {(label, image.numpy().tobytes())
                                  for image, label in zip(tiles.images, tiles.labels.tolist(), strict=True)}
    image, label = stored[3]
    assert label == stored.labels[3] and image.equal(normalize(stored.images_at(torch.tensor([3])))[0])
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == [
        "labels.npy", *(f"tiles-{i:05}.npy" for i in range(9)), "tiles.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]
    assert "60 tiles" in repr(stored)
    # Thrown into the files at random: the first file does not hold the first class only.
    assert len(set(stored.labels[:7].tolist())) > 2
    again = pack(request.getfixturevalue(source), tmp_path / "again")
    assert again.labels.equal(stored.labels) and again.images_at(torch.arange(60)).equal(stored.images_at(torch.arange(60)))
    assert not pack(request.getfixturevalue(source), tmp_path / "other", seed=1).labels.equal(stored.labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_from_the_disk_equals_training_in_memory(tree, workers, tmp_path):
    stored = pack(tree, tmp_path / "packed")
    memory = Tiles(stored.images_at(torch.arange(60)), stored.labels, stored.classes)
    found = []
    for tiles in (memory, StoredTiles(tmp_path / "packed", workers)):
        train, test = tiles.split(0.2, seed=1)
        torch.manual_seed(0)
        model = VisionTransformer(**GOOD.model, depth=1, embed_dim=32)
        history = fit(model, train, test, epochs=2, recipe=GOOD)
        found.append((history.step_loss, history.test_accuracy, evaluate(model, test).logits.tolist()))
    assert found[0] == found[1]


def test_large_pictures_are_cut_into_tiles(tmp_path):
    height, width = 37, 52                                           # two by three tiles of 16, the rest is left out
    values = np.random.RandomState(0).randint(0, 256, (height, width, 3), np.uint8)
    for name in ("a/large.png", "b/small.png"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True)
        Image.fromarray(values if "large" in name else values[:16, :16]).save(tmp_path / "tree" / name)
    stored = pack(tmp_path / "tree", tmp_path / "packed", size=16, large="tile")
    assert stored.size == 16 and stored.labels.bincount().tolist() == [6, 1]
    cut = {(0, values[r:r + 16, c:c + 16].transpose(2, 0, 1).tobytes()) for r in (0, 16) for c in (0, 16, 32)}
    assert everything(stored) == cut | {(1, values[:16, :16].transpose(2, 0, 1).tobytes())}
    whole = pack(tmp_path / "tree", tmp_path / "resized", size=16)
    assert whole.labels.bincount().tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"no picture in .* has 64x64 pixels"):
        pack(tmp_path / "tree", tmp_path / "none", large="tile")


def test_the_order_mixes_a_few_files_at_a_time(tree, small_files, tmp_path):
    stored = pack(tree, tmp_path / "packed")                         # nine files, two at a time
    order = stored.shuffled(torch.Generator().manual_seed(0))
    assert order.sort().values.equal(torch.arange(60))
    assert not order.equal(stored.shuffled(torch.Generator().manual_seed(1)))
    files, turns = (order // 7).tolist(), []
    for file in files:
        if not turns or file not in turns[-1]:
            if turns and len(turns[-1]) < 2:
                turns[-1].add(file)
            else:
                turns.append({file})
    assert len(turns) == 5 and sum(map(len, turns)) == 9             # each file in one turn only: it is read through once
    assert order[:14].tolist() != sorted(order[:14].tolist())
    for _ in batches(stored, 16, shuffle=True):
        assert len(stored._maps) <= 2


def test_parts_divide_and_travel_to_other_processes(tree, small_files, tmp_path):
    stored = pack(tree, tmp_path / "packed")
    train, test = stored.split(0.2)
    assert isinstance(train, StoredTiles) and everything(train) | everything(test) == everything(stored)
    assert (len(train), len(test)) == (50, 10) and not everything(train) & everything(test)
    few = stored.subset(20)
    assert few.labels.bincount().tolist() == [2] * 10
    assert everything(pickle.loads(pickle.dumps(few))) == everything(few)
    assert len(stored.select([])) == 0 and stored.to("cpu").device == torch.device("cpu")


def test_what_cannot_be_packed(tree, archive, tmp_path):
    for source, kind, message in [(tmp_path / "none", FileNotFoundError, "no folder or archive"),
                                  (tree / "deep" / "notes.txt", ValueError, "no folder and no whole zip"),
                                  (tree / "deep" / "Forest", ValueError, "at least two classes")]:
        with pytest.raises(kind, match=message):
            pack(source, tmp_path / "packed")
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="choose a new folder"):
        pack(tree, tmp_path / "there")
    for words in ({"size": 0}, {"size": 6.5}, {"large": "crop"}, {"workers": -1}):
        with pytest.raises(ValueError, match=next(iter(words))):
            pack(tree, tmp_path / "packed", **words)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("large", ["resize", "tile"])
def test_a_damaged_picture_is_named_and_nothing_is_left(tree, archive, large, tmp_path):
    broken = tmp_path / "broken.zip"
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(broken, "w") as file:
        for member in whole.infolist():
            content = whole.read(member)
            file.writestr(member, content[:60] if member.filename.endswith("17.png") else content)
    with pytest.raises(ValueError, match=r"17\.png"):
        pack(broken, tmp_path / "packed", large=large)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.zip"]


def test_an_archive_that_is_not_safe_is_refused(archive, tmp_path):
    for name, mode, message in [("../Forest/x.png", 0, "leads out"), ("Forest/x.png", stat.S_IFLNK, "link")]:
        bad = tmp_path / "bad.zip"
        bad.write_bytes(archive.read_bytes())
        with zipfile.ZipFile(bad, "a") as file:
            member = zipfile.ZipInfo(name)
            member.external_attr = (mode | 0o644) << 16
            file.writestr(member, b"content")
        with pytest.raises(ValueError, match=message):
            pack(bad, tmp_path / "packed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.zip"]


def test_an_image_bomb_is_refused(tree, tmp_path):
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    (tmp_path / "tree" / "a").mkdir(parents=True)
    (tmp_path / "tree" / "b").mkdir()
    (tmp_path / "tree" / "a" / "x.png").write_bytes(file.getvalue())
    (tmp_path / "tree" / "b" / "y.png").write_bytes((next(tree.rglob("*.png"))).read_bytes())
    with pytest.raises(ValueError, match=r"x\.png has .*pixels"):
        pack(tmp_path / "tree", tmp_path / "packed")


@pytest.mark.parametrize("damage", ["no facts", "other facts", "no labels", "short labels", "no file", "short file", "code"])
def test_a_packed_folder_that_is_not_whole_is_refused(tree, damage, small_files, tmp_path):
    folder = tmp_path / "packed"
    pack(tree, folder)
    match damage:
        case "no facts":
            (folder / "tiles.json").unlink()
        case "other facts":
            (folder / "tiles.json").write_text("[1]", encoding="utf-8")
        case "no labels":
            (folder / "labels.npy").unlink()
        case "short labels":
            np.save(folder / "labels.npy", np.load(folder / "labels.npy")[:-8])
        case "no file":
            (folder / "tiles-00003.npy").unlink()
        case "short file":
            os.truncate(folder / "tiles-00003.npy", 1000)
        case "code":
            np.save(folder / "labels.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(FileNotFoundError if damage == "no facts" else ValueError, match="pack"):
        StoredTiles(folder)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="files with holes and /proc are Linux's")
def test_twenty_gigabytes_are_read_in_little_memory(tmp_path):
    facts = in_a_process_of_its_own(tmp_path / "large")
    assert facts["gigabytes"] > 20 and facts["files"] > 590 and facts["steps"] == 40 and facts["read"] > 25_000
    assert facts["peak"] - facts["before"] < 700, facts      # eight files of 32 MB, and the numbers of all tiles
