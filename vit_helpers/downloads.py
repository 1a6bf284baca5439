"""Files from the network: an interrupted download goes on where it ended, and none is used before its checksum is right."""

import os
import threading
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from .runtime import Progress, patiently

ATTEMPTS = 5                                 # to go on with a download that breaks off


def fetch_file(address, path, md5):
    """Fetch the file at `address` to `path`, unless it is there; what an earlier attempt has received is not fetched again.

    The file gets its name when its checksum `md5` is right, so one that is there is whole. Raises TimeoutError for a network
    that is silent for ten seconds, OSError for one that fails, and for a file that is not the one that was published.
    """
    from torchvision.datasets.utils import check_integrity  # here, so that importing the package stays quick

    if path.exists():
        return
    part, over = path.with_name(f"{path.name}.part"), threading.Event()
    part.parent.mkdir(parents=True, exist_ok=True)
    bar = Progress(desc=f"downloading {path.name}", unit="B", unit_scale=True, delay=1)      # none where no network is

    def received():
        size = part.stat().st_size if part.exists() else 0
        bar.update(size - bar.n)
        return size

    try:
        if not check_integrity(part, md5):           # of a process that was killed when it was nearly done
            patiently(lambda: _fetch(address, part, bar, over), received)
        if not check_integrity(part, md5):
            part.unlink(missing_ok=True)
            raise OSError(f"what {address} sends is not the file that was published there: its checksum differs")
        os.replace(part, path)
    except HTTPException as problem:                 # not an OSError
        raise OSError(f"{address} does not answer as a server should ({problem})") from problem
    finally:
        over.set()                                   # after Ctrl-C no thread goes on in the background
        bar.close()


def _fetch(address, part, bar, over):
    """Receive the file, from where `part` ends if the server can, until it is whole or the event `over` is set."""
    for _ in range(ATTEMPTS):
        have = part.stat().st_size if part.exists() else 0
        try:
            answer = urlopen(Request(address, headers={"Range": f"bytes={have}-"} if have else {}))
        except HTTPError as problem:
            if problem.code == 416:                  # there is no such place in the file: what is here is no part of it
                part.unlink()
            raise
        with answer:
            have *= answer.status == 206             # 200: the server begins from the start
            bar.total = have + int(answer.headers["Content-Length"] or 0)
            with open(part, "ab" if have else "wb", buffering=0) as file:
                while not over.is_set() and (chunk := answer.read1(1 << 16)):        # read1: what is there, however little
                    file.write(chunk)
        if over.is_set() or part.stat().st_size >= bar.total:
            return
    raise OSError(f"only {part.stat().st_size:,} of {bar.total:,} bytes arrived in {ATTEMPTS} attempts")
