"""EuroSAT found, downloaded, decoded once, cached, and damaged: a tiny copy of it, then the real one."""

import hashlib
import http.server
import io
import os
import re
import socket
import threading
import time
import zipfile
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from test_in_the_wild import picture, put
from torchvision import transforms
from torchvision.datasets import EuroSAT, ImageFolder

from vit_helpers import CLASSES, data, folders, load_tiles
from vit_helpers import eurosat as module

COUNTS = (3, 3, 3, 2, 2, 2, 2, 3, 2, 3)
BROKEN = "2750/Pasture/Pasture_10.jpg"                       # one in the middle


# The files of the tiny EuroSAT, some classes with three, some with two; by name, 10 comes before 2.
FILES = {f"2750/{name}/{name}_{number}.jpg": picture(20 * i + number)
         for i, name in enumerate(CLASSES) for number in (2, 10, 1)[:COUNTS[i]]}


def write(files, root, layout="EuroSAT.zip"):
    """A root with these files, as an archive or unpacked."""
    put(files, root if layout == "2750" else root / layout)
    return root


@pytest.fixture(autouse=True)
def _tiny(request, monkeypatch, tmp_path):
    """The package expects the tiny EuroSAT, keeps it in a cache of this test, and asks no proxy."""
    if "eurosat" not in request.fixturenames:                # the test on the real tiles
        monkeypatch.setattr(module, "COUNTS", COUNTS)
        monkeypatch.setenv("VIT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """What torchvision's ImageFolder makes of the tiny EuroSAT: uint8 (25, 3, 64, 64)."""
    root = write(FILES, tmp_path_factory.mktemp("reference"), "2750")
    return torch.stack([image for image, _ in ImageFolder(root / "2750", transforms.PILToTensor())])


@pytest.mark.parametrize(("layout", "prefix"), [
    ("2750", ""), *(("EuroSAT.zip", prefix) for prefix in ("", "2750/../../", "/etc/", "C:/", "..\\"))])
def test_folder_and_archive_equal_imagefolder(layout, prefix, reference, monkeypatch, tmp_path):
    root = write({prefix + name: content for name, content in FILES.items()}, tmp_path / "data", layout)
    monkeypatch.chdir(tmp_path)
    tiles = load_tiles("eurosat", root="data")
    assert torch.equal(tiles.images, reference) and tiles.labels.bincount().tolist() == list(COUNTS)
    assert tiles.source == "eurosat" and tiles.classes == CLASSES and tiles.labels.diff().min() == 0
    course = Path(module.__file__).parents[1]                # a notebook runs in a folder of the course
    assert torch.equal(load_tiles("eurosat", root=os.path.relpath(root, course)).images, reference)
    unpacked = [*tmp_path.rglob("*.jpg"), *Path("/etc").glob("2750")]    # paths in an archive lead nowhere
    assert layout.endswith("2750") or not unpacked


@pytest.mark.parametrize("layout", ["2750", "EuroSAT.zip"])
def test_the_cache_is_used_the_second_time_and_mapped(layout, reference, monkeypatch, tmp_path):
    root = write({**FILES, "2750/Other/Other_1.jpg": b""}, tmp_path / "data", layout)
    tiles, [file] = load_tiles("eurosat", root=root), tmp_path.glob("cache/*")
    assert not Path("/proc").exists() or str(file) in Path("/proc/self/maps").read_text()
    tiles.images.fill_(0)                                    # never reaches the file
    del tiles
    for end in (None, 0, 6, -1000):                          # a damaged one is made again
        file.write_bytes(file.read_bytes()[:end])
        assert torch.equal(load_tiles("eurosat", root=root).images, reference)
    np.save(file, np.zeros((9, 3, 64, 64), np.uint8))        # and so is one of another number of tiles
    assert torch.equal(load_tiles("eurosat", root=root).images, reference)
    monkeypatch.setattr(module, "tiles_in", None)            # from here, whoever decodes or fetches, fails
    monkeypatch.setattr(module, "fetch", None)
    for place in (str(root), ""):                            # without a root the cache is looked at first
        monkeypatch.setenv("EUROSAT_ROOT", place)
        assert torch.equal(load_tiles("eurosat").images, reference)
    write({**FILES, "2750/River/new.jpg": b""}, root, layout)
    with pytest.raises(TypeError, match="not callable"):     # what has changed is decoded again
        load_tiles("eurosat", root=root)


@pytest.mark.parametrize("layout", ["2750", "EuroSAT.zip"])
@pytest.mark.parametrize(("content", "message"), [
    (FILES[BROKEN][:-99], "Pasture_10.jpg cannot be read .*replace this file"),
    (picture(0, kind="PNG"), "Pasture_10.jpg cannot be read"),
    (picture(0, size=(65, 64)), "Pasture_10.jpg .*65x64 pixels instead of 64x64")])
def test_damaged_tiles_are_named(content, message, layout, tmp_path):
    with pytest.raises(OSError, match=message):
        load_tiles("eurosat", root=write({**FILES, BROKEN: content}, tmp_path / "data", layout))
    assert not list(tmp_path.glob("cache/*"))


@pytest.mark.parametrize("cache", ["data/EuroSAT.zip/no", *(pytest.param(name, marks=pytest.mark.skipif(
    not Path(name).exists(), reason="for Linux")) for name in ("/proc/self/fd", "/dev/full"))])
def test_a_cache_that_cannot_be_written_costs_a_warning(cache, reference, monkeypatch, tmp_path):
    monkeypatch.setenv("VIT_CACHE", str(tmp_path / cache))
    if cache == "/dev/full":                                 # where each write finds no room
        monkeypatch.setattr(folders, "atomic_write", lambda file: nullcontext(cache))
    with pytest.warns(UserWarning, match=r"cannot be kept in .*set VIT_CACHE to a folder"):
        tiles = load_tiles("eurosat", root=write(FILES, tmp_path / "data"))
    assert torch.equal(tiles.images, reference)


@pytest.mark.parametrize(("download", "reason"), [
    (True, "the download failed: .*huggingface.co.*no network"), (False, "EUROSAT_ROOT is not .*=False")])
def test_auto_falls_back_with_one_line(download, reason, full, monkeypatch, tmp_path, capsys, caplog):
    monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=socket.gaierror("no network")))
    monkeypatch.setattr(data, "synthetic_tiles", lambda n: (np.zeros((n, 3, 8, 8), np.uint8), [0] * n))
    assert repr(load_tiles(download=download)).startswith("Tiles(10,000 synthetic tiles")
    assert re.fullmatch(rf"EuroSAT is not at hand \({reason}.*synthetic tiles\.\n", capsys.readouterr().out)
    assert caplog.text == ""                                 # what pooch logs would be red in a notebook
    with pytest.raises(OSError, match=reason):
        load_tiles("eurosat", download=download)
    with pytest.raises(FileNotFoundError, match="nowhere"):  # a root that was given is never replaced
        load_tiles("auto", root=tmp_path / "nowhere", download=download)


