"""What comes from elsewhere is data, never a program: archives, pictures, weights, checkpoints, caches, addresses."""

import hashlib
import io
import json
import os
import pickle
import re
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vit_helpers.pretrained
from vit_helpers import VisionTransformer, eurosat, load_checkpoint, load_picture, load_pretrained, load_tiles, load_weights
from vit_helpers.archives import MOST_BYTES, checked_members, read_member
from vit_helpers.heads.shipped import load_head
from vit_helpers.publish import setup_cell

ROOT = Path(__file__).parents[1]


def archive_of(path, *members):
    """A zip file of (name or ZipInfo, content) pairs, written as they are."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def member(name="2750/Forest/a.jpg", **facts):
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    for fact, value in facts.items():
        setattr(info, fact, value)
    return info


def patched(path, offset, form, value, where=b"PK\x01\x02"):
    """Overwrite a field of every entry in the directory of a zip file (or of its local headers, b"PK\\x03\\x04")."""
    content, at = bytearray(path.read_bytes()), -1
    while (at := content.find(where, at + 1)) >= 0:
        struct.pack_into(form, content, at + offset, value)
    path.write_bytes(content)
    return path


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return checked_members(archive, path)


# Archives

def test_an_ordinary_archive_is_read_as_it_is(tmp_path):
    pairs = [("2750/", b""), ("2750/Forest/a.jpg", b"1" * 5000), ("2750/Wälder/木 (2).jpg", b"22"), ("./b.jpg", b""),
             (member("c.jpg", external_attr=(stat.S_IFREG | 0o644) << 16), b"3")]
    path = archive_of(tmp_path / "tiles.zip", *pairs)
    with zipfile.ZipFile(path) as archive:
        found = checked_members(archive, path)
        assert [m.filename for m in found] == [getattr(name, "filename", name) for name, _ in pairs[1:]]
        assert [read_member(archive, m) for m in found] == [content for _, content in pairs[1:]]


@pytest.mark.parametrize("name", [
    "../a.jpg", "2750/../../a.jpg", "..", "/etc/a.jpg", "//server/share/a.jpg", "..\\a.jpg", "2750\\..\\..\\a.jpg", "\\a.jpg",
    "C:/a.jpg", "c:a.jpg", "C:\\a.jpg", "a.jpg:stream"])
def test_a_path_that_leads_out_of_an_archive_is_refused(tmp_path, name):
    path = archive_of(tmp_path / "tiles.zip", ("2750/Forest/a.jpg", b"1"), (name, b"evil"))
    with pytest.raises(ValueError, match=r"tiles\.zip holds '.+', which leads out of the archive; nothing of it was unpacked"):
        members_of(path)


@pytest.mark.parametrize("name", [
    "a\u202egpj.exe", "a\x1b[2Jb.jpg", "a\nb.jpg", "a\u200b.jpg", "\ufeffa.jpg", "a\x7f.jpg", "a\u00a0.jpg"])
def test_a_name_that_cannot_be_seen_is_refused_and_shown_harmless(tmp_path, name):
    with pytest.raises(ValueError, match="a name with characters that cannot be seen") as error:
        members_of(archive_of(tmp_path / "tiles.zip", (name, b"1")))
    assert str(error.value).isprintable()


def test_a_zero_byte_hides_no_part_of_a_name(tmp_path):
    path = archive_of(tmp_path / "tiles.zip", ("a.jpgX/../../b", b"1"))
    path.write_bytes(path.read_bytes().replace(b"a.jpgX", b"a.jpg\0"))
    with pytest.raises(ValueError, match="leads out of the archive"):
        members_of(path)


@pytest.mark.parametrize("kind", ["S_IFLNK", "S_IFCHR", "S_IFBLK", "S_IFIFO", "S_IFSOCK"])
def test_links_and_devices_are_refused(tmp_path, kind):
    link = member(external_attr=(getattr(stat, kind) | 0o777) << 16)
    with pytest.raises(ValueError, match="which is a link or a device, not a file"):
        members_of(archive_of(tmp_path / "tiles.zip", (link, b"/etc/passwd")))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["2750/Forest/é.jpg", "2750//Forest/é.jpg", "2750/./Forest/é.jpg", "2750\\Forest\\é.jpg",
                                    "2750/Forest/e\u0301.jpg"])
def test_a_name_that_is_there_twice_is_refused(tmp_path, second):
    with pytest.raises(ValueError, match="which is in it twice"):
        members_of(archive_of(tmp_path / "tiles.zip", ("2750/Forest/é.jpg", b"1"), (second, b"2")))


def test_encrypted_files_and_rare_compressions_are_refused(tmp_path):
    path = archive_of(tmp_path / "tiles.zip", (member(), b"1"))
    with pytest.raises(ValueError, match="which is encrypted"):
        members_of(patched(path, 8, "<H", 1))
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):     # their unpackers know no limit
        path = archive_of(tmp_path / "tiles.zip", (member(compress_type=method), b"1"))
        with pytest.raises(ValueError, match=f"packed by method {method}; only plain and deflated files are read"):
            members_of(path)


def test_bombs_are_refused_by_what_they_declare(tmp_path):
    path = archive_of(tmp_path / "tiles.zip", *((f"{i}.jpg", bytes(MOST_BYTES // 4)) for i in range(8)))
    with pytest.raises(ValueError, match=r"unpacks to 200,000,000, more than 100 times as much, as a zip bomb does"):
        members_of(path)
    path = archive_of(tmp_path / "tiles.zip", ("a.jpg", bytes(MOST_BYTES + 1)))
    with pytest.raises(ValueError, match=r"which unpacks to 100,000,001 bytes; 100,000,000 are the most"):
        members_of(path)
    path = archive_of(tmp_path / "tiles.zip", ("a.jpg", b"1" * 1000), ("b.jpg", b"2"))
    with pytest.raises(ValueError, match="they share their bytes, as in a zip bomb"):
        members_of(patched(path, 20, "<I", 700))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
def test_a_bomb_that_lies_about_its_size_stays_small_in_memory(tmp_path):
    """300 MB of zeros that declare 1,000 bytes: what is read is 1,000 bytes, and the checksum refuses them."""
    with zipfile.ZipFile(tmp_path / "tiles.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, \
            archive.open("a.jpg", "w") as file:
        for _ in range(300):
            file.write(bytes(1_000_000))
    patched(tmp_path / "tiles.zip", 24, "<I", 1000)
    code = """if True:
        import resource, sys, zipfile
        from vit_helpers.archives import checked_members, read_member
        archive = zipfile.ZipFile(sys.argv[1])
        [member] = checked_members(archive, sys.argv[1])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            read_member(archive, member)
        except zipfile.BadZipFile as problem:
            print(problem)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, "MB")"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "tiles.zip")], capture_output=True, text=True, timeout=60)
    said, grown = done.stdout.splitlines()
    assert said.startswith("Bad CRC-32") and int(grown.split()[0]) < 50, done.stderr


