"""The operators of the builders in numpy, to see what a layer's activations look like while it is built.

All values are float32 (N, C, H, W) unless said otherwise. Speed matters (VGG-16 is 15 G MACs an image),
exactness to the last bit does not: the results only set scales, biases and BatchNormalization statistics.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "avg_pool", "conv", "max_pool", "moments"]

Array = npt.NDArray[np.float32]


def conv(x: Array, weight: Array, stride: int, pad: int, group: int) -> Array:
    """Convolution with a weight (M, C / group, kH, kW); `group` is 1 or C (depthwise, M = C)."""
    kh, kw = weight.shape[2:]
    padded = _pad(x, [(pad, pad)] * 2, 0.0)
    if group != 1:
        return _depthwise(padded, weight, stride)
    return np.stack([_conv_image(image, weight) for image in _windows(padded, kh, kw, stride)])


def _depthwise(x: Array, weight: Array, stride: int) -> Array:
    """x (N, C, H, W) without padding, weight (C, 1, k, k)."""
    taps = weight.reshape(len(weight), -1).T[:, :, None, None]
    views = _shifted_views(x, weight.shape[2], stride)
    result: Array = views[0] * taps[0]
    for view, tap in zip(views[1:], taps[1:], strict=True):
        result += view * tap
    return result


def _conv_image(windows: Array, weight: Array) -> Array:
    """(C, H, W, kH, kW) and (M, C, kH, kW) -> (M, H, W), as one matrix product."""
    c, h, w, kh, kw = windows.shape
    columns = windows.transpose(0, 3, 4, 1, 2).reshape(c * kh * kw, h * w)
    product: Array = weight.reshape(len(weight), -1) @ columns
    return product.reshape(-1, h, w)


def _windows(x: Array, kh: int, kw: int, stride: int) -> Array:
    """View (N, C, H', W', kh, kw) of every window of (N, C, H, W)."""
    view = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(2, 3))
    return view[:, :, ::stride, ::stride]


def max_pool(x: Array, kernel: int, stride: int, pad: int, *, ceil: bool) -> Array:
    """ONNX MaxPool with equal pads; `ceil` adds the last partial windows.

    Raises:
        ValueError: `ceil` with padding or with a stride above the kernel, where a window can lie outside the
            image and ONNX before opset 22 and torch disagree.
    """
    if ceil and (pad or stride > kernel):
        raise ValueError(
            f"ceil needs pad 0 and stride <= kernel, got pad {pad}, stride {stride}, kernel {kernel}"
        )
    after = [pad + (-(size - kernel) % stride if ceil else 0) for size in x.shape[2:]]
    views = _shifted_views(_pad(x, [(pad, after[0]), (pad, after[1])], -np.inf), kernel, stride)
    result = views[0].copy()
    for view in views[1:]:  # one shifted view at a time: much faster than reducing the window axes
        np.maximum(result, view, out=result)
    return result


def avg_pool(x: Array, kernel: int, stride: int, pad: int) -> Array:
    """ONNX AveragePool with count_include_pad=1 and ceil_mode=0."""
    views = _shifted_views(_pad(x, [(pad, pad)] * 2, 0.0), kernel, stride)
    result: Array = np.mean(views, axis=0, dtype=np.float32)
    return result


def _shifted_views(x: Array, kernel: int, stride: int) -> list[Array]:
    h, w = ((size - kernel) // stride * stride + 1 for size in x.shape[2:])
    return [x[:, :, i : i + h : stride, j : j + w : stride] for i in range(kernel) for j in range(kernel)]


def _pad(x: Array, margins: list[tuple[int, int]], fill: float) -> Array:
    return np.pad(x, [(0, 0), (0, 0), *margins], constant_values=np.float32(fill))


def moments(x: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and variance of each channel of (N, C, H, W) or (N, C); both (C,)."""
    axes = (0, *range(2, x.ndim))
    return x.mean(axes, dtype=np.float64), x.var(axes, dtype=np.float64)
