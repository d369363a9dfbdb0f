"""The learning rate over a training: a tenth of it up, the rest down to nothing, both in straight lines."""

from __future__ import annotations

from typing import Any

__all__ = ["up_and_down"]


def up_and_down(optimizer: Any, steps: int) -> Any:
    """Schedule of so many steps; torch's own one-cycle schedule cannot do with a handful of them."""
    from torch.optim.lr_scheduler import LambdaLR

    warm = max(1, steps // 10)
    down = max(1, steps - warm)
    return LambdaLR(optimizer, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / down)))