# Pictures

def png_of(width, height):
    """A PNG that declares so many pixels and holds none."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg_of(width, height):
    """A JPEG of 64x64 pixels that declares others."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG")
    content = file.getvalue()
    at = content.index(b"\xff\xc0") + 5                       # the frame header: marker, length, precision; then the size
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4:]


@pytest.mark.parametrize(("pixels", "message"), [
    (50_000, "far too many pixels"), (10_001, "10,001 x 10,001 pixels; 100,000,000")])
@pytest.mark.parametrize("make", [png_of, jpeg_of])
def test_a_picture_with_far_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, make, pixels, message):
    (tmp_path / "bomb").write_bytes(make(pixels, pixels))
    with pytest.raises(ValueError, match=message):
        load_picture(tmp_path / "bomb")


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """EuroSAT is ten tiles, in an archive that this writes with other content for its first tile."""
    monkeypatch.setattr(eurosat, "COUNTS", (1,) * 10)
    monkeypatch.setattr(eurosat, "SHAPE", (10, 3, 64, 64))
    monkeypatch.setenv("VIT_CACHE", str(tmp_path / "cache"))

    def write(first=None):
        pairs = [(f"2750/{name}/{name}_1.jpg", jpeg_of(64, 64)) for name in eurosat.CLASSES]
        archive_of(tmp_path / "EuroSAT.zip", (pairs[0][0], first or pairs[0][1]), *pairs[1:])
        return tmp_path

    return write