def test_only_a_download_with_the_right_checksum_is_taken(reference, monkeypatch, tmp_path):
    monkeypatch.chdir(write(FILES, tmp_path / "published"))  # what the server on this machine hands out
    handler = http.server.SimpleHTTPRequestHandler
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        monkeypatch.setattr(module, "ADDRESS", f"http://127.0.0.1:{server.server_port}/EuroSAT.zip")
        with pytest.raises(OSError, match=r"the download failed: .*try again later, or set EUROSAT_ROOT"):
            load_tiles("eurosat")
        assert not list(tmp_path.glob("cache/*"))
        monkeypatch.setattr(module, "MD5", hashlib.md5(Path("EuroSAT.zip").read_bytes()).hexdigest())
        assert torch.equal(load_tiles("eurosat").images, reference)
        server.shutdown()


def test_the_address_and_the_checksum_are_those_that_torchvision_knows():
    assert {module.ADDRESS, module.MD5} <= set(EuroSAT.download.__code__.co_consts)
    assert module.ADDRESS.startswith("https://")


def test_the_real_tiles_are_those_of_the_described_pipeline_and_open_at_once(eurosat):
    place = module.locate(Path(os.environ["VIT_TEST_EUROSAT"]))[0]
    place = next(zipfile.Path(place).iterdir()) if place.is_file() else place
    files = [file for folder in place.iterdir() for file in folder.iterdir()]
    files.sort(key=lambda file: (file.parent.name, file.name))           # ImageFolder's order
    pipeline = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
    # The spatial split is stored for this order, see test_data.py.
    assert [file.name for file in files] == [
        f"{name}_{number}.jpg" for name, count in zip(CLASSES, module.COUNTS, strict=True)
        for number in sorted(range(1, count + 1), key="{}.jpg".format)]
    assert len(eurosat) == len(files) == sum(module.COUNTS) == 27000
    for i in range(0, 27000, 271):
        assert torch.equal(eurosat[i][0], pipeline(Image.open(io.BytesIO(files[i].read_bytes()))))
    assert [CLASSES[label] for label in eurosat.labels] == [file.parent.name for file in files]
    started = time.monotonic()
    load_tiles("eurosat", root=os.environ["VIT_TEST_EUROSAT"])
    assert time.monotonic() - started < 1
