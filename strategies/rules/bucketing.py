"""Bucketing (Karimireddy, He and Jaggi 2022): the next rule sees means of random groups of updates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from protocol.updates import Updates
from settings.options import option
from strategies.rule import Aggregate, RuleOptions, ServerView, Verdict, Wrapper
from strategies.sparse.mixtures import mixtures


@dataclass(frozen=True)
class BucketingOptions(RuleOptions):
    """Options of bucketing."""

    size: int = option(2, "s: how many updates a bucket holds; the last one may hold fewer", at_least=1)


class Bucketing(Wrapper):
    """Hands on the plain means of ⌈n/s⌉ random buckets of s updates (Algorithm 1 of the paper).

    It stands in front of a robust rule, as ``bucketing+krum``; that rule's f attackers may sit in f buckets. A verdict
    of the rules behind it counts for every user of a bucket: who sits in a dropped one is dropped.
    """

    name = "bucketing"
    Options = BucketingOptions
    options: BucketingOptions

    def judge(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict]:
        mixed, bucket = self._mixed(updates, server)
        return mixed, self._verdict(updates, bucket)

    def aggregate(self, updates: Updates, server: ServerView) -> Aggregate:
        mixed, bucket = self._mixed(updates, server)
        of_users = partial(_of_members, buckets=mixed.users, users=updates.users, bucket=bucket)
        return self.hand_on(mixed, server, self._verdict(updates, bucket), of_users)

    def _mixed(self, updates: Updates, server: ServerView) -> tuple[Updates, Tensor]:
        """The buckets' means, each under its lowest user, and the bucket (n,) of each user."""
        n, size = len(updates), self.options.size
        # Drawn for the users in ascending order, so that the order in which they came does not matter.
        drawn = updates.users.argsort()[torch.from_numpy(server.generator.permutation(n)).to(updates.users.device)]
        count = -(-n // size)
        bucket = torch.empty_like(drawn)
        bucket[drawn] = torch.arange(n, device=drawn.device) // size
        members = torch.zeros(count, n, dtype=torch.float64, device=drawn.device)
        members[bucket, torch.arange(n, device=drawn.device)] = 1
        largest = updates.users.max() + 1
        lowest = torch.where(members > 0, updates.users, largest).amin(1)
        return mixtures(updates, members / members.sum(1, keepdim=True), lowest), bucket

    def _verdict(self, updates: Updates, bucket: Tensor) -> Verdict:
        scores = torch.zeros(len(updates), dtype=torch.float64, device=bucket.device)
        kept = torch.ones_like(scores, dtype=torch.bool)
        return Verdict(self.name, updates.users, scores, kept, {"buckets": float(bucket.max()) + 1})


def _of_members(verdict: Verdict, buckets: Tensor, users: Tensor, bucket: Tensor) -> Verdict:
    """A verdict on buckets, under their users' ids ``buckets`` (m,), as one on all ``users`` (n,) who sit in them."""
    place = torch.full((len(buckets),), -1, device=users.device)
    order = verdict.users.argsort()
    found = torch.searchsorted(verdict.users[order], buckets).clamp(max=len(order) - 1)
    seen = verdict.users[order][found] == buckets
    place[seen] = order[found[seen]]
    of_user = place[bucket]
    judged = of_user >= 0
    return replace(
        verdict,
        users=users[judged],
        scores=verdict.scores[of_user[judged]],
        kept=verdict.kept[of_user[judged]],
    )
