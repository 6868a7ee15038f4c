"""Network in Network for CIFAR-10 (Lin et al., arXiv:1312.4400; layer sizes of the authors' Caffe model)."""

import onnx

from models.graph import Net, Value
from models.weights import PLAIN

__all__ = ["nin"]

LOGIT_SPREAD = 10.0  # of the last Conv; a Relu and the mean of 64 pixels follow
BLOCKS = ((5, (192, 160, 96)), (5, (192, 192, 192)), (3, (192, 192, 10)))


def nin(seed: int) -> onnx.ModelProto:
    """966,986 parameters, input 32 x 32, 10 classes: 3 spatial and 6 pointwise Convs, all with a bias."""
    net = Net("nin", (3, 32, 32), seed=seed, probes=16, decay=PLAIN)
    x = _block(net, net.input, 1)
    x = _block(net, net.max_pool(x, "pool1", 3, 2, ceil=True), 2)
    x = _block(net, net.avg_pool(x, "pool2", 3, 2, pad=1), 3)
    return net.model(net.flatten(net.mean(x, "mean"), "flatten", last=True))


def _block(net: Net, x: Value, number: int) -> Value:
    """A spatial Conv and two pointwise ones (`mlpconv`), each with its Relu."""
    kernel, widths = BLOCKS[number - 1]
    for i, channels in enumerate(widths):
        name = f"{number}_{i}"
        spread = LOGIT_SPREAD if (number, i) == (3, 2) else 1.0
        x = net.conv(x, f"conv{name}", channels, kernel if i == 0 else 1, bias=True, spread=spread)
        x = net.relu(x, f"relu{name}")
    return x
