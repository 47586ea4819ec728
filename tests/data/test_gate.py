"""Whatever lies in the folder, every file ends in exactly one state, and nothing breaks."""

from __future__ import annotations

import io
import json
import os
import platform
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from bowerbird.data import Pictures, open_pictures
from bowerbird.data.decode import examine
from bowerbird.data.names import printable
from tests.data.corpus import PRIVATE, SIZE, Case, corpus, encode, marked, tree_hash, write
from tests.data.mutants import mutant, seeds

CASES = corpus()


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd") / "corpus"
    write(folder, CASES)
    return folder


@pytest.fixture(scope="module")
def opened(odd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pictures, str, str]:
    """The corpus as read, and the tree's hash before and after."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWERBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        before = tree_hash(odd_folder)
        pictures = open_pictures(odd_folder, SIZE)
        return pictures, before, tree_hash(odd_folder)


@pytest.mark.parametrize("case", CASES, ids=[printable(case.name)[:60] for case in CASES])
def test_every_odd_file_ends_in_its_state(case: Case, opened: tuple[Pictures, str, str]) -> None:
    """The state is part of the promise; and an accepted file proves by its four quadrants that it was read the right way
    round, in the right colours.  JPEG and palettes may be off by a few of 255 levels."""
    pictures = opened[0]
    name = printable(case.name)
    states = {file.name: file for file in pictures.files}
    if case.state == "inside":  # of a folder that is left out as a whole
        assert name not in states and states[case.why].code == "E_OURS"
        return
    file = states[name]
    assert (file.state, file.code or printable(file.same_as) or " ".join(file.changes)) == (case.state, case.why), file.reason
    if file.state in {"accepted", "changed"} and case.shows is not None:
        square = pictures.pixels[pictures.names.index(name)].astype(int)
        quarter = SIZE // 4
        seen = square[quarter - 1 :: 2 * quarter, quarter - 1 :: 2 * quarter].reshape(4, 3)
        np.testing.assert_allclose(seen, case.shows, atol=12)


def test_counts_add_up_and_nothing_is_hidden(opened: tuple[Pictures, str, str], odd_folder: Path) -> None:
    """Each file below the folder is in the report once: by its own name, or within a folder that is."""
    report, files = opened[0].report, opened[0].files
    names = [file.name for file in files]
    assert len(names) == len(set(names)) == report["files"] == sum(report["counts"].values())
    assert report["counts"] == Counter(file.state for file in files)
    assert report["pictures"] == report["counts"]["accepted"] + report["counts"]["changed"] == len(opened[0].pixels)
    left_out = tuple(name for name in names if name.endswith("/"))
    on_disk = {printable(str(path.relative_to(odd_folder))) for path in odd_folder.rglob("*") if path.is_symlink() or not path.is_dir()}
    assert {name for name in on_disk if not name.startswith(left_out)} == {name for name in names if not name.endswith("/")}


def test_the_users_files_are_untouched(opened: tuple[Pictures, str, str]) -> None:
    """Path, mode, size, times and bytes of every file are the same after as before."""
    assert opened[1] == opened[2]


def test_no_private_metadata_survives(opened: tuple[Pictures, str, str]) -> None:
    """Authors, serial numbers and places stand in the pictures' EXIF; the report and the cache take pixels only."""
    cache = Path(os.environ["BOWERBIRD_CACHE"])  # of this test; the module's lies beside it
    held = b"".join(path.read_bytes() for path in cache.parent.rglob("*") if path.suffix in {".sqlite", ".u8"})
    for secret in PRIVATE:
        assert secret not in json.dumps(opened[0].report)
        assert secret.encode() not in held


def test_500_mutants_each_end_in_one_state(tmp_path: Path) -> None:
    """No damage gets a file out of the gate without a verdict, or the gate out of order.  10,000 of them: `make prove-data`."""
    originals = seeds()
    for number in range(500):
        name, data = mutant(originals, number)
        (tmp_path / name).write_bytes(data)
    before = tree_hash(tmp_path)
    pictures = open_pictures(tmp_path, SIZE)
    assert {file.name for file in pictures.files} == {path.name for path in tmp_path.iterdir()}
    assert sum(pictures.report["counts"].values()) == 500
    assert pictures.report["counts"]["rejected"] > 50 and len(pictures.pixels) > 50  # both sides of the gate are reached
    assert tree_hash(tmp_path) == before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library fills new memory when asked")
