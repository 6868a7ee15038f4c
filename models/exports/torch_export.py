"""PyTorch: its exporter that traces TorchScript, and the one that is built on torch.export (dynamo)."""

import io
import sys
from collections.abc import Callable
from typing import Any

import onnx
import torch
from torch import nn

from models.exports.checkpoint import Checkpoint
from models.exports.networks import EPSILON, Padding, pads, run_network
from models.exports.script import run, verify

__all__ = ["EXPORTS"]


class _Network(nn.Module):  # type: ignore[misc]  # torch is not installed where types are checked
    """`networks.Operations` with torch modules (N, C, H, W)."""

    def __init__(self, name: str, checkpoint: Checkpoint) -> None:
        super().__init__()
        self._name = name
        self._parameters_by_name = checkpoint.parameters

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return run_network(self._name, self, x)

    def conv(
        self,
        x: torch.Tensor,
        name: str,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: Padding = "same",
        groups: int = 1,
        bias: bool = False,
    ) -> torch.Tensor:
        begin, end = pads(kernel, stride, padding)
        own = begin if begin == end else 0  # Conv2d cannot pad one side alone
        if begin != end:
            x = nn.functional.pad(x, (begin, end, begin, end))

        def make() -> nn.Module:
            return nn.Conv2d(x.shape[1], channels, kernel, stride, own, groups=groups, bias=bias)

        return self._layer(name, make)(x)

    def batch_norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return self._layer(name, lambda: nn.BatchNorm2d(x.shape[1], eps=EPSILON))(x)

    def relu(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)

    def add(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b

    def subsample_and_pad(self, x: torch.Tensor, extra: int) -> torch.Tensor:
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra, extra))

    def global_average_pool(self, x: torch.Tensor) -> torch.Tensor:
        return torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1)

    def dense(self, x: torch.Tensor, name: str, features: int) -> torch.Tensor:
        return self._layer(name, lambda: nn.Linear(x.shape[1], features))(x)

    def _layer(self, name: str, make: Callable[[], nn.Module]) -> nn.Module:
        key = name.replace(".", "_")  # torch allows no dot in the name of a module
        if key not in self._modules:
            self.add_module(key, self._loaded(make().eval(), name))
        return self._modules[key]

    def _loaded(self, module: nn.Module, name: str) -> nn.Module:
        values = module.state_dict()
        for key in values.keys() - {"num_batches_tracked"}:
            values[key] = torch.from_numpy(self._parameters_by_name[f"{name}.{key}"])
        module.load_state_dict(values)
        return module


def _torch_ts(network: str, checkpoint: Checkpoint) -> onnx.ModelProto:
    """As most files of the last years were written: batch normalisation is folded into the Convs."""
    return _torchscript(network, checkpoint, opset_version=17)


def _torch_ts_preserve(network: str, checkpoint: Checkpoint) -> onnx.ModelProto:
    """Nothing is folded, and the weights are inputs of the graph as well."""
    return _torchscript(
        network,
        checkpoint,
        opset_version=13,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        keep_initializers_as_inputs=True,
    )


def _torchscript(network: str, checkpoint: Checkpoint, **options: Any) -> onnx.ModelProto:
    module, images = _verified(network, checkpoint)
    file = io.BytesIO()
    torch.onnx.export(
        module,
        (images,),
        file,
        dynamo=False,
        input_names=["x"],
        output_names=["logits"],
        dynamic_axes={"x": {0: "batch"}, "logits": {0: "batch"}},
        **options,
    )
    return onnx.load_from_string(file.getvalue())


def _torch_dynamo(network: str, checkpoint: Checkpoint) -> onnx.ModelProto:
    """The default since PyTorch 2.9."""
    module, images = _verified(network, checkpoint)
    program = torch.onnx.export(
        module,
        (images,),
        dynamo=True,
        verbose=False,
        input_names=["x"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    model: onnx.ModelProto = program.model_proto
    return model


def _verified(network: str, checkpoint: Checkpoint) -> tuple[_Network, torch.Tensor]:
    """The module, whose layers the forward pass has made, and images to trace it with."""
    module, images = _Network(network, checkpoint).eval(), torch.from_numpy(checkpoint.images)
    with torch.no_grad():
        verify(module(images).numpy(), checkpoint)
    return module, images


EXPORTS = {"torch_ts": _torch_ts, "torch_ts_preserve": _torch_ts_preserve, "torch_dynamo": _torch_dynamo}

if __name__ == "__main__":
    sys.exit(run(EXPORTS))
