"""Downloads that go on where they were interrupted, and end with a checksum."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import httpx
from tqdm.auto import tqdm

from rocketqa_haystack.checkpoints.errors import CheckpointError

#: Bytes read from a file at a time.
CHUNK = 1024 * 1024

#: No official archive is half as large. A server that never stops sending is stopped here.
LARGEST_FILE = 16 * 1024**3

#: Seconds without an answer or without data.
TIMEOUT = 30.0


def download(url: str, target: Path, md5: str) -> None:
    """Downloads a file, which appears under its name only when its checksum is right.

    What an interrupted download left, `target` with `.part` added, is continued. A connection that breaks is taken up
    again as long as each attempt gets further.

    Raises:
        CheckpointError: The server cannot be reached or refuses, or the checksum is wrong; then nothing is left.
    """
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    progress: tqdm[Any]
    with tqdm(desc=f"Downloading {target.name}", unit="B", unit_scale=True, delay=0.5) as progress:
        while True:
            before = _size(part)
            try:
                _fetch(url, part, progress)
                break
            except httpx.HTTPError as error:
                if _size(part) <= before:
                    reason = str(error).split("\n")[0] or type(error).__name__
                    raise CheckpointError(f"{url} cannot be downloaded: {reason}") from error
            except CheckpointError:
                raise
            except (ImportError, ValueError, httpx.InvalidURL) as error:  # proxies of the environment, answers
                raise CheckpointError(f"{url} cannot be downloaded: {str(error).rstrip('.')}") from error
    try:
        check_md5(part, md5)
    except CheckpointError as error:
        part.unlink()
        raise CheckpointError(f"what came from {url} is not the official archive and was removed: {error}") from error
    os.replace(part, target)


def check_md5(path: Path, md5: str) -> None:
    """Compares a file with its checksum.

    Raises:
        CheckpointError: They differ.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != md5:
        raise CheckpointError(f"{path} has the md5 sum {digest.hexdigest()}, not {md5}")


def _fetch(url: str, part: Path, progress: tqdm[Any]) -> None:
    """One attempt to bring the file to its end."""
    start = _size(part)
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    with httpx.stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True) as response:
        if httpx.URL(url).scheme == "https" and response.url.scheme != "https":
            raise CheckpointError(f"{url} leads to {response.url}, which is not https")
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing; the checksum tells whether it is the right file
        response.raise_for_status()
        if not _continues(response, start):
            start = 0
        progress.total = start + int(response.headers.get("Content-Length", 0)) or None
        progress.update(start - progress.n)
        with part.open("ab" if start else "wb") as file:
            for chunk in response.iter_raw():
                file.write(chunk)
                progress.update(len(chunk))
                if file.tell() > LARGEST_FILE:
                    part.unlink()
                    raise CheckpointError(f"{url} sends more than {LARGEST_FILE:,} bytes")


def _continues(response: httpx.Response, start: int) -> bool:
    """Whether a server sends the rest, from the byte asked for, rather than all of it."""
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        return False
    sent = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if sent is None or int(sent[1]) != start:
        raise CheckpointError(f"{response.url} sends another part of the file than it was asked for")
    return True


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
