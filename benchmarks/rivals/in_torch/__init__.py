"""What runs in the rivals' own environments, with torch: one module a rival, `with_NAME`.

This file lets torchvision, which AIMET and fasterai import, be imported beside a torch without CUDA. There is
no CPU build of it on the package index; its compiled operators cannot be loaded then, and it fails while it
describes two of them. Both are declared here; nobody calls them.
"""

import torch

if torch.version.cuda is None:
    _LIBRARY = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
