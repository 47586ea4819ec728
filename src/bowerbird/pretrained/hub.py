"""Models by hub name: what would be downloaded is said first, and only safetensors and plain text come."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bowerbird.errors import MissingExtraError, ModelError
from bowerbird.pretrained.configs import first_line

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_AUTOENCODERS = ("vae", "vqvae")
_FOLDERS = ("unet", *_AUTOENCODERS, "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler", "low_res_scheduler")
_ROOT_FILES = ("model_index.json", "config.json", "scheduler_config.json", "tokenizer.json", "preprocessor_config.json")
_WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(\.fp16)?(-\d{5}-of-\d{5})?\.safetensors")


@dataclass(frozen=True)
class Download:
    """What is about to be fetched, for the question that comes first."""

    name: str
    licence: str
    size_bytes: int
    target: Path
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.size_bytes / 2**30:.1f} GiB, licence {self.licence}, to {self.target}"


Ask = Callable[[Download], bool]


def is_hub_name(where: str) -> bool:
    """Whether `where` has the form maker/model."""
    return _HUB_NAME.fullmatch(where) is not None


def download(name: str, ask: Ask | None, offline: bool, only_autoencoder: bool = False) -> Path:
    """The local folder of a hub model, or of its autoencoder, fetched if `ask` agrees; with `offline`, only if it is already here."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise MissingExtraError("huggingface-hub", "pretrained") from error
    try:
        folder = Path(huggingface_hub.snapshot_download(name, local_files_only=True))
        if any((folder / file).is_file() for file in _signs(only_autoencoder)):
            return folder
    except LocalEntryNotFoundError:
        pass  # not here yet
    if offline:
        raise ModelError(f"{name!r} is not on this machine, and --offline forbids fetching it.")
    try:
        info = huggingface_hub.HfApi().model_info(name, files_metadata=True)
    except Exception as error:  # the library lets its HTTP client's errors through, and that client has changed
        raise _unreachable(name, error) from error
    plan = plan_download(name, info, Path(huggingface_hub.constants.HF_HUB_CACHE), only_autoencoder)
    if ask is None or not ask(plan):
        raise ModelError(f"{plan}. Not downloaded: nobody agreed. Say yes when asked, or give --yes.")
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=info.sha, allow_patterns=list(plan.files)))
    except Exception as error:  # as above
        raise _unreachable(name, error) from error


def _unreachable(name: str, error: Exception) -> ModelError:
    return ModelError(f"{name!r} is no path here, and the hub does not give it ({first_line(error)}). Check the name and the connection.")


def _signs(only_autoencoder: bool) -> tuple[str, ...]:
    """Files of which one is there when what is wanted is: only a part of the model may have been fetched before."""
    return ("config.json", *(f"{folder}/config.json" for folder in _AUTOENCODERS)) if only_autoencoder else _ROOT_FILES[:2]


def plan_download(name: str, info: Any, target: Path, only_autoencoder: bool = False) -> Download:
    """Which files are needed: the parts of a diffusers folder, or one of them at the root, each weight once, pickles never."""
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings}
    signs = _signs(only_autoencoder)
    if not sizes.keys() & set(signs):
        raise ModelError(f"{name!r} is not a diffusers model (it has no {' or '.join(signs)}).")
    folders: tuple[str, ...] = ("", *_FOLDERS)
    needed: tuple[str, ...] = ("", "unet")
    if only_autoencoder:
        folders = needed = ("",) if "config.json" in sizes else _AUTOENCODERS
    files = tuple(_parts(sizes, folders))
    if not any(file.endswith(".safetensors") and file.rpartition("/")[0] in needed for file in files):
        raise ModelError(f"{name!r} has no .safetensors weights, only formats that could run code. Look for another copy of the model.")
    card = getattr(info, "card_data", None)
    return Download(name, str(getattr(card, "license", None) or "not stated"), sum(sizes[file] for file in files), target, files)


def _parts(files: Iterable[str], folders: Iterable[str]) -> list[str]:
    by_folder: dict[str, list[str]] = {folder: [] for folder in folders}
    for file in files:
        folder, _, rest = file.rpartition("/")
        words = rest in _ROOT_FILES if folder == "" else rest.endswith((".json", ".txt"))
        if folder in by_folder and (words or _WEIGHTS.fullmatch(rest)):
            by_folder[folder].append(file)
    chosen = []
    for in_folder in by_folder.values():
        whole = [file for file in in_folder if file.endswith(".safetensors") and ".fp16" not in file]
        chosen += [file for file in in_folder if not (whole and ".fp16" in file)]
    return chosen
