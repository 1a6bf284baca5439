"""EuroSAT: a tiny copy of it, as folder and as archive, found, decoded, cached, and damaged in every way.

No test here needs the network or the real tiles, except those at the end, which are skipped without the real ones.
"""

import errno
import hashlib
import http.server
import inspect
import io
import os
import shutil
import socket
import threading
import time
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import EuroSAT, ImageFolder

from vit_helpers import CLASSES, load_tiles, runtime
from vit_helpers import eurosat as module

COUNTS = (3, 3, 3, 2, 2, 2, 2, 3, 2, 3)
BROKEN = "2750/Pasture/Pasture_10.jpg"                       # one in the middle


@pytest.fixture(scope="module")
def members():
    """The tiny EuroSAT: its files by name, JPEGs of random blocks, three for some classes and two for others."""
    random, files = np.random.RandomState(0), {}
    for name, count in zip(CLASSES, COUNTS, strict=True):
        for number in (2, 10, 1)[:count]:                    # in the order of names 10 comes before 2
            pixels = random.randint(0, 256, (8, 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG")
            files[f"2750/{name}/{name}_{number}.jpg"] = file.getvalue()
    return files


@pytest.fixture(autouse=True)
def _tiny(request, monkeypatch, tmp_path):
    """The package expects the tiny EuroSAT, and keeps it in a cache of this test."""
    if "eurosat" in request.fixturenames:                    # the tests on the real tiles
        return
    monkeypatch.setattr(module, "COUNTS", COUNTS)
    monkeypatch.setattr(module, "SHAPE", (sum(COUNTS), 3, 64, 64))
    monkeypatch.setenv("VIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EUROSAT_ROOT", raising=False)


def write_folder(members, root):
    for name, content in members.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def write_archive(members, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("2750/", "")                        # folders have entries of their own, as in the real one
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(params=["eurosat/2750", "2750", "EuroSAT.zip", "eurosat/EuroSAT.zip"])
def root(request, members, tmp_path):
    """A root in each of the layouts that are understood."""
    root = tmp_path / "data"
    if request.param.endswith("zip"):
        write_archive(members, root / request.param)
    else:
        write_folder(members, (root / request.param).parent)
    return root


@pytest.fixture
def zipped(members, tmp_path):
    write_archive(members, tmp_path / "data" / "EuroSAT.zip")
    return tmp_path / "data"


@pytest.fixture
def reference(members, tmp_path):
    """What torchvision's ImageFolder makes of the tiny EuroSAT: images uint8 (25, 3, 64, 64) and labels (25,)."""
    write_folder(members, tmp_path / "reference")
    folder = ImageFolder(tmp_path / "reference" / "2750", transform=transforms.PILToTensor())
    return torch.stack([image for image, _ in folder]), torch.tensor(folder.targets)


def cached(tmp_path):
    """The files in the cache, without the empty ones that processes wait at."""
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock")


def must_not_decode(*args):
    raise AssertionError("the tiles were decoded again")


# Finding and decoding

def test_every_layout_gives_what_torchvisions_imagefolder_gives(root, reference):
    tiles = load_tiles("eurosat", root=root)
    images, labels = reference
    assert tiles.source == "eurosat" and tiles.classes == CLASSES
    assert torch.equal(tiles.images, images) and torch.equal(tiles.labels, labels)


def test_the_environment_names_the_root(zipped, reference, monkeypatch):
    monkeypatch.setenv("EUROSAT_ROOT", str(zipped))
    assert torch.equal(load_tiles("eurosat").images, reference[0])


def test_a_relative_root_is_meant_from_here_or_from_the_course(zipped, reference, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert torch.equal(load_tiles("eurosat", root="data").images, reference[0])
    elsewhere = tmp_path / "notebooks"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(FileNotFoundError):
        module.find("data")
    course = Path(module.__file__).parents[1]                # a notebook runs in a folder below the course's
    assert len(load_tiles("eurosat", root=os.path.relpath(zipped, course))) == 25


def test_the_cache_is_used_the_second_time_and_memory_mapped(root, monkeypatch, capsys):
    first = module.find(root)
    assert "decoding EuroSAT" in capsys.readouterr().out
    monkeypatch.setattr(module, "_decode", must_not_decode)
    second = module.find(root)
    assert isinstance(second, np.memmap) and np.array_equal(first, second)
    assert capsys.readouterr().out == ""
    for place in sorted(root.rglob("*.jpg")) + sorted(root.rglob("*.zip")):
        place.touch()
        place.with_suffix(".new").write_bytes(b"")           # the folder has changed, the archive has a new date
        place.with_suffix(".new").unlink()
    with pytest.raises(AssertionError, match="decoded again"):
        module.find(root)


def test_without_a_root_the_cache_comes_before_the_network(zipped, monkeypatch):
    images = module.find(zipped)
    monkeypatch.setattr(module, "_download", lambda: pytest.fail("the network was asked"))
    assert np.array_equal(module.find(), images)
    assert np.array_equal(module.find(download=False), images)


def test_writing_into_the_tiles_never_reaches_the_file(zipped):
    before = load_tiles("eurosat", root=zipped).images.clone()
    load_tiles("eurosat", root=zipped).images.fill_(0)
    assert torch.equal(load_tiles("eurosat", root=zipped).images, before)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None])
def test_a_damaged_cache_is_made_again(zipped, tmp_path, damage):
    images = np.array(module.find(zipped))
    [file] = (tmp_path / "cache").glob("*.npy")
    content = file.read_bytes()
    file.write_bytes(content[:-1000] if damage is None else damage)
    assert np.array_equal(module.find(zipped), images)
    assert file.read_bytes() == content


@pytest.mark.parametrize("change", [lambda images: images[:-1], lambda images: images.astype(np.int8)])
def test_a_cached_array_that_is_not_that_of_the_tiles_is_made_again(zipped, tmp_path, change):
    images = np.array(module.find(zipped))
    [file] = (tmp_path / "cache").glob("*.npy")
    np.save(file, change(images))
    found = module.find(zipped)
    assert np.array_equal(found, images) and found.dtype == np.uint8


# What is missing or damaged is named, and nothing of it is kept

def test_a_missing_root(tmp_path):
    (tmp_path / "empty").mkdir()
    for nowhere in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(FileNotFoundError, match=r"'eurosat/2750/<Class>/.*EUROSAT_ROOT") as error:
            module.find(nowhere)
        assert str(nowhere) in str(error.value)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_archive(zipped, tmp_path, share):
    archive = zipped / "EuroSAT.zip"
    archive.write_bytes(archive.read_bytes()[:int(share * archive.stat().st_size)])
    with pytest.raises(OSError, match=r"not a whole zip archive.*delete it and fetch it again") as error:
        load_tiles("eurosat", root=zipped)
    assert str(archive) in str(error.value) and cached(tmp_path) == []


@pytest.mark.parametrize("path", [
    "../2750/Forest/Forest_1.jpg", "2750/../../Forest/Forest_1.jpg", "/etc/Forest/Forest_1.jpg",
    "..\\Forest\\Forest_1.jpg", "C:/Forest/Forest_1.jpg", "../../evil.sh"])
def test_an_archive_with_paths_that_lead_out_of_it(members, tmp_path, path):
    write_archive({**members, path: b"evil"}, tmp_path / "data" / "EuroSAT.zip")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="leads out of the archive"):
        load_tiles("eurosat", root=tmp_path / "data")
    now = [place for place in sorted(tmp_path.rglob("*")) if tmp_path / "cache" not in (place, *place.parents)]
    assert now == before and cached(tmp_path) == []          # nothing was unpacked anywhere


def broken_jpegs(members):
    huge = io.BytesIO()
    Image.new("RGB", (65, 64)).save(huge, "JPEG")
    return {"cut": members[BROKEN][:300], "empty": b"", "text": b"not found", "size": huge.getvalue()}


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "size"])
@pytest.mark.parametrize("layout", ["folder", "archive"])
def test_one_broken_jpeg_is_named(members, tmp_path, kind, layout):
    damaged = {**members, BROKEN: broken_jpegs(members)[kind]}
    if layout == "folder":
        write_folder(damaged, tmp_path / "data")
    else:
        write_archive(damaged, tmp_path / "data" / "EuroSAT.zip")
    with pytest.raises(OSError, match=r"Pasture/Pasture_10.jpg .*cannot be read .*replace this file") as error:
        load_tiles("eurosat", root=tmp_path / "data")
    assert cached(tmp_path) == []
    if kind == "size":
        assert "65x64 pixels instead of 64x64" in str(error.value)
    if layout == "folder":                                   # following the advice works
        (tmp_path / "data" / BROKEN).write_bytes(members[BROKEN])
        assert len(load_tiles("eurosat", root=tmp_path / "data")) == 25


