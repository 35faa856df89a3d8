"""ClusterAttack (AAAI 2023, §4.1): gradients that draw the item vectors together in a few dense clusters."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from attacks.attack import Attack
from attacks.recommenders.adaptive_clusters import AdaptiveClusters
from attacks.recommenders.kmeans import kmeans
from attacks.view import AttackerView
from protocol.updates import Updates, make_updates
from settings.options import option, require


@dataclass(frozen=True)
class ClusterOptions:
    """Options of ClusterAttack.

    ``bound``: ``rescale`` sets each row to the length of Eq. 3's bound, as the authors' program does; ``clip`` only
    shortens, as their text says. ``loss``: ``mean`` divides Eq. 2 by K, as their program does; ``sum`` is as printed,
    which makes a difference where rows are clipped.
    """

    clusters: int = option(2, "initial K; the paper takes 8 on Gowalla", at_least=1)
    min_clusters: int = option(1, "the smallest K", at_least=1)
    max_clusters: int = option(50, "the largest K", at_least=1)
    adaptive: bool = option(True, "let K follow the attack's loss (§4.1)")
    threshold: float = option(
        100.0, "by how many rounds its loss must have risen more often than fallen, or the reverse", above=0
    )
    threshold_growth: float = option(1.0, "by what share the threshold grows with each change of K", at_least=0)
    decay: float = option(0.999, "of the moving average of the loss", above=0, below=1)
    largest_deviation: float = option(3.0, "standard deviations that a row may be longer than the mean", at_least=0)
    bound: Literal["rescale", "clip"] = option("rescale", "rescale (the authors' program); clip (their text)")
    loss: Literal["mean", "sum"] = option(
        "mean", "of Eq. 2: mean, divided by K (the authors' program); sum (as printed)"
    )
    rows: Literal["all", "touched"] = option("all", "all; touched: only the items that the honest update touches")
    contrastive_order: Literal["before", "after"] = option(
        "before", "of cluster+cl: add the contrastive gradient before or after the bound"
    )

    def __post_init__(self) -> None:
        within = self.min_clusters <= self.clusters <= self.max_clusters
        require(within, "cluster-clusters", self.clusters, "cluster-min-clusters ≤ it ≤ cluster-max-clusters, from 1")


@dataclass(frozen=True)
class NormBounds:
    """Mean and standard deviation of honest rows' norms over all (user, item) pairs (Eq. 3)."""

    mean: float
    deviation: float


