"""What comes from elsewhere is data, never a program: archives, pictures, weights, checkpoints, caches, addresses."""

import stat
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from vit_helpers.archives import MOST_BYTES, checked_members, read_member

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