def test_a_damaged_byte_inside_the_archive(zipped):
    with zipfile.ZipFile(zipped / "EuroSAT.zip") as archive:
        offset = archive.getinfo(BROKEN).header_offset
    content = bytearray((zipped / "EuroSAT.zip").read_bytes())
    content[offset + 400] ^= 0xFF
    (zipped / "EuroSAT.zip").write_bytes(content)
    with pytest.raises(OSError, match=r"Pasture/Pasture_10.jpg .*cannot be read"):
        load_tiles("eurosat", root=zipped)


def test_missing_and_additional_tiles(members, tmp_path):
    no_forest = {f"2750/Forest/Forest_{i}.jpg": None for i in (1, 2, 10)}
    for change, message in (({"2750/River/River_10.jpg": None}, "1 tiles of class River instead of 2"),
                            ({"2750/River/River_77.jpg": members[BROKEN]}, "3 tiles of class River instead of 2"),
                            (no_forest, "0 tiles of class Forest instead of 3")):
        files = {name: content for name, content in {**members, **change}.items() if content is not None}
        root = tmp_path / "data"
        write_folder(files, root)
        with pytest.raises(OSError, match=message):
            load_tiles("eurosat", root=root)
        shutil.rmtree(root)
        write_archive(files, root / "EuroSAT.zip")
        with pytest.raises(OSError, match=message):
            load_tiles("eurosat", root=root)
        shutil.rmtree(root)