class ClusterAttack(Attack):
    """ClusterAttack with its adaptive number of clusters."""

    prefix = "cluster"
    Options = ClusterOptions

    def __init__(self, options: ClusterOptions | None = None) -> None:
        super().__init__(options)
        chosen: ClusterOptions = self.options
        self._clusters = AdaptiveClusters(
            chosen.clusters,
            chosen.threshold,
            chosen.threshold_growth,
            chosen.decay,
            chosen.min_clusters,
            chosen.max_clusters,
        )
        self._loss = 0.0

    def poison(self, view: AttackerView) -> Updates:
        """Cluster the items (§4.1, steps 2 and 3), adapt K, and upload the gradient bounded as Eq. 3 says."""
        table, loss = view.model.items, view.request.loss
        # "With the original loss function" (§4.1, step 4): UNION's task would make the bounds several times larger.
        original = replace(loss, contrastive_weight=0.0)
        bounds = honest_norms(view.sample_honest(original), table, loss.weight_decay)
        assignment, centroids = kmeans(table, self._clusters.clusters, view.generator)
        self._loss, gradient = cluster_gradient(table, assignment, centroids, self.options.loss)
        if self.options.adaptive:
            self._clusters = self._clusters.observe(self._loss)
        return self._upload(view, gradient, bounds)

    def _upload(self, view: AttackerView, gradient: Tensor, bounds: NormBounds) -> Updates:
        """Step 4's bound on the ``gradient`` (num_items, d), or (k, num_items, d) where each user has its own."""
        count, num_items = len(view.honest), gradient.shape[-2]
        draws = view.generator.uniform(0, self.options.largest_deviation, (count, num_items))
        lengths = bounds.mean + torch.from_numpy(draws).to(gradient) * bounds.deviation
        if self.options.rows == "touched":
            owner, items = view.honest.row_owner, view.honest.items
            own = gradient.expand(count, -1, -1)[owner, items]
            return replace(view.honest, rows=bounded(own, lengths[owner, items], self.options.bound))
        if gradient.dim() == 2:
            gradient = gradient.unsqueeze(0)
        return dense_updates(view.honest, bounded(gradient, lengths, self.options.bound))

    def state(self) -> dict[str, float]:
        """Algorithm 1's state, and the last attack loss."""
        return {**asdict(self._clusters), "loss": self._loss}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what ``state`` gave."""
        fields = {name: type(value)(state[name]) for name, value in asdict(self._clusters).items()}
        self._clusters = AdaptiveClusters(**fields)
        self._loss = state["loss"]


class ClusterAttackWithContrast(ClusterAttack):
    """ClusterAttack+CL (Table 3): minimises L_attack + α·L_CL, so that it looks more uniform to UNION.

    The contrastive gradient is the honest one with the task less the honest one without it.
    """

    def _upload(self, view: AttackerView, gradient: Tensor, bounds: NormBounds) -> Updates:
        contrast = contrastive_gradient(view)
        if self.options.contrastive_order == "before":
            return super()._upload(view, gradient + contrast, bounds)
        poisoned = super()._upload(view, gradient, bounds)
        return replace(poisoned, rows=poisoned.rows + contrast[poisoned.row_owner, poisoned.items])


def cluster_gradient(
    table: Tensor, assignment: Tensor, centroids: Tensor, loss: Literal["mean", "sum"] = "mean"
) -> tuple[float, Tensor]:
    """L_attack = (1/K) Σ_i ‖e_i − c_a(i)‖² (Eq. 2) and ∂L_attack/∂E (num_items, d), centroids held constant.

    Without 1/K where ``loss`` is "sum".
    """
    difference = table - centroids[assignment]
    parts = len(centroids) if loss == "mean" else 1
    return float(difference.square().sum()) / parts, difference * (2 / parts)


def bounded(gradient: Tensor, lengths: Tensor, bound: Literal["rescale", "clip"]) -> Tensor:
    """Rows (…, d) with the lengths (…) of Eq. 3's bound, or at most those; a zero row stays zero."""
    norms = gradient.norm(dim=-1)
    factors = torch.where(norms > 0, lengths / norms.clamp(min=torch.finfo(norms.dtype).tiny), 0)
    if bound == "clip":
        factors = factors.clamp(max=1)
    return gradient * factors.unsqueeze(-1)


def honest_norms(honest: Updates, table: Tensor, weight_decay: float) -> NormBounds:
    """Mean and standard deviation of ‖g_i + λe_i‖ over all pairs of a user and an item, untouched rows included."""
    l2_norms = weight_decay * table.norm(dim=1).to(torch.float64)
    touched = (honest.rows + weight_decay * table[honest.items]).norm(dim=1).to(torch.float64)
    pairs = len(honest) * len(table)
    untouched = l2_norms[honest.items]
    total = len(honest) * l2_norms.sum() + (touched - untouched).sum()
    squares = len(honest) * l2_norms.square().sum() + (touched.square() - untouched.square()).sum()
    mean = float(total) / pairs
    return NormBounds(mean, float(np.sqrt(max(float(squares) / pairs - mean**2, 0.0))))


def contrastive_gradient(view: AttackerView) -> Tensor:
    """α·∂L_CL/∂E (k, num_items, d) of the selected users, dense; α = 1 where the server did not ask for the task."""
    loss, num_items = view.request.loss, len(view.model.items)
    with_task = view.train(view.selected, loss=replace(loss, contrastive_weight=loss.contrastive_weight or 1.0))
    without = view.train(view.selected, loss=replace(loss, contrastive_weight=0.0))
    return dense_rows(with_task, num_items) - dense_rows(without, num_items)


def dense_rows(updates: Updates, num_items: int) -> Tensor:
    """(n, num_items, d): an attacker's few updates with every row, zeros where none was sent."""
    dense = updates.rows.new_zeros(len(updates), num_items, updates.dim)
    dense[updates.row_owner, updates.items] = updates.rows
    return dense


def dense_updates(honest: Updates, rows: Tensor) -> Updates:
    """The honest updates with all their item rows (k, num_items, d) replaced, the rest as it was."""
    count, num_items, dim = rows.shape
    return make_updates(
        users=honest.users,
        num_examples=honest.num_examples,
        row_splits=torch.arange(count + 1, device=rows.device) * num_items,
        items=torch.arange(num_items, device=rows.device).repeat(count),
        rows=rows.reshape(-1, dim),
        shared=honest.shared,
    )
