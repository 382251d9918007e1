"""Data without a download: the handwritten digits of scikit-learn, and seeded minibatches."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from modeq.errors import InvalidProblem, MissingDependency

_TRAIN = 1437  # the first four fifths; the rest was written by other people


def digits(
    split: Literal["train", "test", "all"] = "all",
    *,
    standardise: bool = False,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Return the 1797 handwritten digits of scikit-learn as images and labels.

    Parameters
    ----------
    split : {"train", "test", "all"}
        The first 1437, the last 360, or all of them, always in the order of the file.
    standardise : bool
        Subtract the mean and divide by the standard deviation of all pixels of all images;
        otherwise pixels lie in [0, 1].
    dtype : torch.dtype
        Of the images.

    Returns
    -------
    images : Tensor, shape [n, 1, 8, 8]
    labels : Tensor of int64, shape [n]

    Raises
    ------
    MissingDependency
        If scikit-learn is not installed.
    InvalidProblem
        If the split has another name.

    Examples
    --------
    >>> images, labels = digits("test")
    >>> images.shape, labels[:3].tolist()
    (torch.Size([360, 1, 8, 8]), [2, 3, 4])
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependency(
            "the digits come with scikit-learn, which is not installed; pip install 'modeq[examples]'"
        ) from error
    parts = {"train": slice(None, _TRAIN), "test": slice(_TRAIN, None), "all": slice(None)}
    if split not in parts:
        raise InvalidProblem(f"no split {split!r} of the digits; choose one of {', '.join(parts)}")
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).div(16).unsqueeze(1)
    if standardise:
        images = (images - images.mean()) / images.std()
    labels = torch.from_numpy(bunch.target).long()
    return images[parts[split]].to(dtype), labels[parts[split]]


def minibatches(n: int, batch_size: int, steps: int, seed: int = 0) -> Iterator[Tensor]:
    """Yield `steps` index tensors of length `batch_size`, reshuffled at every epoch.

    An epoch is n // batch_size batches without repetition; what is left over sits this epoch out.

    Parameters
    ----------
    n : int
        Number of examples.
    batch_size : int
        Number of indices in each batch, at most n.
    steps : int
        Number of batches.
    seed : int
        Of a generator of its own; torch's global random state is left alone.

    Raises
    ------
    InvalidProblem
        If a batch would be empty or larger than the data.

    Examples
    --------
    >>> [len(set(batch.tolist())) for batch in minibatches(10, 5, steps=3)]
    [5, 5, 5]
    """
    if not 1 <= batch_size <= n:
        raise InvalidProblem(f"batch_size {batch_size} does not fit {n} examples; choose it from 1 to {n}")
    return _batches(n, batch_size, steps, seed)


def _batches(n: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    per_epoch = n // batch_size
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(n, generator=generator)
        start = (step % per_epoch) * batch_size
        yield order[start : start + batch_size]
