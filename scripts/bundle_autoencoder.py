"""A trained autoencoder -> the bundled one: half precision, best model of the run, with its licence note.

    python scripts/bundle_autoencoder.py RUN autoencoder-8x

The bundled ones were trained on the `parts` split of the project's pictures (emoji, clip art, animals, some photographs),
and never saw `bench` or `held`, on which benchmarks train and are judged.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from bowerbird.generate import BUNDLED, find_model_folder, open_autoencoder
from bowerbird.model_folder import read_manifest, save_model
from bowerbird.storage import Disk

LICENCE = (
    "Weights: Apache-2.0, as Bowerbird. Trained on drawings and photographs under public domain, CC0, MIT, Apache-2.0 and CC-BY licences "
    "(openclipart, gcompris, Fluent emoji, Noto emoji, Firefox emoji, Twemoji by Twitter and contributors, Streamline emoji by Streamline)."
)


def main() -> None:
    run, name = sys.argv[1:]
    folder = find_model_folder(run)
    manifest = read_manifest(folder).model_copy(update={"licence": LICENCE})
    autoencoder = open_autoencoder(folder, torch.device("cpu"))
    save_model(Disk(), BUNDLED / name, autoencoder.half(), manifest, (folder / "samples.png").read_bytes())
    print(BUNDLED / name, sum(file.stat().st_size for file in Path(BUNDLED / name).rglob("*") if file.is_file()), "bytes")


if __name__ == "__main__":
    main()
