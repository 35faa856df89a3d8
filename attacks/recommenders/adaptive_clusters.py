"""ClusterAttack's adaptive number of clusters (Algorithm 1), as explicit state."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class AdaptiveClusters:
    """The number of clusters K and what decides when it changes.

    ``smoothed`` is e, the moving average of the attack's loss over ``steps`` rounds; ``last`` its
    bias-corrected value ê of the round before, negative for none; ``rises`` and ``falls`` count the rounds
    in which ê rose or fell; a difference of ``threshold`` between them changes K, and multiplies the
    threshold by 1 + ``growth``.
    """

    clusters: int
    threshold: float
    growth: float = 1.0
    decay: float = 0.999
    fewest: int = 1
    most: int = 50
    smoothed: float = 0.0
    steps: int = 0
    last: float = -1.0
    rises: int = 0
    falls: int = 0

    def observe(self, loss: float) -> AdaptiveClusters:
        """The state after a round with this attack loss (not negative)."""
        steps = self.steps + 1
        smoothed = self.decay * self.smoothed + (1 - self.decay) * loss
        corrected = smoothed / (1 - self.decay**steps)
        rose = self.last >= 0 and corrected > self.last
        fell = self.last >= 0 and not rose
        rises, falls = self.rises + rose, self.falls + fell
        if rises - falls >= self.threshold:
            return self._changed(min(round(self.clusters + math.sqrt(self.most - self.clusters)), self.most))
        if falls - rises >= self.threshold:
            return self._changed(max(round(self.clusters - math.sqrt(self.clusters - self.fewest)), self.fewest))
        return replace(self, smoothed=smoothed, steps=steps, last=corrected, rises=rises, falls=falls)

    def _changed(self, clusters: int) -> AdaptiveClusters:
        return replace(
            self,
            clusters=clusters,
            threshold=self.threshold * (1 + self.growth),
            smoothed=0.0,
            steps=0,
            last=-1.0,
            rises=0,
            falls=0,
        )
