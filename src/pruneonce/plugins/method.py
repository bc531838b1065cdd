"""What a method may do in a training run: the extension points. Each is a hook that by default does nothing more than
gradual magnitude pruning does.

| extension point | hooks |
| --- | --- |
| criterion | `scores`, `on_mask_update` |
| schedule | `sparsity` |
| extra loss | `extra_loss` |
| optimizer wrapper | `gradients` |
| weight parametrization | `parametrized` |

The mask pattern is not a method's: any pattern works with any criterion, see `pruneonce.sparsity.patterns`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pruneonce.config.pattern import Pattern
    from pruneonce.plugins.run import Run
    from pruneonce.sparsity import Masks, PruningSchedule


class Method:
    """One method in one run. A subclass overrides the hooks that it is about.

    What it does has to be a function of `run.seed`, the step and its saved state, so that a resumed run is, bit for
    bit, one that was not interrupted.
    """

    moves_weights: ClassVar[bool] = False  # it changes weights as it prunes: what is pruned has no value to return with

    def __init__(self, options: Any = None):
        self.options = options

    def begin(self, run: Run) -> None:
        """Called once before training, also of a run that goes on (`load` comes after it)."""
        self.run = run

    def sparsity(self, step: int, schedule: PruningSchedule) -> float:
        """How much is pruned at the mask update before `step`; with 0 there is none."""
        return schedule.sparsity(step)

    def scores(self, step: int, weights: Mapping[str, Tensor], pattern: Pattern) -> dict[str, Tensor]:
        """How much each group of weights matters; the lowest go. Shapes: those of `pruneonce.sparsity.patterns`.

        Args:
            weights: the prunable ones by name; values that were pruned and may return are among them.
        """
        from pruneonce.sparsity.masks import magnitude_scores

        return magnitude_scores(weights, pattern)

    def on_mask_update(self, step: int, weights: Mapping[str, Tensor], masks: Masks) -> None:
        """Called with the new masks, before they are applied; may change weights that are kept, in place."""

    def extra_loss(self, step: int) -> Tensor | None:
        """A term to add to the loss; None: there is none in this step."""
        return None

    def gradients(self, step: int, forward_backward: Callable[[], Tensor]) -> Tensor:
        """Adds a batch's gradients to the weights' `grad`, and gives its loss.

        Args:
            forward_backward: does so at the weights as they are; may be called several times, and the log has the
                parts of the first loss. What it adds to pruned weights is 0. Of several batches that are accumulated
                into one step, each adds the mean's share.
        """
        return forward_backward()

    def parametrized(self, model: nn.Module) -> AbstractContextManager[None]:
        """Changes, for the time of training, what the model does with its weights. Parameters keep their names."""
        return nullcontext()

    def save(self, folder: Path) -> None:
        """Write what a resumed run needs of the method, as safetensors."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
