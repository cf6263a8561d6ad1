"""Reference losses."""

import math

import torch
from torch import Tensor

from skipwise.models.heads import gbce_power


def gbce(target_V: Tensor, negatives_VK: Tensor, tracks: int, calibration: float) -> Tensor:
    """Generalised binary cross-entropy [V] of the target's logit and K negatives' (-inf: left out), each less log K.

    K counts what is left out as well, for it was drawn at the same rate; a pool of all tracks, the target left out, is
    a share of 1.
    """
    count = negatives_VK.shape[-1]
    log_sigmoid = torch.nn.functional.logsigmoid
    positive_V = gbce_power(calibration, count, tracks) * log_sigmoid(target_V - math.log(count))
    return -(positive_V + log_sigmoid(math.log(count) - negatives_VK).sum(dim=-1))
