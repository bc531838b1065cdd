"""Extension points of a training run: hooks of a method, each of which defaults to gradual magnitude pruning.

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
    """One method in one run. A subclass overrides its hooks.

    Every hook has to be a function of `run.seed`, the step and the saved state, so that a resumed run is, bit for bit,
    one that was not interrupted.
    """

    moves_weights: ClassVar[bool] = False  # it changes weights as it prunes, so that pruned ones cannot return

    def __init__(self, options: Any = None):
        self.options = options

    def begin(self, run: Run) -> None:
        """Prepare for a run, also for one that goes on (`load` comes after it). Called once, before training."""
        self.run = run

    def sparsity(self, step: int, schedule: PruningSchedule) -> float:
        """Return the share of zeros at the mask update before `step`; with 0 there is no update."""
        return schedule.sparsity(step)

    def scores(self, step: int, weights: Mapping[str, Tensor], pattern: Pattern) -> dict[str, Tensor]:
        """Return the scores of the groups of weights; the lowest go. Shapes: those of `pruneonce.sparsity.patterns`.

        Args:
            step: the step after the mask update.
            weights: the prunable ones by name; values that were pruned and may return are among them.
            pattern: of the masks.
        """
        from pruneonce.sparsity.masks import magnitude_scores

        return magnitude_scores(weights, pattern)

    def on_mask_update(self, step: int, weights: Mapping[str, Tensor], masks: Masks) -> None:
        """Look at new masks before they are applied; may change weights that are kept, in place."""

    def extra_loss(self, step: int) -> Tensor | None:
        """Return a term to add to the loss; None: there is none in this step."""
        return None

    def gradients(self, step: int, forward_backward: Callable[[], Tensor]) -> Tensor:
        """Add a batch's gradients to the weights' `grad`, and return its loss.

        Args:
            step: the step.
            forward_backward: does so at the weights as they are. It may be called several times, and the log has the
                parts of the first loss. It adds 0 to pruned weights. Of several batches that are accumulated into one
                step, each adds its share of the mean.
        """
        return forward_backward()

    def parametrized(self, model: nn.Module) -> AbstractContextManager[None]:
        """Change the model's use of its weights for the time of training. Parameters keep their names."""
        return nullcontext()

    def save(self, folder: Path) -> None:
        """Write the state that a resumed run needs, as safetensors."""

    def load(self, folder: Path) -> None:
        """Read the state that `save` wrote."""
