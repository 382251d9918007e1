"""Data without a download, from scikit-learn: digits, breast cancer, diabetes; and seeded minibatches."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from modeq.errors import InvalidProblem, MissingDependency, choice

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
    parts = {"train": slice(None, _TRAIN), "test": slice(_TRAIN, None), "all": slice(None)}
    if split not in parts:
        raise InvalidProblem(f"split is {choice(split, parts)}")
    bunch = _bunch("digits")
    images = torch.from_numpy(bunch.images).div(16).unsqueeze(1)
    if standardise:
        images = (images - images.mean()) / images.std()
    labels = torch.from_numpy(bunch.target).long()
    return images[parts[split]].to(dtype), labels[parts[split]]


def breast_cancer(*, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return the 569 tumours of scikit-learn's breast cancer data: 30 features, and whether they are benign.

    Parameters
    ----------
    dtype : torch.dtype
        Of both tensors.

    Returns
    -------
    features : Tensor, shape [569, 30]
        Each of mean 0 and variance 1 over the samples.
    labels : Tensor, shape [569]
        1 for benign, 0 for malignant.

    Raises
    ------
    MissingDependency
        If scikit-learn is not installed.

    Examples
    --------
    >>> features, labels = breast_cancer()
    >>> features.shape, labels.sum().item()
    (torch.Size([569, 30]), 357.0)
    """
    bunch = _bunch("breast_cancer")
    return _standardised(bunch.data).to(dtype), torch.from_numpy(bunch.target).to(dtype)


def diabetes(*, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return the 442 patients of scikit-learn's diabetes data: 10 features, and the progression of the disease.

    Parameters
    ----------
    dtype : torch.dtype
        Of both tensors.

    Returns
    -------
    features : Tensor, shape [442, 10]
    progression : Tensor, shape [442]
        Both of mean 0 and variance 1 over the samples.

    Raises
    ------
    MissingDependency
        If scikit-learn is not installed.

    Examples
    --------
    >>> features, progression = diabetes()
    >>> features.shape, progression.shape
    (torch.Size([442, 10]), torch.Size([442]))
    """
    bunch = _bunch("diabetes")
    return _standardised(bunch.data).to(dtype), _standardised(bunch.target).to(dtype)


def _bunch(name: Literal["digits", "breast_cancer", "diabetes"]) -> Any:
    try:
        import sklearn.datasets as datasets
    except ImportError as error:
        raise MissingDependency(
            f"the {name.replace('_', ' ')} data come with scikit-learn, which is not installed; "
            "pip install 'modeq[examples]'"
        ) from error
    return getattr(datasets, f"load_{name}")()


def _standardised(array: Any) -> Tensor:
    columns = torch.from_numpy(array).to(torch.float64)
    return (columns - columns.mean(0)) / columns.std(0, correction=0)


def minibatches(n: int, batch_size: int, steps: int, seed: int = 0) -> Iterator[Tensor]:
    """Yield `steps` index tensors of length `batch_size`, reshuffled at every epoch.

    An epoch is n // batch_size batches without repetition; what is left over sits this epoch out.

    Parameters
    ----------
    n : int
        Number of samples.
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
        raise InvalidProblem(f"batch_size is {batch_size}: there are {n} samples, give 1 to {n}")
    return _batches(n, batch_size, steps, seed)


def _batches(n: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    per_epoch = n // batch_size
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(n, generator=generator)
        start = (step % per_epoch) * batch_size
        yield order[start : start + batch_size]