def test_a_tile_is_a_small_jpeg_and_nothing_else(tiny):
    assert len(load_tiles("eurosat", root=tiny())) == 10
    png = io.BytesIO()
    Image.new("RGB", (64, 64)).save(png, "PNG")
    for content in (jpeg_of(50_000, 50_000), png_of(50_000, 50_000), png.getvalue(), b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        with pytest.raises(OSError, match=r"AnnualCrop_1\.jpg in .* cannot be read"):
            load_tiles("eurosat", root=tiny(content))


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for Ghostscript is a shell script")
def test_postscript_is_a_program_and_is_not_run(tmp_path, monkeypatch):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "picture.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(x) print\n%%EOF\n")
    with pytest.raises(ValueError, match=r"picture\.jpg is PostScript, which is not read"):
        load_picture(tmp_path / "picture.jpg")
    assert not (tmp_path / "ran").exists()


# Code in files of numbers

class Code:
    """Unpickled without care, this would make a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Code(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", ["zip", "old", "raw", "inside", "array"])
def test_code_in_a_checkpoint_or_in_weights_is_refused_and_does_not_run(tmp_path, form, monkeypatch):
    file, code, model = tmp_path / "run.pt", Code(tmp_path / "ran"), VisionTransformer(embed_dim=16, depth=1, num_heads=1)
    if form == "raw":
        file.write_bytes(pickle.dumps(code, protocol=2))
    elif form == "array":
        np.save(tmp_path / "run.npy", np.array([code], dtype=object), allow_pickle=True)
        (tmp_path / "run.npy").rename(file)
    else:
        state = {"model": {**model.state_dict(), **({"extra": code} if form == "inside" else {})}, "settings": code}
        torch.save(state, file, _use_new_zipfile_serialization=form != "old")
    for load in (lambda: load_checkpoint(file, model), lambda: load_weights(model, file)):
        with pytest.raises(ValueError, match=r"run\.pt is not a"):
            load()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", ["objects", "pickle"])
def test_code_in_a_cached_array_is_not_run_and_the_array_is_made_again(tiny, tmp_path, form):
    root = tiny()
    wanted = load_tiles("eurosat", root=root).images.clone()
    [cached] = (tmp_path / "cache").glob("*.npy")
    code = Code(tmp_path / "ran")
    with open(cached, "wb") as file:
        np.save(file, np.array([code], dtype=object), allow_pickle=True) if form == "objects" else pickle.dump(code, file)
    assert torch.equal(load_tiles("eurosat", root=root).images, wanted) and not (tmp_path / "ran").exists()
    assert torch.equal(torch.from_numpy(np.load(cached)), wanted)


# The shipped weights

SHIPPED = sorted(vit_helpers.pretrained.WEIGHTS.rglob("*.pt"))


def test_each_shipped_file_has_the_checksum_that_stands_beside_it():
    assert len(SHIPPED) == len(list(vit_helpers.pretrained.WEIGHTS.rglob("*.json"))) > 0
    for path in SHIPPED:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest(), path.name


def test_shipped_weights_that_were_replaced_are_not_loaded(tmp_path, monkeypatch):
    for name in ("synthetic", "heads/masked"):
        for suffix in (".json", ".pt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).with_suffix(suffix).write_bytes((vit_helpers.pretrained.WEIGHTS / f"{name}{suffix}").read_bytes())
        state = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        next(iter(state.values())).view(-1)[0] += 1          # still a fine state dict
        torch.save(state, tmp_path / f"{name}.pt")
    monkeypatch.setattr(vit_helpers.pretrained, "WEIGHTS", tmp_path)
    for load in (lambda: load_pretrained("synthetic"), lambda: load_head("masked", tmp_path / "heads")):
        with pytest.raises(ValueError, match=r"has the checksum .* it was damaged or replaced; fetch it again"):
            load()


# What stands in the sources

def sources():
    """The code of the course by the name of its file: the package, and the code cells of the notebooks but the setup cells."""
    for path in sorted((ROOT / "vit_helpers").rglob("*.py")):
        yield path.name, path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        code = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        yield path.name, "\n".join("".join(cell["source"]) for cell in code[1:])


def found(pattern):
    """The lines of the sources, without spaces, that the pattern is found in, with their file."""
    return [(name, line.strip()) for name, text in sources() for line in text.splitlines() if re.search(pattern, line)]


def test_nothing_is_executed_that_was_read():
    assert found(r"^import torch$")                          # the search finds what is there
    assert found(r"shell\s*=\s*True|os\.(system|popen|exec|spawn)|(?<![.\w])(eval|exec|__import__)\(|pickle\.load|marshal"
                 r"|trust_remote_code|torch\.hub\.load\(|extractall|^\s*[!%]") == []


def test_tensors_and_arrays_are_read_without_code():
    assert len(found(r"torch\.load\(")) > 0 and len(found(r"np\.load\(")) > 0
    assert [hit for hit in found(r"torch\.load\(") if "weights_only=True" not in hit[1]] == []
    assert [hit for hit in found(r"np\.load\(") if "allow_pickle=False" not in hit[1]] == []
    assert found(r"weights_only=False|allow_pickle=True") == []


def test_other_programs_are_started_in_the_setup_cell_and_as_several_processes_only():
    """publish.py holds the text of the setup cell; lesson 17 starts this Python again, under torchrun."""
    assert {name for name, _ in found(r"subprocess|Popen")} <= {"publish.py", "17_scaling.ipynb"}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        setup = "".join(cells[0]["source"])
        assert setup == setup_cell(json.loads(re.search(r"^ADDRESS = (.*)$", setup, re.M)[1])), path.name
    scaling = dict(sources()).get("17_scaling.ipynb", "")
    calls = re.findall(r"subprocess\.\w+\(\[(.*)", scaling)
    assert len(calls) == len(re.findall(r"subprocess\.\w+\(", scaling))
    assert all(call.startswith(('sys.executable, "-m", "torch.distributed.run"', "*command")) for call in calls)
    assert all(line.startswith("[sys.executable,") for line in re.findall(r"(?:^| )command = (.*)", scaling))


def test_every_address_is_https():
    """But for servers of a test on this machine, and addresses that a test expects to be refused."""
    here = [path for path in ROOT.iterdir() if path.suffix in (".md", ".toml", ".txt", ".yml", ".cff")]
    inside = [path for folder in ("vit_helpers", "notebooks", "tests", ".github", ".binder", ".ci") for path in
              (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".ipynb", ".json", ".yml", ".txt", ".cfg", "")]
    addresses = [(path.name, address) for path in here + inside if path.is_file()
                 for address in re.findall(r"\b(?:https?|ftp|git)://[\w.{}\\-]+", path.read_text(encoding="utf-8"))]
    assert sum(address.startswith("https://") for _, address in addresses) > 50
    local = re.compile(r"http://(127\W+0\W+0\W+1|localhost)")
    assert [hit for hit in addresses if not hit[1].startswith("https://") and not local.match(hit[1])
            and hit[0] not in ("test_publish.py", "test_security.py")] == []