# A cache that cannot be written; full and read-only disks are in test_faults.py

def test_a_cache_folder_that_cannot_be_made(zipped, reference, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("a file is no folder", encoding="utf-8")
    monkeypatch.setenv("VIT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match=r"could not be kept in .*set VIT_CACHE to a folder"):
        tiles = load_tiles("eurosat", root=zipped)
    assert torch.equal(tiles.images, reference[0])
    assert (tmp_path / "file").read_text(encoding="utf-8") == "a file is no folder"


def test_a_cache_folder_without_write_permission(zipped, reference, monkeypatch, tmp_path):
    (tmp_path / "cache").mkdir()

    def refuse(path, mode="r", *args, **kwargs):             # root may write everywhere, whatever the permissions say
        if "w" in mode and (tmp_path / "cache") in Path(path).parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open(path, mode, *args, **kwargs)

    monkeypatch.setattr(module, "open", refuse, raising=False)
    with pytest.warns(UserWarning, match=r"could not be kept in .*Permission denied"):
        tiles = load_tiles("eurosat", root=zipped)
    assert torch.equal(tiles.images, reference[0]) and cached(tmp_path) == []


# The network

@pytest.fixture
def fetch_from(monkeypatch):
    """Let the package ask another address, and expect a file with another checksum."""
    def redirect(address, content=None):
        monkeypatch.setattr(module, "ADDRESS", address)
        if content:
            monkeypatch.setattr(module, "MD5", hashlib.md5(content).hexdigest())

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return redirect


@pytest.fixture(params=["accepts and says nothing", "stops in the middle"])
def silent_server(request):
    """A server on this machine that never finishes an answer; its address."""
    connections, listener = [], socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:                                  # closed: the test is over
                return
            connections.append(connection)
            if request.param == "stops in the middle":
                connection.recv(4096)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 99999999\r\n\r\n" + bytes(100_000))

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/EuroSAT.zip"
    for connection in [listener, *connections]:
        connection.close()


@pytest.fixture
def published(members, tmp_path):
    """A server on this machine that hands out the tiny archive: its address, content, misbehavior and requests so far.

    It closes the connection after `cut` bytes, knows ranges or not, and waits for `pause` seconds before each tenth.
    """
    content = write_archive(members, tmp_path / "published" / "EuroSAT.zip").read_bytes()
    facts = types.SimpleNamespace(content=content, cut=None, ranges=True, pause=0, requests=[])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers["Range"] if facts.ranges else None
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
            facts.requests.append(self.headers["Range"])
            self.send_response(416 if start >= len(facts.content) else 206 if asked else 200)
            self.send_header("Content-Length", str(max(0, len(facts.content) - start)))
            self.end_headers()
            sent = facts.content[start:][:facts.cut]
            step = len(facts.content) // 10 if facts.pause else len(sent) or 1
            for at in range(0, len(sent), step):
                time.sleep(facts.pause)
                self.wfile.write(sent[at:at + step])

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        facts.address = f"http://127.0.0.1:{server.server_port}/EuroSAT.zip"
        yield facts
        server.shutdown()


def test_a_network_that_hangs(silent_server, fetch_from, monkeypatch):
    fetch_from(silent_server)
    monkeypatch.setattr(runtime, "PATIENCE", 0.5)
    started, limit = time.monotonic(), socket.getdefaulttimeout()
    with pytest.raises(OSError, match=r"did not answer for 0\.5 seconds|timed out"):
        load_tiles("eurosat")
    assert time.monotonic() - started < 5
    assert socket.getdefaulttimeout() == limit               # other code keeps its own patience


@pytest.mark.parametrize("stale", [False, True])
def test_a_name_lookup_that_hangs(monkeypatch, tmp_path, stale):
    if stale:                                                # half an archive, from a download that was interrupted
        (tmp_path / "cache/download").mkdir(parents=True)
        (tmp_path / "cache/download/EuroSAT.zip.part").write_bytes(b"PK")
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answer.wait(60) and [])
    monkeypatch.setattr(runtime, "PATIENCE", 0.5)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"did not answer for 0\.5 seconds"):
        load_tiles("eurosat")
    assert time.monotonic() - started < 5
    answer.set()


