"""A trained model -> a bundled one: half precision, with its licence note.

    python scripts/bundle_model.py RUN autoencoder-8x
    python scripts/bundle_model.py RUN@latest starter

The bundled ones were trained on the `parts` split of the project's pictures (emoji, clip art, animals, some photographs),
and never saw `bench` or `held`, on which benchmarks train and are judged.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from bowerbird.locate import BUNDLED, locate
from bowerbird.model_folder import open_model_folder, save_model
from bowerbird.storage import Disk

LICENCE = (
    "Weights: Apache-2.0, as Bowerbird. Trained on drawings and photographs under public domain, CC0, MIT, Apache-2.0 and CC-BY licences "
    "(openclipart, gcompris, Fluent emoji, Noto emoji, Firefox emoji, Twemoji by Twitter and contributors, Streamline emoji by Streamline)."
)


def main() -> None:
    run, name = sys.argv[1:]
    place = locate(run)
    model = open_model_folder(place.path)
    model = replace(model, about=model.about.model_copy(update={"licence": LICENCE}))
    for network in (model.denoiser, model.space.autoencoder):
        if network is not None:
            network.half()
    save_model(Disk(), BUNDLED / name, model, (place.path / "samples.png").read_bytes())
    print(BUNDLED / name, sum(file.stat().st_size for file in Path(BUNDLED / name).rglob("*") if file.is_file()), "bytes")


if __name__ == "__main__":
    main()
