"""Make families/clip/merges.txt, the byte-pair merges of CLIP's tokenizer, from OpenAI's published vocabulary.

    pip download --no-deps open_clip_torch==3.3.0
    unzip open_clip_torch-3.3.0-py3-none-any.whl 'open_clip/*.gz'
    python scripts/make_clip_merges.py open_clip/bpe_simple_vocab_16e6.txt.gz

The file in that package (MIT licence) holds 262,144 merges; CLIP uses the first 48,894.
"""

import gzip
import hashlib
import sys
from pathlib import Path

SOURCE_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
NUM_MERGES = 49_152 - 256 - 2
TARGET = Path(__file__).parent.parent / "src/bowerbird/pretrained/families/clip/merges.txt"


def main(source: Path) -> None:
    packed = source.read_bytes()
    if hashlib.sha256(packed).hexdigest() != SOURCE_SHA256:
        raise SystemExit(f"{source} is not the published vocabulary (its SHA-256 differs)")
    _version_line, *merges = gzip.decompress(packed).decode().split("\n")
    TARGET.write_text("#version: 0.2\n" + "".join(f"{merge}\n" for merge in merges[:NUM_MERGES]), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