def test_a_slow_network_is_waited_for(published, fetch_from, monkeypatch):
    fetch_from(published.address, published.content)
    published.pause = 0.15                                   # ten times: three times as long as a silence may last
    monkeypatch.setattr(runtime, "PATIENCE", 0.5)
    assert len(load_tiles("eurosat")) == 25


def test_a_download_is_cached_and_cleared_away(published, reference, fetch_from, tmp_path):
    fetch_from(published.address, published.content)
    tiles = load_tiles("eurosat")
    assert torch.equal(tiles.images, reference[0]) and torch.equal(tiles.labels, reference[1])
    assert not (tmp_path / "cache" / "download").exists() and len(list((tmp_path / "cache").glob("*.npy"))) == 1
    assert torch.equal(load_tiles("eurosat").images, reference[0]) and published.requests == [None]


def test_a_download_stays_where_the_decoded_tiles_cannot_be_kept(published, fetch_from, monkeypatch, tmp_path):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    fetch_from(published.address, published.content)
    monkeypatch.setattr(module, "written_whole", full)
    for _ in range(2):
        with pytest.warns(UserWarning, match="No space left"):
            assert len(load_tiles("eurosat")) == 25
    assert (tmp_path / "cache/download/EuroSAT.zip").exists() and len(published.requests) == 1       # not fetched twice


def test_a_truncated_download_goes_on_where_it_ended(published, reference, fetch_from):
    fetch_from(published.address, published.content)
    published.cut = len(published.content) // 3 + 1
    assert torch.equal(load_tiles("eurosat").images, reference[0])
    assert published.requests == [None, f"bytes={published.cut}-", f"bytes={2 * published.cut}-"]


def test_a_truncated_download_goes_on_in_the_next_process(published, reference, fetch_from, tmp_path):
    fetch_from(published.address, published.content)
    published.cut = 1000
    with pytest.raises(OSError, match=rf"only 5,000 of {len(published.content):,} bytes arrived in 5 attempts"):
        load_tiles("eurosat")
    assert (tmp_path / "cache/download/EuroSAT.zip.part").read_bytes() == published.content[:5000]
    published.cut = None
    assert torch.equal(load_tiles("eurosat").images, reference[0]) and published.requests[-1] == "bytes=5000-"


