"""The digits network in torch, and how it is trained; parameters are named as in the ONNX file."""

from collections import OrderedDict
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.digits.architecture import CLASSES, LAYERS
from models.digits.data import Digits

__all__ = ["EPOCHS", "accuracy", "fit", "network", "parameters"]

EPOCHS = 40
BATCH = 40
SHIFT = 2  # pixels of 32: half a pixel of the 8x8 original
PEAK_RATE = 0.15
WEIGHT_DECAY = 5e-3  # high: the singular values that the task does not need fade away


def network() -> nn.Sequential:
    """The table of `architecture` as torch modules conv1, bn1, relu1, ..., mean, flat, fc."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 1
    for i, layer in enumerate(LAYERS, start=1):
        modules[f"conv{i}"] = nn.Conv2d(
            channels, layer.channels, layer.kernel, layer.stride, layer.kernel // 2, bias=False
        )
        modules[f"bn{i}"] = nn.BatchNorm2d(layer.channels)
        modules[f"relu{i}"] = nn.ReLU()
        if layer.pool:
            modules[f"pool{i}"] = nn.MaxPool2d(2)
        channels = layer.channels
    modules |= {"mean": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(channels, CLASSES)}
    return nn.Sequential(modules)


def fit(train: Digits, seed: int, report: Callable[[int, int, float], None]) -> nn.Sequential:
    """SGD with momentum from scratch, one cosine cycle; `report` gets (epoch, epochs, mean loss)."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = network().to(memory_format=torch.channels_last)  # twice as fast on a CPU
    steps = EPOCHS * -(-len(train.labels) // BATCH)
    sgd = torch.optim.SGD(
        model.parameters(), PEAK_RATE, momentum=0.9, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(sgd, PEAK_RATE, total_steps=steps, cycle_momentum=False)
    for epoch in range(1, EPOCHS + 1):
        losses = [_step(model, sgd, schedule, batch) for batch in _batches(rng, train)]
        report(epoch, EPOCHS, float(np.mean(losses)))
    return model


def _step(
    model: nn.Sequential,
    sgd: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    batch: tuple[torch.Tensor, torch.Tensor],
) -> float:
    model.train()
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    sgd.zero_grad()
    loss.backward()
    sgd.step()
    schedule.step()
    return float(loss.detach())


def _batches(rng: np.random.Generator, train: Digits) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch in random order, each image shifted by up to SHIFT pixels either way."""
    order = rng.permutation(len(train.labels))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        images = np.stack([_shifted(rng, image) for image in train.images[rows]])
        yield (
            torch.from_numpy(images).to(memory_format=torch.channels_last),
            torch.from_numpy(train.labels[rows]),
        )


def _shifted(rng: np.random.Generator, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """`image` (1, H, W) moved by a random whole number of pixels, edges repeated."""
    top, left = rng.integers(0, 2 * SHIFT + 1, 2)
    padded = np.pad(image, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)), mode="edge")
    return padded[:, top : top + image.shape[1], left : left + image.shape[2]]


def accuracy(model: nn.Sequential, data: Digits) -> float:
    """Top-1 of the network in evaluation mode."""
    model.eval()
    with torch.no_grad():
        answers = [model(part).argmax(1) for part in torch.from_numpy(data.images).split(100)]
    return float((torch.cat(answers).numpy() == data.labels).mean())


def parameters(model: nn.Sequential) -> dict[str, npt.NDArray[np.float32]]:
    """Parameters and BatchNormalization statistics by name: conv1.weight, bn1.running_var, fc.bias, ..."""
    return {
        name: np.ascontiguousarray(value.detach().numpy())
        for name, value in model.state_dict().items()
        if value.is_floating_point()
    }
