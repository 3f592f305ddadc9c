"""Extraction of archives: what comes out of good ones, and that bad ones give the one error and leave nothing."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rocketqa_haystack.checkpoints import archive as archive_module
from rocketqa_haystack.checkpoints.archive import extract_archive
from rocketqa_haystack.checkpoints.errors import CheckpointError

#: What extraction may take at any time: a few chunks, and what the decompressor keeps.
MEMORY_BOUND = 2 * 1024 * 1024

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **attributes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(data)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def tar_of(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of these headers, each followed by its data, whatever the header says of it."""
    parts = []
    for info, data in members:
        parts.append(info.tobuf(format) + data + b"\0" * (-len(data) % 512))
    return b"".join(parts) + b"\0" * 1024


GOOD = tar_of(
    (member("top/", kind=tarfile.DIRTYPE), b""),
    (member("top/config.json", b"{}", mode=0o4777, uid=1234), b"{}"),
    (member("./top/params/a b", b"x" * 700), b"x" * 700),
    (member("top/empty"), b""),
)


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_folders_and_files_come_out_without_modes_and_owners(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(pack(GOOD))
    extract_archive(tmp_path / "a", tmp_path / "out")
    files = {str(p.relative_to(tmp_path / "out")): p for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert sorted(files) == ["top/config.json", "top/empty", "top/params/a b"]
    assert files["top/params/a b"].read_bytes() == b"x" * 700
    assert files["top/config.json"].stat().st_mode & 0o7111 == 0


def test_long_names_come_out(tmp_path: Path) -> None:
    name = "top/" + "n" * 200
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        (tmp_path / "a").write_bytes(tar_of((member(name, b"1"), b"1"), format=format))
        extract_archive(tmp_path / "a", tmp_path / str(format))
        assert (tmp_path / str(format) / name).read_bytes() == b"1"


def headers(kind: bytes, size: int) -> bytes:
    return member("x", kind=kind, size=size).tobuf(tarfile.USTAR_FORMAT)


def pax(records: dict[str, str]) -> tuple[tarfile.TarInfo, bytes]:
    """An extended header."""
    data = b""
    for key, value in records.items():
        length = len(f" {key}={value}\n") + 3  # of three digits
        data += f"{length:03} {key}={value}\n".encode()
    return member("x", data, kind=tarfile.XHDTYPE), data


def sparse(**records: str) -> bytes:
    """A file that is nothing but a hole, in GNU's newer forms, where it has the type of a plain file."""
    header = pax({f"GNU.sparse.{key}": value for key, value in records.items()})
    return tar_of(header, (member("zeros", b"0\n"), b"0\n"), format=tarfile.USTAR_FORMAT)


PAX = b"30 comment=aaaaaaaaaaaaaaaaaa\n"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "an absolute name": (tar_of((member("/tmp/evil", b"1"), b"1")), "outside"),
    "a parent": (tar_of((member("top/../../evil", b"1"), b"1")), "outside"),
    "a parent as a folder": (tar_of((member("..", kind=tarfile.DIRTYPE), b"")), "outside"),
    "a backslash": (tar_of((member("..\\evil", b"1"), b"1")), "outside"),
    "a symbolic link": (tar_of((member("top/l", kind=tarfile.SYMTYPE, linkname="/etc"), b"")), "neither a folder"),
    "a hard link": (tar_of((member("top/l", kind=tarfile.LNKTYPE, linkname="/etc/passwd"), b"")), "neither a folder"),
    "a device": (tar_of((member("top/d", kind=tarfile.CHRTYPE, devmajor=1), b"")), "neither a folder"),
    "a block device": (tar_of((member("top/d", kind=tarfile.BLKTYPE, devmajor=1), b"")), "neither a folder"),
    "a pipe": (tar_of((member("top/p", kind=tarfile.FIFOTYPE), b"")), "neither a folder"),
    "an unknown type": (tar_of((member("top/p", kind=b"Z"), b"")), "neither a folder"),
    "a sparse file": (
        tar_of((member("s", kind=tarfile.GNUTYPE_SPARSE), b"")),
        "neither a folder|oversized|broken|cannot be extracted",
    ),
    "a sparse file of form 0.1": (sparse(map="0,0", size="300000000"), "neither a folder"),
    "a sparse file of form 0.1 with its real size": (sparse(map="0,0", realsize="300000000"), "neither a folder"),
    "a sparse file of form 1.0": (sparse(major="1", minor="0", name="zeros", realsize="300000000"), "neither a folder"),
    "one name twice": (tar_of((member("a", b"1"), b"1"), (member("a", b"2"), b"2")), "two members"),
    "a file as a folder": (tar_of((member("a", b"1"), b"1"), (member("a/b", b"2"), b"2")), "cannot be extracted"),
    "folders without end": (tar_of((member("/".join("a" * 40), b"1"), b"1")), "folders deep"),
    "a member larger than its header": (
        tar_of((member("a", b"1" * 512), b"1" * 5000), (member("b", b"2"), b"2")),
        "broken header, or a member larger",
    ),
    "a member smaller than its header": (tar_of((member("a", size=10**6), b"1" * 1000)), "cannot be extracted|ends"),
    "a member of no end": (tar_of((member("a", size=8**11 - 1), b"1" * 1000)), "cannot be extracted|ends"),
    "a damaged header": (GOOD[:512] + b"\1" * 512 + GOOD[1024:], "broken header"),
    "an extended header of gigabytes": (headers(tarfile.XHDTYPE, 8**11 - 1) + b"\0" * 5000, "oversized headers"),
    "a long name of gigabytes": (headers(tarfile.GNUTYPE_LONGNAME, 8**11 - 1) + b"\0" * 5000, "oversized headers"),
    "headers without end": (
        (headers(tarfile.XHDTYPE, len(PAX)) + PAX.ljust(512, b"\0")) * 5000 + GOOD,
        "oversized headers",
    ),
    "global headers without end": (
        (headers(tarfile.XGLTYPE, len(PAX)) + PAX.ljust(512, b"\0")) * 5000 + GOOD,
        "oversized headers",
    ),
    "no archive": (b"{}" * 1000, "cannot be extracted"),
    "nothing": (b"", "cannot be extracted"),
}


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_is_left(
    name: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    data, message = HOSTILE[name]
    (tmp_path / "a").write_bytes(pack(data))
    with pytest.raises(CheckpointError, match=message):
        extract_archive(tmp_path / "a", tmp_path / "in" / "out")
    assert list((tmp_path / "in").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "in"]


def test_compressed_data_is_read_to_its_checksum(tmp_path: Path) -> None:
    whole = gzip.compress(GOOD)
    for damaged in (whole[:-9], whole[:-8] + bytes(4) + whole[-4:], whole[: len(whole) // 2]):
        (tmp_path / "a").write_bytes(damaged)
        with pytest.raises(CheckpointError):
            extract_archive(tmp_path / "a", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def bomb(size: int) -> bytes:
    """A file of zeros, compressed in parts so that making it takes no memory."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb") as file:
        file.write(member("zeros", size=size).tobuf())
        for _ in range(size // 1_000_000):
            file.write(bytes(1_000_000))
    return buffer.getvalue()


@pytest.mark.parametrize("before", [b"", GOOD])
def test_an_archive_that_expands_without_end_is_stopped(
    before: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "FREE_SIZE", 1024 * 1024)
    data = gzip.compress(before) + bomb(50_000_000)  # after the end of an archive, too
    (tmp_path / "a").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="would expand to more than"):
        extract_archive(tmp_path / "a", tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY_BOUND
    assert not (tmp_path / "out").exists()


def test_members_without_number_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "MOST_MEMBERS", 3)
    (tmp_path / "a").write_bytes(GOOD)
    with pytest.raises(CheckpointError, match="more than 3 members"):
        extract_archive(tmp_path / "a", tmp_path / "out")


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.REGTYPE])
def test_folders_without_number_are_stopped(kind: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that a name implies: a member of 512 bytes, hardly any when compressed, makes fifteen."""
    monkeypatch.setattr(archive_module, "FREE_SIZE", 1024 * 1024)
    names = [f"{number}/" + "/".join("a" * 15) for number in range(100)]
    (tmp_path / "a").write_bytes(gzip.compress(tar_of(*((member(name, kind=kind), b"") for name in names))))
    with pytest.raises(CheckpointError, match="would expand to more than"):
        extract_archive(tmp_path / "a", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An archive with bytes changed, cut off or added; of any members; or any bytes at all."""
    kinds = st.sampled_from([bytes([kind]) for kind in b"\0" + b"0123456789gxLKSDV"])
    some = st.lists(st.tuples(st.text(max_size=12), kinds, st.binary(max_size=600), st.integers(0, 2_000)), max_size=4)
    made = some.map(
        lambda members: tar_of(*((member(name, kind=kind, size=size), data) for name, kind, data, size in members))
    )
    data = bytearray(draw(st.one_of(st.just(GOOD), made, st.binary(max_size=2_000))))
    for _ in range(draw(st.integers(0, 4))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    data = data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data
    return gzip.compress(bytes(data)) if draw(st.booleans()) else bytes(data)


@given(data=damaged())
@quick
def test_whatever_the_archive_only_the_error_comes_of_it_and_nothing_outside(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "a").write_bytes(data)
    message = None
    tracemalloc.start()
    try:
        extract_archive(folder / "a", folder / "out")
    except CheckpointError as error:
        message = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message is None or str(folder / "a") in message
    assert sorted(path.name for path in folder.iterdir()) == (["a", "out"] if message is None else ["a"])
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert peak < MEMORY_BOUND
