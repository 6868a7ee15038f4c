"""Export small networks of several architectures, with random weights, to folders named after them."""

import sys

import torch
import transformers as t
from optimum.exporters.onnx import onnx_export_from_model

CLASSES = {"image_size": 64, "num_labels": 10}
FOUR = {"depths": [1, 1, 1, 1]}


def resnet() -> torch.nn.Module:
    config = t.ResNetConfig(embedding_size=32, hidden_sizes=[64, 128], depths=[1, 1], num_labels=10)
    return t.ResNetForImageClassification(config)


def mobilenet_v2() -> torch.nn.Module:
    return t.MobileNetV2ForImageClassification(t.MobileNetV2Config(depth_multiplier=0.5, **CLASSES))


def convnext() -> torch.nn.Module:
    config = t.ConvNextConfig(hidden_sizes=[64, 128, 128, 128], **FOUR, **CLASSES)
    return t.ConvNextForImageClassification(config)


def swin() -> torch.nn.Module:
    config = t.SwinConfig(embed_dim=48, depths=[2, 2], num_heads=[3, 6], window_size=4, **CLASSES)
    return t.SwinForImageClassification(config)


def segformer() -> torch.nn.Module:
    sizes = {"hidden_sizes": [32, 64, 64, 64], "num_attention_heads": [1, 2, 2, 2], **FOUR}
    return t.SegformerForSemanticSegmentation(t.SegformerConfig(decoder_hidden_size=64, **sizes))


def beit() -> torch.nn.Module:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    return t.BeitForImageClassification(t.BeitConfig(**sizes, **CLASSES))


def main() -> None:
    for make in (resnet, mobilenet_v2, convnext, swin, segformer, beit):
        torch.manual_seed(0)
        task = "semantic-segmentation" if make is segformer else "image-classification"
        onnx_export_from_model(
            make().eval(), f"{sys.argv[1]}/{make.__name__}", task=task, do_validation=False
        )


if __name__ == "__main__":
    main()
