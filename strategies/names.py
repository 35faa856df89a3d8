"""The names in a chain of defenses, as the option ``defense`` has them."""

from __future__ import annotations


def names_of(defense: str) -> list[str]:
    """Both "a + b" and "a+b" are a and b; "none", or nothing, is no defense at all."""
    return [name for name in defense.replace(" ", "").split("+") if name not in ("", "none")]
