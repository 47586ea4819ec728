"""Archives are unpacked member by member: nothing leaves the target, nothing exceeds the caps, nothing is left unsaid."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bowerbird.cache import cache_root
from bowerbird.data import archives as archives_module
from bowerbird.data import open_pictures
from bowerbird.data.archives import open_archive
from bowerbird.errors import PictureFolderError
from tests.data.corpus import encode, marked

GOOD = encode(marked(), "PNG")
# fmt: off
NAMES = [
    "../evil.png", "../../evil.png", "a/../../evil.png", "..\\evil.png", "a\\..\\..\\evil.png", "/tmp/evil.png", "//evil.png", "\\evil.png",
    "\\\\server\\share\\evil.png", "C:\\evil.png", "C:evil.png", "c:/evil.png", "..", "../", ".", "./", "/", "a/..",
    "a/b/../../../evil.png", "....//evil.png/..", "good.png/below.png", "x" * 300 + ".png",
    "/".join(["d" * 200] * 30) + "/e.png", "~/../evil.png", "./../evil.png",
    "a/./../../evil.png", "/proc/self/cwd/evil.png", "/dev/null", "/etc/cron.d/evil", "%2e%2e/../evil.png", "a//../..//evil.png",
]
# fmt: on


def make_zip(path: Path, members: list[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name  # ZipInfo's own cleaning would take the sting out
            archive.writestr(info, data)


def make_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def make_tgz(path: Path, members: list[tuple[str, bytes]]) -> None:
    make_tar(path, members, "w:gz")


MAKERS = {"zip": make_zip, "tar": make_tar, "tgz": make_tgz}


@pytest.fixture(autouse=True)
def _cache_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOWERBIRD_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", MAKERS)
def test_an_archive_is_read_as_the_folder_it_holds(kind: str, tmp_path: Path) -> None:
    """Same names, labels and captions, same pixels, same fingerprint."""
    folder = tmp_path / "pictures"
    members = [(f"{label}/{n}.png", encode(marked(32 + n, 40), "PNG")) for n, label in enumerate(["owl", "hen", "owl"])]
    members.append(("metadata.csv", b"file_name,text\nowl/0.png,an owl\n"))
    for name, data in members:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    MAKERS[kind](tmp_path / f"pictures.{kind}", members)
    one, other = open_pictures(folder, 16), open_pictures(tmp_path / f"pictures.{kind}", 16)
    assert (one.names, one.captions, one.label_names, one.fingerprint) == (
        other.names,
        other.captions,
        other.label_names,
        other.fingerprint,
    )
    assert np.array_equal(one.pixels, other.pixels)
    assert other.report["source"] == f"pictures.{kind}"


@pytest.mark.parametrize("kind", MAKERS)
def test_no_name_leads_outside(kind: str, tmp_path: Path) -> None:
    """One archive for each hostile name, then one with all of them; a good picture in each still arrives."""
    archives = [[("good.png", GOOD), (name, b"evil")] for name in NAMES]
    archives.append([("good.png", GOOD), *((name, b"evil") for name in NAMES)])
    for number, members in enumerate(archives):
        path = tmp_path / f"{number}.{kind}"
        MAKERS[kind](path, members)
        files, refused = open_archive(path)
        assert (files / "good.png").read_bytes() == GOOD
        assert all(verdict.code in {"E_NAME", "E_SAME_NAME"} for verdict in refused.values())
    made = {path for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path}
    made = {path.relative_to(cache_root() / "unpacked") for path in made}  # ValueError: something lies elsewhere
    assert all(path.parts[1] in {"files", "lock.sqlite", "unpacked.json"} for path in made)
    assert not any(Path(likely).exists() for likely in ("/tmp/evil.png", "/evil.png", "/etc/cron.d/evil", tmp_path.parent / "evil.png"))


def special(kind: bytes, target: str = "") -> Callable[[tarfile.TarFile], None]:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("odd.png")
        info.type, info.linkname = kind, target
        archive.addfile(info)

    return add


@pytest.mark.parametrize(
    ("kind", "target", "code"),
    [
        (tarfile.SYMTYPE, "/etc/passwd", "E_LINK"),
        (tarfile.SYMTYPE, "good.png", "E_LINK"),
        (tarfile.LNKTYPE, "../../../etc/passwd", "E_LINK"),
        (tarfile.FIFOTYPE, "", "E_NOT_REGULAR"),
        (tarfile.CHRTYPE, "", "E_NOT_REGULAR"),
        (tarfile.BLKTYPE, "", "E_NOT_REGULAR"),
    ],
)
def test_links_and_devices_are_not_made(kind: bytes, target: str, code: str, tmp_path: Path) -> None:
    """And a file "below" a link is an ordinary file in an ordinary folder, because the link was never there."""
    path = tmp_path / "odd.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("good.png")
        info.size = len(GOOD)
        archive.addfile(info, io.BytesIO(GOOD))
        special(kind, target)(archive)
        info = tarfile.TarInfo("odd.png/below.png")
        info.size = len(GOOD)
        archive.addfile(info, io.BytesIO(GOOD))
    files, refused = open_archive(path)
    assert {name: verdict.code for name, verdict in refused.items()} == {"odd.png": code}
    assert {path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file()} == {"good.png", "odd.png/below.png"}


def test_a_zips_links_and_secrets_are_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.png", GOOD)
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("packed.png", GOOD, compress_type=zipfile.ZIP_LZMA)
        archive.writestr("twice.png", GOOD + b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("twice.png", GOOD + b"2")
        archive.writestr("broken.png", GOOD + b"checksum")
    data = bytearray(path.read_bytes())
    data[data.index(b"checksum")] ^= 1
    path.write_bytes(data)
    pictures = open_pictures(path, 16)
    states = sorted((file.name, file.code or file.state) for file in pictures.files)
    assert states == [
        ("broken.png", "E_DAMAGED"),
        ("good.png", "accepted"),
        ("link.png", "E_LINK"),
        ("packed.png", "E_FORMAT"),
        ("twice.png", "E_SAME_NAME"),
        ("twice.png", "accepted"),
    ]


def test_a_member_may_not_exceed_its_cap_nor_the_archive_its_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member whose header understates it is cut off at the cap; zeros by the gigabyte stop the unpacking."""
    monkeypatch.setattr(archives_module, "MAX_FILE_BYTES", 10_000)
    make_tgz(tmp_path / "a.tgz", [("good.png", GOOD), ("large.png", bytes(20_000))])
    assert {name: verdict.code for name, verdict in open_archive(tmp_path / "a.tgz")[1].items()} == {"large.png": "E_TOO_BIG"}
    monkeypatch.setattr(archives_module, "_GROWTH_FLOOR", 50_000)
    monkeypatch.setattr(archives_module, "MAX_GROWTH", 10)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(100):
            archive.writestr(f"{number}.png", bytes(9_000))
    with pytest.raises(PictureFolderError, match="grows more than 10-fold"):
        open_archive(tmp_path / "b.zip")
    assert not list((cache_root() / "unpacked").glob("*/unpacked.json"))[1:]  # only the first archive counts as unpacked


