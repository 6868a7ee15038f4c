"""VGG-16 (Simonyan and Zisserman, arXiv:1409.1556, configuration D): 13 Convs, 3 Gemms."""

import onnx

from models.graph import Net, Value
from models.weights import PLAIN

__all__ = ["vgg16"]

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16(seed: int) -> onnx.ModelProto:
    """138,357,544 parameters, input 224 x 224, 1,000 classes."""
    net = Net("vgg16", (3, 224, 224), seed=seed, probes=4, decay=PLAIN)
    x = net.input
    for i, block in enumerate(BLOCKS, start=1):
        for j, channels in enumerate(block, start=1):
            x = net.relu(net.conv(x, f"conv{i}_{j}", channels, 3, bias=True), f"relu{i}_{j}")
        x = net.max_pool(x, f"pool{i}", 2, 2)
    return net.model(_classifier(net, net.flatten(x, "flatten")))


def _classifier(net: Net, x: Value) -> Value:
    for i in (6, 7):
        x = net.relu(net.gemm(x, f"fc{i}", 4096), f"relu{i}")
    return net.gemm(x, "fc8", 1000, last=True)
