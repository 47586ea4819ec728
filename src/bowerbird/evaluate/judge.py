"""`evaluate`: gather the pictures, score them, look for copies, report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from bowerbird import draws
from bowerbird.captioning import from_what_is_known
from bowerbird.conditions.text import medium
from bowerbird.data import Pictures, open_pictures
from bowerbird.errors import ModelError, PictureFolderError
from bowerbird.evaluate import alignment, metrics
from bowerbird.evaluate.copies import find_copies
from bowerbird.evaluate.metrics import Score
from bowerbird.evaluate.reconstruction import Reconstructor, compare_pairs, open_reconstructor
from bowerbird.evaluate.report import Line, Report
from bowerbird.faults import first_fault
from bowerbird.generate import open_place
from bowerbird.locate import find
from bowerbird.models.features import JUDGE, SECOND_OPINION, Features, extract
from bowerbird.painter import BATCH, BatchPainter, Painter
from bowerbird.picture_files import Painted
from bowerbird.pixels import Pixels
from bowerbird.pretrained.clip_model import Clip
from bowerbird.progress import OnProgress, Progress, tell
from bowerbird.recipe import Data
from bowerbird.request import PaintRequest, Syntax
from bowerbird.storage import Disk, ensure_folder

FEWEST = 10
FEWEST_CAPTIONS = 20  # different ones, for finding one among them to say something
WITHIN = (1, 5, 10)  # captions that fit best
SECOND_OPINION_PICTURES = 2000  # a second opinion need not be as sharp as the first
MAX_SIDE_PX = 1024
Compare = Callable[..., list[metrics.Score]]  # metrics.compare, for sets that are pairs or not
_LOOK_PX = 64  # the size at which a folder is read to learn how large its pictures are; most need no other


@dataclass(frozen=True)
class PictureSet:
    """Pictures to compare.  pixels (N, H, W, 3) uint8; a label and a caption for each picture ('' for none), or no labels, no captions."""

    name: str
    pixels: Pixels
    labels: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()


def evaluate(
    generated: Path | Painter | Reconstructor | Pixels,
    against: Path | Pixels,
    train: Path | Pixels | None = None,
    out: Path | None = None,
    on_progress: OnProgress | None = None,
    *,
    captions: Path | None = None,
    clip: Clip | None = None,
    count: int = 1000,
    seed: int = 0,
    device: torch.device | None = None,
) -> Report:
    """Judge pictures against real ones, and look for copies of the ones they were trained on.

    Each set is a folder or an array (N, H, W, 3) uint8; `generated` may be a painter, which then paints `count` pictures from
    `seed` on, or an autoencoder (`open_subject`), which restores those of `against`.  All are brought to the size of the
    generated ones.  `against` should hold real pictures that were not trained on; the training folder itself (of the model, or
    given as `train` too) is split as training splits it, and its held-out pictures are taken.  `captions`: a table of those of
    `against` that lies elsewhere; where a model was trained on `against`, the one its training read is taken by itself.  `clip`
    adds its score of pictures beside their captions.  With `out`, report.html and report.json are written there.
    PictureFolderError when a set has fewer than 10 pictures, or, for `clip`, fewer than 20 captions.
    """
    started = time.monotonic()
    for folder, table in ((generated, None), (against, captions), (train, None)):  # before anything is painted, which may take an hour
        if isinstance(folder, Path):
            open_pictures(folder, _LOOK_PX, on_progress=on_progress, captions=table)
    if out is not None:
        ensure_folder(Disk(), out)
    ours, real, originals = _gather(generated, against, train, captions, clip is not None, count, seed, on_progress)
    for name, pictures in (("generated", ours.pixels), ("real", real.pixels)):
        if len(pictures) < FEWEST:
            raise PictureFolderError(f"{len(pictures)} {name} pictures are too few to judge. Give at least {FEWEST}, better 1,000.")
    if clip is not None:
        _check_captions(ours)
        _check_captions(real)
    reconstructed = compare_pairs(ours.pixels, real.pixels) if isinstance(generated, Reconstructor) else None
    compare = partial(metrics.compare, paired=reconstructed is not None)
    features = extract(ours.pixels, JUDGE, device, on_progress)
    real_features = extract(real.pixels, JUDGE, device, on_progress)
    tell(on_progress, Progress("score", 0, 3))
    lines = [*_by_features(compare, features, real_features), _second_opinion(compare, ours, real, device, on_progress)]
    tell(on_progress, Progress("score", 1, 3))
    lines += _by_scale(compare, ours, real)
    tell(on_progress, Progress("score", 2, 3))
    lines += [*by_words(ours, real, features, real_features), *by_class(ours, real, features, real_features)]
    lines += by_clip(ours, real, clip, on_progress) if clip is not None else []
    tell(on_progress, Progress("score", 3, 3))
    report = Report(
        generated=ours.name,
        against=real.name,
        pixels=ours.pixels,
        real_pixels=real.pixels,
        features=features,
        real_features=real_features,
        lines=tuple(lines),
        copies=None if originals is None else find_copies(ours.pixels, originals, real.pixels, on_progress),
        originals=originals,
        reconstructed=reconstructed,
        seconds=time.monotonic() - started,
    )
    if out is not None:
        report.write(out)
    return report


def open_subject(where: str, device: torch.device, on_progress: OnProgress | None = None) -> Path | Painter | Reconstructor:
    """What is to be judged under that name: a model, which then paints, an autoencoder, which reconstructs, or a folder of pictures."""
    place = find(where, on_progress=on_progress)
    if place is None:
        return Path(where)
    return open_place(place, device, on_progress=on_progress) if place.paints else open_reconstructor(place, device)


# ------------------------------------------------------------------------------------------------ gathering


def _gather(
    generated: Path | Painter | Reconstructor | Pixels,
    against: Path | Pixels,
    train: Path | Pixels | None,
    captions: Path | None,
    must_be_captioned: bool,
    count: int,
    seed: int,
    on_progress: OnProgress | None,
) -> tuple[PictureSet, PictureSet, Pixels | None]:
    """Generated pictures, real ones of the same size, and those that were trained on, if copies of them are to be looked for."""
    if isinstance(generated, Path | np.ndarray):
        ours = read_generated(generated, on_progress)
        return ours, *read_real(against, train, ours.pixels.shape[1], None, captions, on_progress)
    if isinstance(generated, Reconstructor):
        real, _ = read_real(against, train, generated.size_px, generated.training, captions, on_progress)
        return PictureSet(generated.name, generated.reconstruct(real.pixels, on_progress)), real, None
    (first,) = generated.paint(PaintRequest(model="model", seed=seed), on_progress)
    about = generated.describe()
    real, originals = read_real(against, train, first.picture.height, about.get("training", {}), captions, on_progress)
    if must_be_captioned:  # said before the rest is painted
        if "text" not in about.get("conditions", {}):
            raise ModelError("the model does not read text, and CLIP compares pictures with their captions. Leave --clip out.")
        _check_captions(real)
    return paint_like(generated, real, count, seed, on_progress), real, originals


def read_generated(source: Path | Pixels, on_progress: OnProgress | None = None) -> PictureSet:
    """Generated pictures at their own size.  Equal pictures count as often as they are there: painting one picture twice is a fault."""
    if isinstance(source, np.ndarray):
        return PictureSet("generated pictures", source)
    look = open_pictures(source, _LOOK_PX, held_out=0.0, on_progress=on_progress)
    side = int(np.median([min(picture.width, picture.height) for picture in look.examined]))
    pictures = open_pictures(source, min(side, MAX_SIDE_PX), held_out=0.0, on_progress=on_progress)
    rows = {name: row for row, name in enumerate(pictures.names)}
    every = [rows[file.same_as or file.name] for file in pictures.files if file.state in ("accepted", "changed", "duplicate")]
    return _subset(source.name, pictures, np.array(every))


def read_real(
    against: Path | Pixels,
    train: Path | Pixels | None,
    side: int,
    training: Mapping[str, Any] | None = None,
    captions: Path | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[PictureSet, Pixels | None]:
    """Real pictures as squares of `side`: the ones to compare with, and the ones that were trained on, if they are known.

    `training` is what the model's manifest says of its training: the fit of its pictures, and by its fingerprint whether
    `against` is what it was trained on; then the captions are those it learnt, unless another table of `captions` is given.
    """
    training = training or {}
    data = _data_of(training)

    def read(folder: Path, table: Path | None = None) -> Pictures:
        return open_pictures(folder, side, data.fit, data.held_out, data.seed, on_progress, captions=table)

    originals = read(train).pixels if isinstance(train, Path) else train
    if isinstance(against, np.ndarray):
        return PictureSet("real pictures", against), originals
    was_learnt = _trained_on(against, training, on_progress)
    if was_learnt and captions is None and (captions := data.captions_file) is not None and not captions.exists():
        raise PictureFolderError(f"the captions that were learnt, {str(captions)!r}, are not there. Say with --captions where they are.")
    pictures = read(against, captions)
    given_twice = isinstance(train, Path) and train.resolve() == against.resolve()
    if not given_twice and not was_learnt:
        return _subset(against.name, pictures, np.arange(len(pictures.names))), originals
    if not len(pictures.held):
        raise PictureFolderError(f"{str(against)!r} was trained on, and is too small to hold pictures out. Give others to compare with.")
    return _subset(f"{against.name}, held out", pictures, pictures.held), pictures.pixels[pictures.train]


def _trained_on(folder: Path, training: Mapping[str, Any], on_progress: OnProgress | None) -> bool:
    """Whether the pictures of `folder` are those of the training that a manifest tells of.

    Its fingerprint is theirs as that training saw them; a model of latents appends by whose encoder (" in ...").
    """
    recorded = training.get("data_fingerprint")
    if not isinstance(recorded, str):
        return False
    data = _data_of(training)
    pictures = open_pictures(folder, data.size, data.fit, data.held_out, data.seed, on_progress)
    return pictures.fingerprint == recorded.partition(" ")[0]


def _data_of(training: Mapping[str, Any]) -> Data:
    """How a training saw its pictures, as its model's manifest tells; the usual way where it does not."""
    recipe = training.get("recipe")
    data = recipe.get("data", {}) if isinstance(recipe, dict) else {}
    try:
        return Data.model_validate(data)
    except ValidationError as error:
        raise ModelError(f"the model's manifest tells of a training that cannot have been: {first_fault(error)}.") from error