def test_a_truncated_download_is_never_taken_for_whole(published, reference, fetch_from, tmp_path):
    fetch_from(published.address, published.content)
    published.cut, published.ranges = len(published.content) - 1, False        # each attempt ends one byte too early
    with pytest.raises(OSError, match=r"bytes arrived in 5 attempts; try again later, or set EUROSAT_ROOT"):
        load_tiles("eurosat")
    assert not list(tmp_path.glob("cache/**/*.zip")) and not list(tmp_path.glob("cache/*.npy"))
    published.cut = None
    assert torch.equal(load_tiles("eurosat").images, reference[0])


@pytest.mark.parametrize("more", [b"", b"!", b"PK"])
def test_a_download_with_more_than_the_archive_begins_again(published, reference, fetch_from, tmp_path, more):
    """A whole archive that was not renamed in time is taken; one with strange bytes behind it is thrown away."""
    fetch_from(published.address, published.content)
    (tmp_path / "cache/download").mkdir(parents=True)
    (tmp_path / "cache/download/EuroSAT.zip.part").write_bytes(published.content + more)
    if more:
        with pytest.raises(OSError, match=r"the download failed: HTTP Error 416"):
            load_tiles("eurosat")
    assert torch.equal(load_tiles("eurosat").images, reference[0])
    assert published.requests == ([f"bytes={len(published.content + more)}-", None] if more else [])


def test_bytes_of_another_file_are_thrown_away(published, reference, fetch_from, tmp_path):
    fetch_from(published.address, published.content)
    (tmp_path / "cache/download").mkdir(parents=True)
    (tmp_path / "cache/download/EuroSAT.zip.part").write_bytes(bytes(100))
    with pytest.raises(OSError, match="its checksum differs"):
        load_tiles("eurosat")
    assert torch.equal(load_tiles("eurosat").images, reference[0])


def test_a_published_file_that_is_another(published, fetch_from, tmp_path):
    fetch_from(published.address)                            # the checksum is that of the real archive
    with pytest.raises(OSError, match=r"the download failed: what http://127\.0\.0\.1.* its checksum differs"):
        load_tiles("eurosat")
    assert not [path for path in tmp_path.glob("cache/download/**/*") if path.is_file()]
    fetch_from(published.address, published.content)
    assert len(load_tiles("eurosat")) == 25                  # and the next attempt is not hindered by it


def test_the_address_and_the_checksum_are_those_that_torchvision_knows():
    source = inspect.getsource(EuroSAT.download)
    assert f'"{module.ADDRESS}"' in source and f'"{module.MD5}"' in source and module.ADDRESS.startswith("https://")


# The real tiles

def test_the_real_tiles_are_complete(eurosat):
    assert eurosat.images.shape == (27000, 3, 64, 64) and eurosat.classes == CLASSES
    assert torch.bincount(eurosat.labels).tolist() == list(module.COUNTS)
    assert all(f"{count:,}" in ("2,000", "2,500", "3,000") for count in module.COUNTS) and sum(module.COUNTS) == 27000


def test_the_real_tiles_open_as_a_memory_map(eurosat, monkeypatch):
    monkeypatch.setattr(module, "_decode", must_not_decode)
    started = time.monotonic()
    images = module.find(os.environ["VIT_TEST_EUROSAT"])
    assert isinstance(images, np.memmap) and time.monotonic() - started < 1


def test_the_real_tiles_are_those_of_the_described_pipeline(eurosat):
    place = module._locate(os.environ["VIT_TEST_EUROSAT"])
    pipeline = transforms.Compose(
        [transforms.Resize(64), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
    if place.is_dir():
        names = [f"{path.parent.name}/{path.name}" for path in place.glob("*/*.jpg")]

        def read(name):
            return (place / name).read_bytes()
    else:
        archive = zipfile.ZipFile(place)
        names, read = [name for name in archive.namelist() if name.endswith(".jpg")], archive.read
    names.sort(key=lambda name: name.split("/")[-2:])    # ImageFolder's order: by class, then by file name
    assert len(names) == 27000
    for i in range(0, 27000, 271):
        image, label = eurosat[i]
        assert torch.equal(image, pipeline(Image.open(io.BytesIO(read(names[i])))))
        assert CLASSES[label] == names[i].split("/")[-2]
