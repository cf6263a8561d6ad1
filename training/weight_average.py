"""A running mean of the dense weights, which is what validation, checkpoints' weights and exports then are.

Polyak & Juditsky, SIAM J. Control Optim. 30, 1992; as an exponential mean, Izmailov et al., arXiv 1803.05407.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.optimizers import in_backward_optimizer_filter

from skipwise.training.checkpoint.state import MODEL, Tensors

_TRAINED = "trained."
"""Before the names of the weights that training goes on with."""


class WeightAverage:
    """The mean of the weights that the optimizer has left behind, newer ones weighing more.

    The tables have no mean of their own: their optimizer touches few rows a step.
    """

    def __init__(self, model: DistributedModelParallel, decay: float):
        """`decay`: what is left of a step's weight after the next step."""
        self._decay = decay
        self._weights: dict[str, Tensor] = dict(in_backward_optimizer_filter(model.named_parameters()))
        self._trained = {name: weight.detach() for name, weight in self._weights.items()}
        self._means = {name: weight.clone() for name, weight in self._trained.items()}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """After step number `steps`, counted from 1; the first steps count less than the decay has it."""
        decay = min(self._decay, steps / (steps + 9))
        torch._foreach_lerp_(list(self._means.values()), list(self._trained.values()), 1 - decay)

    def restart(self) -> None:
        """Begins at the weights as they are."""
        for name, mean in self._means.items():
            mean.copy_(self._trained[name])

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The model has the mean, and after it the trained weights again."""
        live = self._trained
        self._trained = {name: weight.clone() for name, weight in live.items()}
        for name, weight in live.items():
            weight.copy_(self._means[name])
        try:
            yield
        finally:
            for name, weight in live.items():
                weight.copy_(self._trained[name])
            self._trained = live

    def of_checkpoint(self, tensors: Tensors) -> Tensors:
        """`tensors` with the mean under the names of the weights, and these under names of their own."""
        means: Tensors = {MODEL + name: mean for name, mean in self._means.items()}
        assert means.keys() <= tensors.keys()
        return tensors | means | {_TRAINED + name: weight for name, weight in self._trained.items()}
