"""What people have: folders, archives and copies of EuroSAT as they come, each with its right answer.

A row is an input, made on the spot, and what it gives. (Models elsewhere: test_elsewhere.py; single pictures:
test_pictures.py.)
"""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from test_pictures import in_file

from vit_helpers import CLASSES, Tiles, VisionTransformer, eurosat, evaluate, fit, load_tiles


def picture(color, kind="JPEG", size=(64, 64)):
    """The bytes of an image file: of this red, green grows from top to bottom."""
    file, green = io.BytesIO(), Image.linear_gradient("L").resize(size)
    Image.merge("RGB", (Image.new("L", size, color), green, Image.new("L", size))).save(file, kind)
    return file.getvalue()


def put(files, place):
    """Write files, {path: bytes}, as a folder tree, or as an archive where the name of the place ends so."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.suffix == ".zip":
        with zipfile.ZipFile(place, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        for name, content in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
    return place


# EuroSAT with one tile for each class, whose red tells the class.
TILES = {f"{name}/{name}_1.jpg": picture(20 * i) for i, name in enumerate(CLASSES)}
BANDS = {name.replace(".jpg", ".tif"): b"13 bands" for name in TILES}
JUNK = {f"{folder}{name}": b"junk" for folder in ("", "River/") for name in (
    "._River_1.jpg", ".DS_Store", "Thumbs.db", "__MACOSX/River/._River_1.jpg", "@eaDir/River_1.jpg",
    ".ipynb_checkpoints/River_1.jpg")}


def below(folder, files):
    return {f"{folder}/{name}": content for name, content in files.items()}


# What lies in the root: {folder or archive: its files}, and what EUROSAT_ROOT names in it.
COPIES = {
    "Zenodo's archive": ({"EuroSAT_RGB.zip": below("EuroSAT_RGB", TILES)}, ""),
    "Zenodo's two archives": ({"EuroSAT_MS.zip": below("EuroSAT_MS", BANDS),
                               "EuroSAT_RGB.zip": below("EuroSAT_RGB", TILES)}, ""),
    "Kaggle's archive": ({"archive.zip": {**below("EuroSAT", TILES), **below("EuroSATallBands", BANDS)}}, ""),
    "torchvision's": ({"eurosat/2750": TILES, "eurosat/EuroSAT.zip": below("2750", TILES)}, ""),
    "small letters": ({"data/eurosat/eurosat.zip": below("2750", TILES)}, ""),
    "unpacked into itself": ({"2750/2750": TILES}, ""),
    "the class folders": ({"here": TILES}, "here"),
    "the archive": ({"any name.zip": below("2750", TILES)}, "any name.zip"),
    "large letters": ({"2750": {name.replace(".jpg", ".JPG"): file for name, file in TILES.items()}}, ""),
    "a Mac's archive": ({"EuroSAT.zip": {**below("2750", {**TILES, **JUNK}),
                                         **below("__MACOSX/2750", {"River/._River_1.jpg": b""})}}, ""),
    "a folder with junk": ({"2750": {**TILES, **JUNK}}, ""),
    "part of a copy, and a whole one": ({"2750": {"River/River_1.jpg": b""}, "EuroSAT.zip": TILES}, ""),
}


@pytest.mark.parametrize("what", COPIES)
def test_eurosat_is_found_as_it_comes(what, monkeypatch, tmp_path):
    monkeypatch.setattr(eurosat, "COUNTS", (1,) * 10)
    places, root = COPIES[what]
    for name, files in places.items():
        put(files, tmp_path / "root" / name)
    monkeypatch.setenv("EUROSAT_ROOT", str(tmp_path / "root" / root))
    tiles = load_tiles("eurosat")
    assert tiles.labels.tolist() == list(range(10))
    assert (tiles.images[:, 0].float().mean(dim=(1, 2)) - 20 * tiles.labels).abs().max() < 3


@pytest.mark.parametrize(("files", "message"), [
    (BANDS, r"holds the multispectral EuroSAT \(\.tif, 13 bands\).*EuroSAT_RGB\.zip"),
    (dict(list(TILES.items())[:5]), "not EuroSAT as published: 0 tiles of class Pasture, not 1; fetch it"),
    ({**TILES, "River/River_1 (2).jpg": b""}, "as published: 2 tiles of class River, not 1"),
    ({"readme.txt": b""}, "no EuroSAT tiles|published: 0 tiles")])
@pytest.mark.parametrize("place", ["2750", "EuroSAT.zip"])
def test_another_eurosat_and_a_part_of_it_are_told_apart(files, message, place, monkeypatch, tmp_path):
    monkeypatch.setattr(eurosat, "COUNTS", (1,) * 10)
    put(files, tmp_path / "root" / place)
    with pytest.raises(OSError, match=message):
        load_tiles("eurosat", root=tmp_path / "root")


ONE = picture(200, "PNG", (20, 12))
# Files, the class of each picture in the order of the tiles, and what is said to be left out.
FOLDERS = {
    "a folder for each class": ({"cat/1.jpg": ONE, "dog/1.png": ONE, "dog/2.gif": picture(9, "GIF")},
                                "cat dog dog", ""),
    "folders of years": ({"cat/2019/1.jpg": ONE, "dog/2020/1.jpg": ONE, "dog/1.jpg": ONE}, "cat dog dog", ""),
    "a folder around": ({"pets/v 2/cat/1.jpg": ONE, "pets/v 2/dog/1.jpg": ONE}, "cat dog", ""),
    "pictures beside": ({"a.jpg": ONE, "cat/1.jpg": ONE, "dog/1.jpg": ONE}, "cat dog", "a.jpg"),
    "other files": ({"cat/1.jpg": ONE, "dog/1.jpg": ONE, **{f"dog/{i}.txt": b"" for i in range(7)}},
                    "cat dog", "dog/0.txt, dog/1.txt, dog/2.txt, dog/3.txt, dog/4.txt and 2 more"),
    "names of many kinds": ({"Größe 1/ä b.JPG": ONE, "class.1/c.d.jpeg": ONE, "图/1.png": ONE},
                            "Größe_1 class.1 图", ""),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_own_folders_and_their_archives_give_the_same(what, tmp_path, capsys):
    files, classes, left_out = FOLDERS[what]
    classes = [name.replace("_", " ") for name in classes.split()]
    for place in ("Eigene Bilder ü", "Eigene Bilder ü.zip"):
        tiles = Tiles.from_folder(str(put(files, tmp_path / place)), size=8)
        said = capsys.readouterr().out
        assert [tiles.classes[label] for label in tiles.labels] == classes
        assert all(f"{name} {classes.count(name)}" in said for name in tiles.classes)
        assert f": {left_out}\n" in said if left_out else "left out" not in said
        assert tiles.images.shape == (len(classes), 3, 8, 8) and tiles.source == "Eigene Bilder ü"


def test_linked_class_folders_are_followed(tmp_path):
    put({"cat/1.jpg": ONE}, tmp_path / "own")
    put({"1.jpg": ONE, "2.jpg": ONE}, tmp_path / "elsewhere")
    try:
        (tmp_path / "own" / "dog").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    except OSError:
        pytest.skip("Windows lets administrators make links only")
    tiles = Tiles.from_folder(tmp_path / "own", size=8)
    assert tiles.classes == ("cat", "dog") and tiles.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(("files", "kind", "message"), [
    ({"a.jpg": ONE, "cat/notes.txt": b""}, FileNotFoundError, "folders of pictures, one for each class"),
    ({"train/cat/1.jpg": ONE, "test/cat/1.jpg": ONE}, ValueError, r"parts of a data set \(test, train\)"),
    ({"cat/1.jpg": ONE[:50], "dog/1.jpg": ONE}, OSError, "cat/1.jpg cannot be read"),
    ({"cat/1.tif": in_file(Image.fromarray(np.full((8, 8), np.nan, np.float32)))}, OSError,
     "cat/1.tif .*NaN")])
def test_own_folders_that_cannot_be_learned_from_are_refused(files, kind, message, tmp_path):
    for place in ("own", "own.zip"):
        with pytest.raises(kind, match=message):
            Tiles.from_folder(put(files, tmp_path / place))


def test_half_an_archive_is_named(tmp_path):
    half = put({"cat/1.jpg": ONE}, tmp_path / "half.zip")
    half.write_bytes(half.read_bytes()[:-9])
    for read in (Tiles.from_folder, lambda root: load_tiles("eurosat", root)):
        with pytest.raises(OSError, match=r"half\.zip is not a whole zip archive.*fetch it again"):
            read(half)


def test_another_white_is_another_array_in_the_cache(tmp_path):
    twelve_bits = in_file(Image.fromarray(np.full((8, 8), 4000, np.uint16)))
    put({"a/1.tif": twelve_bits, "b/1.tif": twelve_bits}, tmp_path / "own")
    first, again = (Tiles.from_folder(tmp_path / "own", size=8, white=white) for white in (None, 65535))
    assert first.images.min() > 240 and again.images.max() < 20


def test_thirteen_bands_train_and_are_told_apart(full):
    torch.manual_seed(0)
    labels = torch.arange(60) % 2
    images = torch.randint(0, 100, (60, 13, 8, 8), dtype=torch.uint8)
    images[labels == 1, 12] += 150                           # only the last band tells the classes apart
    network = VisionTransformer(8, 4, 13, 2, embed_dim=16, depth=1, num_heads=2, mlp_dim=16)
    fit(network, tiles := Tiles(images, labels, ("dark", "bright")), epochs=10)
    assert evaluate(network, tiles).accuracy == 1
