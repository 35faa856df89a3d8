"""One table in three formats."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", "−": "$-$", "—": "---", "†": r"$\dagger$"}


@dataclass(frozen=True)
class Sheet:
    """``columns`` and ``rows`` of texts for people; ``records``: the same numbers unrounded, for programs."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    records: Sequence[Mapping[str, object]]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """A heading, a pipe table, and the notes under it."""
        lines = [f"# {self.title}", "", _pipes(self.columns), _pipes(["---"] * len(self.columns))]
        lines += [_pipes(row) for row in self.rows]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)]) + "\n"

    def csv(self) -> str:
        """One line a record; the first record names the columns."""
        text = io.StringIO()
        names = list(dict.fromkeys(name for record in self.records for name in record))
        writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(self.records)
        return text.getvalue()

    def latex(self) -> str:
        """A ``table`` environment with booktabs' rules."""
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{_escaped(self.title)}}}"]
        lines += [rf"\begin{{tabular}}{{{'l' * len(self.columns)}}}", r"\toprule"]
        lines += [_ampersands(self.columns), r"\midrule", *map(_ampersands, self.rows), r"\bottomrule"]
        lines += [r"\end{tabular}", *(rf"\par\footnotesize {_escaped(note)}" for note in self.notes), r"\end{table}"]
        return "\n".join(lines) + "\n"


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _ampersands(cells: Sequence[str]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)