def test_a_header_that_claims_gigabytes_is_not_believed(tmp_path: Path) -> None:
    """A long-name header of 8 GB over compressed zeros would be read into memory by tarfile."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 8 * 2**30
    with gzip.open(tmp_path / "a.tgz", "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    with pytest.raises(PictureFolderError, match="damaged"):
        open_archive(tmp_path / "a.tgz")


@pytest.mark.parametrize("kind", MAKERS)
def test_an_archive_cut_short_is_refused_wherever_it_is_cut(kind: str, tmp_path: Path) -> None:
    """Half a set must not pass for the whole: Python's tarfile takes a cut between two members for the end."""
    rng = np.random.default_rng(0)
    MAKERS[kind](tmp_path / "whole", [(f"{n}.png", GOOD + rng.bytes(3_000)) for n in range(5)])
    data = (tmp_path / "whole").read_bytes()
    end = len(data) - (10_240 if kind == "tar" else 0)  # what follows in a tar is padding
    for cut in [*range(600, end, end // 10), 3 * 512 * (len(data) // 512 // 6)]:
        (tmp_path / f"cut-{cut}").write_bytes(data[:cut])
        with pytest.raises(PictureFolderError, match="damaged or cut short"):
            open_archive(tmp_path / f"cut-{cut}")


def test_a_tgz_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    """gzip's checksum covers the whole stream, so no flip in data or checksum passes, however late it shows."""
    make_tgz(tmp_path / "whole", [(f"{n}.png", GOOD + np.random.default_rng(n).bytes(3_000)) for n in range(5)])
    data = (tmp_path / "whole").read_bytes()
    for place in [*range(100, len(data), len(data) // 10), len(data) - 7, len(data) - 2]:
        (tmp_path / f"flipped-{place}").write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        with pytest.raises(PictureFolderError, match="damaged or cut short"):
            open_archive(tmp_path / f"flipped-{place}")


def test_an_archive_is_unpacked_once_and_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    make_zip(path, [("one.png", GOOD)])
    files, _ = open_archive(path)
    first = (files / "one.png").stat().st_mtime_ns
    open_archive(path)
    assert (files / "one.png").stat().st_mtime_ns == first
    make_zip(path, [("two.png", GOOD)])
    files, _ = open_archive(path)
    assert [path.name for path in files.iterdir()] == ["two.png"]
