"""Zip archives from elsewhere: what they say they hold is checked before anything in them is read. Nothing is unpacked."""

import stat
import unicodedata
import zipfile
from pathlib import PurePosixPath

MOST_BYTES = 100_000_000             # of one file in an archive: it is held in memory while it is decoded
MOST_RATIO = 100                     # bytes out for one byte in, in large archives; pictures give 1 to 3, a bomb a thousand


def checked_members(archive, place):
    """The files in an open zipfile.ZipFile that comes from `place`: a list of zipfile.ZipInfo, without the folders.

    Only what the archive declares is looked at, so this is quick and safe for any archive; read with `read_member`. Raises
    ValueError, naming `place` and the first member at fault, for a path that leads out of the archive (`../`, absolute, with
    a drive letter), a name with characters that cannot be seen, a name that is there twice, a link or a device, an encrypted
    file, a compression other than deflate, and for a bomb: a file of more than 100 MB, files that unpack to more than that and
    a hundred times the archive's size, or files that share their bytes.
    """
    def refuse(member, what):
        raise ValueError(f"{place} holds {member.orig_filename!r}, {what}; nothing of it was unpacked. Fetch the archive "
                         "again from where it is published, or pack it anew from plain files")

    found, taken = [], set()
    for member in archive.infolist():
        # The name as it was written: zipfile itself cuts it off at a zero byte.
        path = PurePosixPath(member.orig_filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in member.orig_filename:
            refuse(member, "which leads out of the archive")
        if not member.orig_filename.isprintable():
            refuse(member, "a name with characters that cannot be seen")
        # The upper half is the mode of Unix; 0 where another system packed.
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            refuse(member, "which is a link or a device, not a file")
        name = unicodedata.normalize("NFC", str(path))       # an accent has two spellings
        if name in taken:
            refuse(member, "which is in it twice")
        taken.add(name)
        if member.is_dir():
            continue
        if member.flag_bits & 0x1:
            refuse(member, "which is encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            refuse(member, f"which is packed by method {member.compress_type}; only plain and deflated files are read")
        if member.file_size > MOST_BYTES:
            refuse(member, f"which unpacks to {member.file_size:,} bytes; {MOST_BYTES:,} are the most")
        found.append(member)
    packed, unpacked = (sum(getattr(member, size) for member in found) for size in ("compress_size", "file_size"))
    size = archive.fp.seek(0, 2)
    if packed > size:
        raise ValueError(f"{place} has {size:,} bytes but holds files of {packed:,} packed bytes: they share their bytes, as "
                         "in a zip bomb; nothing of it was unpacked. Fetch the archive again from where it is published")
    if unpacked > max(MOST_BYTES, MOST_RATIO * size):
        raise ValueError(f"{place} has {size:,} bytes and unpacks to {unpacked:,}, more than {MOST_RATIO} times as much, as a "
                         "zip bomb does; nothing of it was unpacked. Fetch the archive again from where it is published")
    return found


def read_member(archive, member):
    """The content, bytes, of one of `checked_members`; never more than it declares, whatever is packed in it.

    Raises zipfile.BadZipFile where the content is not what its checksum says.
    """
    with archive.open(member) as file:
        return file.read(member.file_size + 1)       # without a number, up to 2 GB of a liar would be unpacked at once
