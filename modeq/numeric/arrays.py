"""What vectors of numpy and of torch have in common, so that one formula serves both."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch


def namespace(array: Any) -> Any:
    """Return torch for a tensor, else numpy.

    Examples
    --------
    >>> namespace(torch.zeros(2)).__name__, namespace(np.zeros(2)).__name__
    ('torch', 'numpy')
    """
    return torch if isinstance(array, torch.Tensor) else np


def vector(theta: Any) -> Any:
    """Return a tensor as it is, anything else as a float64 numpy array.

    Examples
    --------
    >>> vector([1, 2])
    array([1., 2.])
    """
    return theta if isinstance(theta, torch.Tensor) else np.asarray(theta, dtype=np.float64)


def combination(weights: Iterable[float], vectors: Sequence[Any]) -> Any:
    """Return Σ w_k v_k with one vector of memory; terms of weight 0 are not touched.

    Examples
    --------
    >>> combination([2.0, 0.0, -1.0], np.eye(3)).tolist()
    [2.0, 0.0, -1.0]
    """
    total = None
    for weight, vector in zip(weights, vectors, strict=True):
        if weight == 0:
            continue
        if total is None:
            total = float(weight) * vector
        elif isinstance(vector, torch.Tensor):
            total.add_(vector, alpha=float(weight))
        else:
            total += float(weight) * vector
    return namespace(vectors[0]).zeros_like(vectors[0]) if total is None else total
