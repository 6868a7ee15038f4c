"""fasterai's Conv_Decomposer: one fraction of the rank for all layers.

`python -m benchmarks.rivals.in_torch.with_fasterai REQUEST.json`
"""

from __future__ import annotations

import copy

import torch
from fasterai.misc.conv_decomposer import Conv_Decomposer
from torch import nn

from benchmarks.rivals.in_torch.serving import Task, serve


def compress(task: Task, knob: float, is_draft: bool) -> nn.Module:
    """See `serving.Compress`; the knob is the fraction of the rank that is kept. Drafts have no values."""
    with torch.device("meta" if is_draft else "cpu"):
        result: nn.Module = Conv_Decomposer().decompose(
            copy.deepcopy(task.network).to("meta") if is_draft else task.network,
            percent_removed=1 - knob,
            method=task.request.method,
            n_iter=0 if is_draft else 10,  # its default
            layers=list(task.layers),
        )
    return result


if __name__ == "__main__":
    serve("fasterai", compress)
