"""The pictures that networks are trained on: Tiny ImageNet, or crops of the photographs that Python packages ship."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from modeq.errors import InvalidProblem, MissingDependency

SIZE = 64
# The real photographs among the pictures of each package; others are drawings, text, or no pictures.
_PHOTOGRAPHS = {
    ("skimage", "data"): (
        "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png",
        "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png",
        "retina.jpg", "rocket.jpg",
    ),
    ("sklearn", "datasets/images"): ("china.jpg", "flower.jpg"),
}  # fmt: skip


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures of 64×64 in three channels.

    Attributes
    ----------
    name : str
        What they are, for captions.
    labels : Tensor of int64, shape [n]
        From 0 to classes - 1.
    classes : int
        How many there are.
    read : function
        From indices to uint8 values, shape [k, 64, 64, 3].
    """

    name: str
    labels: Tensor
    classes: int
    read: Callable[[Sequence[int]], NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Return images, shape [k, 3, 64, 64], about 0 and of the order of 1, and their labels."""
        values = torch.from_numpy(self.read(indices.tolist())).to(device)
        images = values.permute(0, 3, 1, 2).to(dtype).div(255).sub(0.45).div(0.25)
        return images.contiguous(), self.labels[indices].to(device)

    def with_random_labels(self, seed: int = 0) -> "Pictures":
        """Return the same pictures with labels that have nothing to do with them."""
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, self.classes, (len(self),), generator=generator)
        return replace(self, name=f"{self.name}, random labels", labels=labels)


def pictures(path: Path | None = None, seed: int = 0) -> Pictures:
    """Return the training pictures of Tiny ImageNet in the folder, or without one crops of photographs."""
    return photographs(seed=seed) if path is None else tiny_imagenet(path)


def photographs(crops: int = 200, seed: int = 0) -> Pictures:
    """Return random 64×64 crops of the photographs in scikit-image and scikit-learn; the photograph is the class.

    Parameters
    ----------
    crops : int
        Of each photograph; grey ones get three equal channels.
    seed : int
        Of the places.

    Raises
    ------
    MissingDependency
        If none of the packages is installed.
    """
    files = list(_shipped())
    if not files:
        raise MissingDependency(
            "the photographs come with scikit-image and scikit-learn, neither of which is installed; "
            "pip install scikit-image scikit-learn, or give the folder of Tiny ImageNet"
        )
    random = np.random.default_rng(seed)
    cut = np.empty((len(files) * crops, SIZE, SIZE, 3), dtype=np.uint8)
    for label, file in enumerate(files):
        photograph = _decoded(file)
        for crop in range(crops):
            top, left = (random.integers(0, length - SIZE + 1) for length in photograph.shape[:2])
            cut[label * crops + crop] = photograph[top : top + SIZE, left : left + SIZE]
    labels = torch.arange(len(files)).repeat_interleave(crops)
    name = f"{len(cut)} random 64×64 crops of {len(files)} photographs of scikit-image and scikit-learn"
    return Pictures(name, labels, len(files), lambda indices: cut[np.asarray(indices, dtype=int)])


def _shipped() -> list[Path]:
    found = []
    for (package, folder), names in _PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            root = Path(spec.submodule_search_locations[0]) / folder
            found += [root / name for name in names if (root / name).exists()]
    return found


def tiny_imagenet(path: Path, split: str = "train") -> Pictures:
    """Return Tiny ImageNet from its official folder, decoding pictures only when they are read.

    The folder holds wnids.txt with one class a line, train/WNID/images/WNID_NUMBER.JPEG, val/val_annotations.txt with
    lines of a file's name, its class and a box, separated by tabs, and val/images. Labels number the lines of
    wnids.txt.

    Parameters
    ----------
    path : Path
        The folder, tiny-imagenet-200.
    split : {"train", "val"}
        Which pictures.

    Raises
    ------
    InvalidProblem
        If something of the folder is missing or cannot be read; the message says what and where. A picture that is
        corrupt is found when it is read.
    """
    if split not in ("train", "val"):
        raise InvalidProblem(f"no split {split!r} of Tiny ImageNet; choose train or val")
    path = Path(path)
    wnids = _lines(path / "wnids.txt")
    if len(set(wnids)) < len(wnids):
        raise InvalidProblem(f"{path / 'wnids.txt'} has a class twice; unpack the official archive again")
    label = {wnid: number for number, wnid in enumerate(wnids)}
    pairs = _training(path, label) if split == "train" else _validation(path, label)
    files, labels = [file for file, _ in pairs], torch.tensor([number for _, number in pairs])

    def read(indices: Sequence[int]) -> NDArray[np.uint8]:
        return np.stack([_tiny(files[index]) for index in indices])

    return Pictures(f"Tiny ImageNet ({split}, {len(files)} pictures)", labels, len(wnids), read)


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise InvalidProblem(f"{file} is missing: give the folder of Tiny ImageNet, tiny-imagenet-200, as unpacked")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidProblem(f"{file} is no text ({error}); unpack the official archive again") from error
    found = [line for line in lines if line.strip()]
    if not found:
        raise InvalidProblem(f"{file} is empty; unpack the official archive again")
    return found


def _training(path: Path, label: dict[str, int]) -> list[tuple[Path, int]]:
    pairs = []
    for wnid, number in label.items():
        folder = path / "train" / wnid / "images"
        files = sorted(folder.glob("*.JPEG"))
        if not files:
            raise InvalidProblem(f"{folder} has no pictures *.JPEG, for class {wnid!r} of wnids.txt")
        pairs += [(file, number) for file in files]
    return pairs


def _validation(path: Path, label: dict[str, int]) -> list[tuple[Path, int]]:
    annotations, folder = path / "val" / "val_annotations.txt", path / "val" / "images"
    pairs = []
    for number, line in enumerate(_lines(annotations), start=1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in label:
            raise InvalidProblem(f"{annotations}, line {number} is {line!r}: a file and a class of wnids.txt should be")
        if not (folder / fields[0]).is_file():
            raise InvalidProblem(f"{folder / fields[0]} is missing, named in {annotations}, line {number}")
        pairs.append((folder / fields[0], label[fields[1]]))
    return pairs


def _tiny(file: Path) -> NDArray[np.uint8]:
    image = _decoded(file)
    if image.shape != (SIZE, SIZE, 3):
        raise InvalidProblem(f"{file} is {image.shape[1]}×{image.shape[0]}: pictures of Tiny ImageNet are 64×64")
    return image


def _decoded(file: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InvalidProblem(f"{file} cannot be read as a picture: {error}") from error
