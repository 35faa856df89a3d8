"""``python -m settings``: the reference of all options as Markdown.

``--write`` brings ``docs/options.md`` and the section of ``pyproject.toml`` up to date. This command alone in this
package knows the rooms whose options it lists.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from attacks import ATTACKS_ON, attack_class
from attacks.images.poison_data import PoisonOptions
from client.node_options import NodeOptions
from models import MODELS
from models.images.classification import LocalTraining
from settings.options import options_of
from settings.reference import Group, as_markdown, as_toml
from settings.run import RunOptions
from strategies import RULES
from strategies.chain import prefix_of
from strategies.rules.fl_wbc import PREFIX, FlWbcOptions

PROJECT = Path(__file__).resolve().parent.parent
PAGE, PYPROJECT = PROJECT / "docs" / "options.md", PROJECT / "pyproject.toml"
SECTION = "[tool.flwr.app.config]\n"


def groups() -> list[Group]:
    """The options of a run, and those of the attacks, rules and models that come with the program."""
    model_of: dict[str, str] = {card.task: name for name, card in MODELS.items()}
    attacks = [attack_class(name, model_of[task]) for task, names in ATTACKS_ON.items() for name in names]
    # Some share their options: each group once.
    attacking = {kind.prefix: kind.Options for kind in attacks if options_of(kind.Options)}
    defending = {prefix_of(rule): rule.Options for rule in RULES.values()} | {PREFIX: FlWbcOptions}
    return [
        Group(RunOptions),
        Group(LocalTraining, "local", "Clients with images", "both"),
        Group(PoisonOptions, "poison", "Who attacks", "both"),
        *(Group(options, prefix, "Who attacks", "both") for prefix, options in attacking.items()),
        *(
            Group(options, prefix, "Who defends", "both" if prefix == PREFIX else "server")
            for prefix, options in defending.items()
        ),
    ]


def reference() -> str:
    """What ``docs/options.md`` should be."""
    return as_markdown(groups(), NodeOptions)


def pyproject(text: str) -> str:
    """What ``pyproject.toml``, now this text, should be."""
    head, _, rest = text.partition(SECTION)
    following = rest.partition("\n[")
    return f"{head}{SECTION}{as_toml(groups())}{following[1]}{following[2]}"


def main() -> None:
    """Print the reference, or write what is made of it."""
    parser = argparse.ArgumentParser(prog="python -m settings", description="the reference of all options as Markdown")
    parser.add_argument("--write", action="store_true", help="bring docs/options.md and pyproject.toml up to date")
    if parser.parse_args().write:
        PAGE.write_text(reference(), encoding="utf-8")
        PYPROJECT.write_text(pyproject(PYPROJECT.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(reference(), end="")


if __name__ == "__main__":
    main()
