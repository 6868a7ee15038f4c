"""Devices, and what ONNX Runtime is to be told to run on one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CPU", "CUDA", "TENSORRT", "Device", "GpuOptions", "provider_options"]

_CPU_PROVIDER, _CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"


@dataclass(frozen=True, slots=True)
class Device:
    """Where models run.

    Attributes:
        name: cpu, cuda or tensorrt.
        provider: ONNX Runtime's name of the execution provider.
    """

    name: str
    provider: str

    @property
    def memory(self) -> str:
        """ONNX Runtime's name of the memory that inputs and outputs lie in: cpu or cuda."""
        return "cpu" if self.provider == _CPU_PROVIDER else "cuda"


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """How a session uses a GPU; the CPU ignores it.

    Attributes:
        tf32: whether float32 products may be rounded to TF32. TensorRT decides that by itself.
        cuda_graph: whether runs are captured once and replayed, which needs every node on the GPU.
        prefer_nhwc: whether CUDA computes Convs with channels last.
    """

    tf32: bool = False
    cuda_graph: bool = False
    prefer_nhwc: bool = False


CPU = Device("cpu", _CPU_PROVIDER)
CUDA = Device("cuda", _CUDA_PROVIDER)
TENSORRT = Device("tensorrt", "TensorrtExecutionProvider")


def provider_options(device: Device, gpu: GpuOptions) -> list[tuple[str, Mapping[str, str]]]:
    """Execution providers in the order of preference, with their options.

    What TensorRT does not take goes to CUDA.

    >>> provider_options(CUDA, GpuOptions(tf32=True))
    [('CUDAExecutionProvider', {'use_tf32': '1', 'enable_cuda_graph': '0', 'prefer_nhwc': '0'})]
    """
    if device.provider == _CPU_PROVIDER:
        return [(_CPU_PROVIDER, {})]
    cuda = {
        "use_tf32": str(int(gpu.tf32)),
        "enable_cuda_graph": str(int(gpu.cuda_graph and device == CUDA)),
        "prefer_nhwc": str(int(gpu.prefer_nhwc)),
    }
    if device == CUDA:
        return [(_CUDA_PROVIDER, cuda)]
    return [(device.provider, {"trt_cuda_graph_enable": str(gpu.cuda_graph)}), (_CUDA_PROVIDER, cuda)]