def test_rows_that_a_damaged_tiff_does_not_hold_are_black() -> None:
    """They are not what the memory held before, here 255 and 85, so that two scans of one file see one picture."""
    side, file = 128, io.BytesIO()
    Image.new("1", (side, side), 1).save(file, "TIFF", compression="group4")
    whole = Image.open(file)
    assert isinstance(whole, TiffImageFile)
    (start,), (length,) = whole.tag_v2[273], whole.tag_v2[279]
    data = bytearray(file.getvalue())
    data[start + length // 2 : start + length] = bytes(length - length // 2)
    for byte in (255, 85):
        rubbish = [bytes([byte]) * count for count in range(600, 20_000, 10)]
        del rubbish
        found, pixels = examine(bytes(data), ".tif", side, "crop")
        assert found.code == "" and pixels is not None
        assert pixels[: side // 4].min() == 255 and pixels[-side // 4 :].max() == 0


def test_large_pictures_shrink_as_the_field_shrinks_them(tmp_path: Path) -> None:
    """Decoding JPEG at a reduced scale and reducing by whole factors is a shortcut: it must show what antialiased bicubic
    of the whole picture shows, to about one level of 255."""
    y, x = np.mgrid[:900, :1300].astype(np.float64)
    smooth = np.stack([127 + 120 * np.sin(x / 70 + k) * np.cos(y / 90 - k) for k in range(3)], -1).astype(np.uint8)
    whole = Image.fromarray(smooth)
    whole.save(tmp_path / "a.png")
    whole.save(tmp_path / "b.jpg", quality=98, subsampling=0)
    reference = np.asarray(whole.resize((64, 64), Image.Resampling.BICUBIC, box=(200, 0, 1100, 900)), int)
    for square in open_pictures(tmp_path, 64).pixels:
        assert np.abs(square.astype(int) - reference).mean() < 1


def test_padding_keeps_the_whole_picture_on_white(tmp_path: Path) -> None:
    """48 x 32 at 24 px is 24 x 16, so the first and last four rows are the white ground."""
    marked().save(tmp_path / "a.png")
    square = open_pictures(tmp_path, 24, "pad").pixels[0]
    assert (square[:4] == 255).all() and (square[-4:] == 255).all()
    np.testing.assert_allclose(
        square[[7, 7, 16, 16], [5, 18, 5, 18]], [[220, 30, 30], [30, 200, 40], [40, 50, 220], [230, 220, 40]], atol=2
    )


_TRAP = """
def _misbehave(path):
    while "spins" in path:
        pass
    if "dies" in path:
        os.kill(os.getpid(), signal.SIGSEGV)


"""


def test_a_decoder_that_dies_or_hangs_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of the children is replaced by one that kills itself on one file and spins on another.  The kernel's
    clock ends the second; the files around them come through."""
    from bowerbird.data import workers

    program = tmp_path / "program.py"
    source = Path(workers.__file__).with_name("decode.py").read_text()
    source = source.replace("MAX_CPU_SECONDS = 20.0", "MAX_CPU_SECONDS = 0.5")
    source = source.replace("            _start_clock()\n", "            _start_clock()\n            _misbehave(path)\n")
    program.write_text(source.replace("def main()", _TRAP + "def main()"))
    monkeypatch.setattr(workers, "_PROGRAM", program)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, name in enumerate(("a", "dies", "m", "spins", "z")):
        (folder / f"{name}.png").write_bytes(encode(marked(48, 32 + number), "PNG"))
    pictures = open_pictures(folder, SIZE)
    assert {file.name: file.code for file in pictures.files} == {
        "a.png": "",
        "dies.png": "E_CRASH",
        "m.png": "",
        "spins.png": "E_TIMEOUT",
        "z.png": "",
    }
    assert threading.active_count() < 5  # nobody is left listening to the dead


def test_the_corpus_is_the_same_every_time() -> None:
    """No file has the time of its making inside: figures about it, and about what is made from it, can be compared."""
    before = {case.name: case.make for case in CASES}
    time.sleep(2.1)  # zip counts in steps of two seconds
    after = {case.name: case.make for case in corpus()}
    assert [name for name, make in before.items() if isinstance(make, bytes) and make != after[name]] == []