def _subset(name: str, pictures: Pictures, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> PictureSet:
    names = (*pictures.label_names, "")  # label -1 is none
    labels = tuple(names[label] for label in pictures.labels[rows]) if pictures.label_names else ()
    said = pictures.captions if any(pictures.captions) else from_what_is_known(pictures)
    captions = tuple(said[row][0] if said[row] else "" for row in rows)
    return PictureSet(name, pictures.pixels[rows], labels, captions if any(captions) else ())


def paint_like(painter: Painter, real: PictureSet, count: int, seed: int, on_progress: OnProgress | None = None) -> PictureSet:
    """`count` pictures from a painter: by the captions of `real` if it reads text, by its labels if it knows those, in the same shares."""
    conditions = painter.describe().get("conditions", {})
    if "text" in conditions and real.captions:
        return _paint_captions(painter, real, count, seed, on_progress)
    known = set(conditions.get("label", {}).get("names", ()))
    shares = Counter(label for label in real.labels if label in known)
    painted: list[Painted] = []
    for label, number in _proportional(shares, count).items() if shares else [(None, count)]:
        request = PaintRequest(model="model", label=label, count=number, seed=seed + len(painted))
        for one in painter.paint(request):
            tell(on_progress, Progress("paint", len(painted), count, preview=lambda one=one: one.picture))  # type: ignore[misc]
            painted.append(one)
    pixels = np.stack([np.asarray(one.picture.convert("RGB")) for one in painted])
    return PictureSet("painted pictures", pixels, tuple(one.settings.label or "" for one in painted) if shares else ())


def _paint_captions(painter: Painter, real: PictureSet, count: int, seed: int, on_progress: OnProgress | None) -> PictureSet:
    """`count` pictures by the captions of `real`, in turn or evenly chosen; each with the label of the picture the caption is of."""
    captioned = [row for row, caption in enumerate(real.captions) if caption]
    rows = [captioned[number * len(captioned) // count if count < len(captioned) else number % len(captioned)] for number in range(count)]
    requests = [
        PaintRequest(model="model", prompt=real.captions[row], seed=seed + number, literal=list(get_args(Syntax)))
        for number, row in enumerate(rows)
    ]
    painted = list[Painted]()
    for start in range(0, count, BATCH):
        some = requests[start : start + BATCH]
        if isinstance(painter, BatchPainter):
            together = painter.paint_together(some, _unheard)
        else:
            together = ((0, list(painter.paint(one, _unheard))) for one in some)
        for _, pictures in together:
            painted += pictures
            tell(on_progress, Progress("paint", len(painted), count, preview=lambda one=pictures[-1]: one.picture))  # type: ignore[misc]
    pixels = np.stack([np.asarray(one.picture.convert("RGB")) for one in painted])
    labels = tuple(real.labels[row] for row in rows) if real.labels else ()
    return PictureSet("pictures painted by captions", pixels, labels, tuple(real.captions[row] for row in rows))


def _captions_enough(pictures: PictureSet) -> bool:
    return len(set(pictures.captions) - {""}) >= FEWEST_CAPTIONS


def _check_captions(pictures: PictureSet) -> None:
    """PictureFolderError unless there are captions enough to say something of words."""
    if not _captions_enough(pictures):
        raise PictureFolderError(
            f"{pictures.name!r} has {len(set(pictures.captions) - {''})} different captions, and CLIP compares pictures with theirs: "
            f"{FEWEST_CAPTIONS} or more say something. Name a table of them with --captions, or leave --clip out."
        )


def _unheard(event: Progress) -> bool:
    """What is said of each prompt is for those who wrote it."""
    return True


def _proportional(shares: Counter[str], count: int) -> dict[str, int]:
    """`count` divided as `shares` are: whole numbers that add up, none of them 0."""
    names, edges = list(shares), np.cumsum([0, *shares.values()]) * count // shares.total()
    return {name: int(number) for name, number in zip(names, np.diff(edges), strict=True) if number}


# ------------------------------------------------------------------------------------------------ scoring


def _by_features(compare: Compare, features: Features, real: Features) -> list[Line]:
    (kid,) = compare(metrics.kid, features, real)
    (frechet,) = compare(metrics.frechet, features, real)
    near = compare(metrics.neighbourhoods, features, real)
    lines = [
        Line("kid", "KID x1000", JUDGE, "lower", kid.times(1000), "distance between the two sets; 0 when there is no difference"),
        Line("frechet", "Frechet distance", JUDGE, "lower", frechet, "the formula of FID; depends on the number of pictures"),
    ]
    meanings = (
        "share of the painted pictures that look real",
        "share of the real variety that is painted",
        "how deep among real pictures the painted ones lie",
        "share of real pictures with a painted one close by",
    )
    names = metrics.Neighbourhoods._fields
    return lines + [Line(name, name, JUDGE, "higher", s, why) for name, s, why in zip(names, near, meanings, strict=True)]


def _second_opinion(
    compare: Compare, ours: PictureSet, real: PictureSet, device: torch.device | None, on_progress: OnProgress | None
) -> Line:
    features, real_features = (extract(_sample(pictures.pixels), SECOND_OPINION, device, on_progress) for pictures in (ours, real))
    (kid,) = compare(metrics.kid, features, real_features)
    return Line("kid_second_opinion", "KID x1000", SECOND_OPINION, "lower", kid.times(1000), "the same by another network; another scale")


def _sample(pixels: Pixels) -> Pixels:
    """At most 2,000 pictures, in their order."""
    if len(pixels) <= SECOND_OPINION_PICTURES:
        return pixels
    return pixels[np.sort(draws.generator(0, "second opinion", 0).permutation(len(pixels))[:SECOND_OPINION_PICTURES])]


def _by_scale(compare: Compare, ours: PictureSet, real: PictureSet) -> list[Line]:
    patches, real_patches = metrics.laplacian_patches(ours.pixels), metrics.laplacian_patches(real.pixels)
    lines = []
    for side in patches:
        (distance,) = compare(metrics.sliced_wasserstein, patches[side], real_patches[side])
        what = "coarse shapes and colours" if side == min(patches) else "patterns and edges at this scale"
        lines.append(Line(f"swd_{side}", f"sliced Wasserstein x1000 at {side} px", "", "lower", distance.times(1000), what))
    return lines


def by_words(ours: PictureSet, real: PictureSet, features: Features, real_features: Features) -> list[Line]:
    """How often pictures find their captions again, and are of the style these name, where both sets have captions enough."""
    if not (_captions_enough(ours) and _captions_enough(real)):
        return []
    scores = alignment.retrieval(_captioned(ours, features), _captioned(real, real_features), WITHIN)
    meaning = "share of pictures whose caption is among those that fit best"
    lines = [
        Line(f"caption_top_{best}", f"own caption in the best {best}", JUDGE, "higher", score, meaning)
        for best, score in zip(WITHIN, scores, strict=True)
    ]
    styles, real_styles = ([medium(caption) for caption in pictures.captions] for pictures in (ours, real))
    sets = _of_classes(styles, real_styles, features, real_features)
    return lines if sets is None else [*lines, _named("style", "style of the caption", *sets)]


def _captioned(pictures: PictureSet, features: Features) -> tuple[list[str], Features]:
    """The captions there are, and the features of their pictures."""
    rows = [row for row, caption in enumerate(pictures.captions) if caption]
    return [pictures.captions[row] for row in rows], features[rows]


def by_clip(ours: PictureSet, real: PictureSet, clip: Clip, on_progress: OnProgress | None = None) -> list[Line]:
    """The CLIP score of pictures beside their captions, and beside others': what it is worth is between the two."""
    (own, others), (real_own, real_others) = (_clip_scores(pictures, clip, on_progress) for pictures in (ours, real))
    fit, other = "2.5 x cosine of picture and caption, 0 at least", "the same with others' captions"
    return [
        Line("clip_score", "CLIP score", clip.name, "higher", Score(*own, *real_own), fit),
        Line("clip_score_shuffled", "CLIP score, shuffled", clip.name, "lower", Score(*others, *real_others), other),
    ]


def _clip_scores(pictures: PictureSet, clip: Clip, on_progress: OnProgress | None) -> tuple[tuple[float, float], tuple[float, float]]:
    """Mean and margin of the score of pictures with their own captions, and of each with the next other one."""
    rows = [row for row, caption in enumerate(pictures.captions) if caption]
    different = list(dict.fromkeys(pictures.captions[row] for row in rows))
    place = {caption: number for number, caption in enumerate(different)}
    own = torch.tensor([place[pictures.captions[row]] for row in rows])
    said, shown = clip.read(different), clip.look(pictures.pixels[rows], on_progress)
    mine, others = (alignment.clip_score(said[each], shown) for each in (own, (own + 1) % len(different)))
    return _mean(mine), _mean(others)


def _mean(scores: Tensor) -> tuple[float, float]:
    """With its margin of 95 %."""
    return float(scores.mean()), 1.96 * float(scores.std()) / len(scores) ** 0.5


def by_class(ours: PictureSet, real: PictureSet, features: Features, real_features: Features) -> list[Line]:
    """What painted pictures teach of the real ones' classes (the classification accuracy score), and the other way round."""
    sets = _of_classes(ours.labels, real.labels, features, real_features)
    if sets is None:
        return []
    (accuracy,) = metrics.compare(metrics.classification_accuracy, *sets)
    meaning = "of real ones, learnt from painted ones"
    return [Line("classification_accuracy", "classification accuracy", JUDGE, "higher", accuracy, meaning), _named("label", "label", *sets)]


def _named(key: str, what: str, painted: Features, real: Features) -> Line:
    """How often pictures are of the class they should be, to a classifier that learnt it from real ones."""
    (told,) = metrics.compare(lambda some, others: metrics.classification_accuracy(others, some), painted, real)
    return Line(f"{key}_shown", f"{what} is shown", JUDGE, "higher", told, "as a classifier sees it that learnt from real ones")


def _of_classes(ours: Sequence[str], real: Sequence[str], features: Features, real_features: Features) -> tuple[Features, Features] | None:
    """Features of the pictures whose class both sets have, with its number as last column; None where that is too little to learn from."""
    shared = sorted(set(ours) & set(real) - {""})
    if len(shared) < 2:
        return None
    numbers = {name: number for number, name in enumerate(shared)}
    painted, others = (
        np.column_stack([each, [numbers.get(name, -1) for name in names]])[[name in numbers for name in names]].astype(np.float32)
        for names, each in ((ours, features), (real, real_features))
    )
    return (painted, others) if min(len(painted), len(others)) >= FEWEST else None
