"""How long a poison lives in the global model once nobody feeds it any more."""

from __future__ import annotations

import math
from collections.abc import Mapping

WAITS = (1, 5, 10, 20, 50)


def success_after(curve: Mapping[int, float], last_attack: int) -> dict[int, float]:
    """Attack success 1, 5, 10, 20 and 50 rounds after the last attacked one.

    ``curve``: round → success rate, as evaluated. Between two evaluations the value is interpolated; waits
    beyond the last one are left out.
    """
    end = max(curve, default=-1)
    return {wait: success_at(curve, last_attack + wait) for wait in WAITS if last_attack + wait <= end}


def half_life(curve: Mapping[int, float], last_attack: int) -> float:
    """Rounds from the last attacked one until attack success is first half of what it was then.

    Interpolated between evaluations. Infinite where the curve ends before (it lived at least as long as
    the curve shows), not a number where there was no success to lose.
    """
    start = success_at(curve, last_attack)
    if not start > 0:
        return math.nan
    before, value_before = last_attack, start
    for server_round in sorted(number for number in curve if number > last_attack):
        value = curve[server_round]
        if value <= start / 2:
            part = (value_before - start / 2) / (value_before - value)
            return before + part * (server_round - before) - last_attack
        before, value_before = server_round, value
    return math.inf


def success_at(curve: Mapping[int, float], server_round: int) -> float:
    """Attack success after a round, between two evaluations interpolated. Raises ``ValueError`` outside the curve."""
    if server_round in curve:
        return curve[server_round]
    earlier = max((number for number in curve if number < server_round), default=None)
    later = min((number for number in curve if number > server_round), default=None)
    if earlier is None or later is None:
        raise ValueError(f"The curve says nothing about round {server_round}: it was not evaluated before and after.")
    part = (server_round - earlier) / (later - earlier)
    return curve[earlier] + part * (curve[later] - curve[earlier])
