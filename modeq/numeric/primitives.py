"""Operations of torch written out in elementary ones, whose derivatives of every order are right.

The fused kernels of the norms and of the solution of linear systems have rules for the first two derivatives
only, and give wrong third ones without a word; those of other operations have no rule at all.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import _reduction
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Elementary(TorchFunctionMode):
    """Within this context norms, attention and some losses of torch run as elementary operations.

    The values agree with the fused kernels to rounding. Running statistics are read, and never written.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    >>> fused = torch.nn.functional.layer_norm(x, (3,))
    >>> with Elementary():
    ...     written_out = torch.nn.functional.layer_norm(x, (3,))
    >>> torch.allclose(fused, written_out, rtol=1e-14)
    True
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call what stands for the function, or the function itself."""
        return SUBSTITUTES.get(func, func)(*args, **(kwargs or {}))


def _centred(x: Tensor, axes: list[int], eps: float) -> Tensor:
    """(x − mean)/√(variance + ε) over the axes."""
    shifted = x - x.mean(axes, keepdim=True)
    return shifted * ((shifted * shifted).mean(axes, keepdim=True) + eps).rsqrt()


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """X·weight + bias along the channels, axis 1."""
    shape = (1, -1, *[1] * (x.dim() - 2))
    x = x if weight is None else x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        return _affine(_centred(x, [0, *range(2, x.dim())], eps), weight, bias)
    x = _affine(_affine(x, None, -running_mean), (running_var + eps).rsqrt(), None)
    return _affine(x, weight, bias)


def _torch_batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    return _batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)


def _instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return _batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    return _affine(_centred(x, list(range(2, x.dim())), eps), weight, bias)


def _torch_instance_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    return _instance_norm(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def _layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    x = _centred(x, list(range(-len(normalized_shape), 0)), eps)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    groups = x.reshape(x.shape[0], num_groups, -1)
    return _affine(_centred(groups, [2], eps).reshape(x.shape), weight, bias)


def _rms_norm(
    x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    x = x * ((x * x).mean(list(range(-len(normalized_shape), 0)), keepdim=True) + eps).rsqrt()
    return x if weight is None else x * weight


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / _norm_except_dim(v, 2, dim))


def _norm_except_dim(v: Tensor, pow: int = 2, dim: int = 0) -> Tensor:
    powers = v.abs() ** pow if pow != 2 else v * v
    if dim == -1:
        return powers.sum() ** (1 / pow)
    return powers.sum([axis for axis in range(v.dim()) if axis != dim % v.dim()], keepdim=True) ** (1 / pow)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is None:
        weights = scores.softmax(-1)
    elif attn_mask.dtype == torch.bool:
        # A row that sees nothing gives 0 as the fused kernels do, and no NaN.
        seen = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min).softmax(-1)
        weights = seen.masked_fill(~attn_mask, 0.0)
    else:
        weights = (scores + attn_mask).softmax(-1)
    return F.dropout(weights, dropout_p) @ value if dropout_p else weights @ value


def _multi_head_attention(*args: Any, need_weights: bool = True, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    # Where the weights are asked for, torch's own code computes them with a softmax of a product.
    if kwargs.get("is_causal") and kwargs.get("attn_mask") is None:
        kwargs["is_causal"] = False
    output, weights = F.multi_head_attention_forward(*args, **{**kwargs, "need_weights": True})
    return output, weights if need_weights else None


def _reduced(losses: Tensor, reduction: str, weight: Tensor | None = None) -> Tensor:
    if weight is not None:
        losses = losses * weight
        if reduction == "mean":
            return losses.sum() / weight.expand_as(losses).sum()
    reductions: dict[str, Callable[[], Tensor]] = {"mean": losses.mean, "sum": losses.sum, "none": losses.clone}
    return reductions[reduction]()


def _mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce, emit_warning=False)
    return _reduced((input - target) ** 2, reduction, weight)


def _huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    error = input - target
    size = error.abs()
    return _reduced(torch.where(size <= delta, error * error / 2, delta * (size - delta / 2)), reduction, weight)


def _smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce, emit_warning=False)
    if beta == 0:
        return _reduced((input - target).abs(), reduction)
    return _huber_loss(input, target, reduction, beta) / beta


def _soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce, emit_warning=False)
    return _reduced(F.softplus(-target * input), reduction)


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    value, gate = input.chunk(2, dim)
    return value * gate.sigmoid()


def _solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    inverse = torch.linalg.inv(A)
    if B.dim() == 1 or (B.dim() == A.dim() - 1 and B.shape == A.shape[:-1]):
        return (inverse @ B.unsqueeze(-1)).squeeze(-1)
    return inverse @ B if left else B @ inverse


def _slogdet(A: Tensor) -> Any:
    diagonal = torch.linalg.lu(A)[2].diagonal(dim1=-2, dim2=-1)
    return torch.return_types.slogdet((torch.linalg.slogdet(A.detach())[0], diagonal.abs().log().sum(-1)))


def _logdet(A: Tensor) -> Tensor:
    sign, logarithm = _slogdet(A)
    return torch.where(sign > 0, logarithm, torch.full_like(logarithm, torch.nan))


def _det(A: Tensor) -> Tensor:
    permutation, _, upper = torch.linalg.lu(A)
    return torch.linalg.det(permutation.detach()) * upper.diagonal(dim1=-2, dim2=-1).prod(-1)


SUBSTITUTES: dict[Any, Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    torch.batch_norm: _torch_batch_norm,
    F.instance_norm: _instance_norm,
    torch.instance_norm: _torch_instance_norm,
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    F.rms_norm: _rms_norm,
    torch.rms_norm: _rms_norm,
    torch._weight_norm: _weight_norm,
    torch.norm_except_dim: _norm_except_dim,
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multi_head_attention,
    F.mse_loss: _mse_loss,
    F.huber_loss: _huber_loss,
    F.smooth_l1_loss: _smooth_l1_loss,
    F.soft_margin_loss: _soft_margin_loss,
    F.glu: _glu,
    torch.linalg.solve: _solve,
    **dict.fromkeys((torch.linalg.slogdet, torch.slogdet, Tensor.slogdet), _slogdet),
    **dict.fromkeys((torch.logdet, Tensor.logdet), _logdet),
    **dict.fromkeys((torch.linalg.det, torch.det, Tensor.det), _det),
}
