"""A trained model -> a bundled one: half precision, with its licence note.

    python scripts/bundle_model.py RUN autoencoder-8x
    python scripts/bundle_model.py RUN@latest starter

The bundled ones were trained on the `parts` split of the project's pictures (emoji, clip art, animals, some photographs),
and never saw `bench` or `held`, on which benchmarks train and are judged.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from bowerbird.generate import BUNDLED, find_model_folder, open_autoencoder
from bowerbird.model_folder import open_latent_space, open_model_folder, open_representations, read_manifest, save_model
from bowerbird.storage import Disk

LICENCE = (
    "Weights: Apache-2.0, as Bowerbird. Trained on drawings and photographs under public domain, CC0, MIT, Apache-2.0 and CC-BY licences "
    "(openclipart, gcompris, Fluent emoji, Noto emoji, Firefox emoji, Twemoji by Twitter and contributors, Streamline emoji by Streamline)."
)


def main() -> None:
    run, name = sys.argv[1:]
    folder = find_model_folder(run)
    manifest = read_manifest(folder).model_copy(update={"licence": LICENCE})
    samples = (folder / "samples.png").read_bytes()
    if manifest.rung == "autoencoder":
        save_model(Disk(), BUNDLED / name, open_autoencoder(folder, torch.device("cpu")).half(), manifest, samples)
    else:
        model, space = open_model_folder(folder)[0].half(), open_latent_space(folder, manifest)
        space.autoencoder.half()
        save_model(Disk(), BUNDLED / name, model, manifest, samples, space, open_representations(folder))
    print(BUNDLED / name, sum(file.stat().st_size for file in Path(BUNDLED / name).rglob("*") if file.is_file()), "bytes")


if __name__ == "__main__":
    main()
