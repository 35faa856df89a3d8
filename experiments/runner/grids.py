"""Which runs each table and figure is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from experiments.papers import paper
from experiments.papers.poisoning import ROUNDS, poisoning_grid
from experiments.runner.entries import entry, percent
from experiments.runner.grid import Entry, Grid, Plan, with_rounds
from experiments.runner.readings import readings
from experiments.runner.targeted import targeted, union_targeted
from settings.options import Scalar, require

FIGURE_4_ROUNDS = 50
"""Figure 4 shows the first rounds of a training, ten a column."""

RATIOS = (0.001, 0.005, 0.01, 0.05)


def table1(plan: Plan) -> Grid:
    """Every attack without defense, 1 % malicious."""
    attacks = [attack for attack in paper.ATTACKS if attack != "cluster+cl"]
    lines = [entry(plan, (paper.attack_label(attack),), attack, baseline=0) for attack in (*attacks, *plan.attacks)]
    title = f"Table 1: attacks on {plan.model} trained on {plan.data}, no defense, 1 % malicious users"
    return Grid("table1", title, ("attack",), tuple(lines), ("hr@5", "ndcg@5"))


def table3(plan: Plan) -> Grid:
    """ClusterAttack with and without the contrastive task against UNION."""
    lines = [
        _honest(plan),
        *(
            entry(plan, (paper.defense_label(defense), paper.attack_label(attack)), attack, defense, baseline=0)
            for defense in ("union+multi-krum", "union+norm-bound")
            for attack in ("cluster", "cluster+cl")
        ),
    ]
    title = f"Table 3: an attacker who also trains UNION's task, {plan.model} on {plan.data}, 1 % malicious users"
    return Grid("table3", title, ("defense", "attack"), tuple(lines))


def table4(plan: Plan) -> Grid:
    """Fewer malicious users."""
    lines = [entry(plan, (paper.attack_label("none"), ""), "none", baseline=0)]
    for fraction in (paper.TABLE_4_FEWER, 0.01):
        for attack in ("fed-attack", "lie", "fang", "cluster"):
            lines += [
                entry(plan, (paper.attack_label(attack), percent(fraction)), attack, fraction=fraction, baseline=0)
            ]
    title = f"Table 4: fewer malicious users, {plan.model} on {plan.data}, no defense"
    return Grid("table4", title, ("attack", "malicious"), tuple(lines))


def table5(plan: Plan) -> Grid:
    """More malicious users."""
    lines = [
        _honest(plan),
        *(
            entry(plan, (paper.defense_label(defense), paper.attack_label(attack)), attack, defense, 0.05, 0)
            for defense in ("none", "union+multi-krum", "union+norm-bound")
            for attack in paper.TABLE_5_ATTACKS
        ),
    ]
    title = f"Table 5: 5 % malicious users, {plan.model} on {plan.data}"
    return Grid("table5", title, ("defense", "attack"), tuple(lines))


def _honest(plan: Plan) -> Entry:
    """The first line of a table: neither attack nor defense, the run that the others are compared with."""
    return entry(plan, (paper.defense_label("none"), paper.attack_label("none")), "none", baseline=0)


def figure2(plan: Plan) -> Grid:
    """Every defense against every attack, 1 % malicious, compared with the run of its defense that nobody attacks."""
    lines = [
        entry(plan, (paper.defense_label(defense), paper.attack_label(attack)), attack, defense)
        for defense in (*paper.FIGURE_2_DEFENSES, *plan.defenses)
        for attack in (*paper.FIGURE_2_ATTACKS, *plan.attacks)
    ]
    calm = {line.labels[0]: at for at, line in enumerate(lines) if _is_calm(line)}
    lines = [replace(line, baseline=calm[line.labels[0]]) for line in lines]
    title = f"Figure 2: every defense against every attack, {plan.model} on {plan.data}, 1 % malicious users"
    return Grid("figure2", title, ("defense", "attack"), tuple(lines))


def worst_case(plan: Plan) -> Grid:
    """Figure 2's runs: which attack hurts each defense most."""
    title = f"Every defense under its worst attack, {plan.model} on {plan.data}, 1 % malicious users"
    return replace(figure2(plan), name="worst-case", title=title)


def _is_calm(line: Entry) -> bool:
    return line.cells[0].options["attack"] == "none"


def figure3(plan: Plan) -> Grid:
    """ClusterAttack with adaptive and with fixed K over the initial K."""
    lines = [entry(plan, (paper.attack_label("none"), ""), "none", baseline=0)]
    own = paper.SETTINGS.get((plan.dataset, plan.model), paper.OTHER_SETTING)["cluster-clusters"]
    for adaptive in (True, False):
        for clusters in paper.INITIAL_CLUSTERS:
            # The table's own run is named as the table names it, so that it is one run.
            more: dict[str, Scalar] = {} if clusters == own else {"cluster-clusters": clusters}
            more |= {} if adaptive else {"cluster-adaptive": False}
            labels = ("adaptive" if adaptive else "fixed", str(clusters))
            drawn = paper.drawn_in_figure3(plan.dataset, plan.model, clusters, adaptive=adaptive)
            line = entry(plan, labels, "cluster", baseline=0, more=more)
            lines += [replace(line, printed=None if plan.changed else drawn)]
    title = f"Figure 3: ClusterAttack's number of clusters, adaptive or fixed, {plan.model} on {plan.data}"
    return Grid("figure3", title, ("K", "initially"), tuple(lines))


def figure4(plan: Plan) -> Grid:
    """UNION under ClusterAttack with and without its contrastive task, one seed; the first rounds' updates recorded."""
    recorded: dict[str, Scalar] = {"record-updates": f"1-{FIGURE_4_ROUNDS}", **plan.extra}
    one_seed = replace(plan, seeds=plan.seeds[:1], attacker_seeds=plan.attacker_seeds[:1], extra=recorded)
    tasks = (("with the contrastive task", "on"), ("without the contrastive task", "off"))
    lines = [
        entry(one_seed, (label,), "cluster", "union", baseline=0, more={"contrastive-task": task})
        for label, task in tasks
    ]
    title = f"Figure 4: received updates and their uniformities, {plan.model} on {plan.data}"
    note = f"Drawn: rounds 1 to {FIGURE_4_ROUNDS}, ten a column; a column's PCA is of all updates of its rounds."
    return Grid("figure4", title, ("UNION",), tuple(lines), notes=(note,))


def defense_tax(plan: Plan) -> Grid:
    """Every defense where nobody attacks: what it costs."""
    defenses = [
        *paper.FIGURE_2_DEFENSES,
        "union",
        "median",
        "per-item-trimmed-mean",
        "per-item-median",
        "per-item-krum",
        *plan.defenses,
    ]
    lines = [entry(plan, (paper.defense_label(defense),), "none", defense, baseline=0) for defense in defenses]
    title = f"Defense tax: every defense without an attack, {plan.model} on {plan.data}"
    return Grid("defense-tax", title, ("defense",), tuple(lines), ("hr@5", "ndcg@5"))


def ratios(plan: Plan) -> Grid:
    """ClusterAttack by 0.1, 0.5, 1 and 5 % of the users, without and with UNION."""
    lines = [entry(plan, (paper.defense_label("none"), "0 %"), "none", baseline=0)]
    for defense in ("none", "union+multi-krum", "union+norm-bound"):
        for fraction in RATIOS:
            labels = (paper.defense_label(defense), percent(fraction))
            lines += [entry(plan, labels, "cluster", defense, fraction, baseline=0)]
    title = f"ClusterAttack by the share of malicious users, {plan.model} on {plan.data}"
    return Grid("ratios", title, ("defense", "malicious"), tuple(lines))


def recovery(plan: Plan) -> Grid:
    """ClusterAttack that stops half-way, beside the run that nobody attacks."""
    lines: list[Entry] = []
    for defense in ("none", "norm-bound", "union+norm-bound"):
        stop = plan.rounds_of(defense) // 2
        often = max(1, stop // paper.EVALUATIONS)
        asked = int(plan.extra.get("eval-every", 1))
        require(stop % asked == 0, "eval-every", asked, f"a divisor of {stop}, the round after which the attack stops")
        shared = replace(plan, extra={"eval-every": often, **plan.extra})
        at = len(lines)
        lines += [entry(shared, (paper.defense_label(defense), "no attack"), "none", defense, baseline=at)]
        labels = (paper.defense_label(defense), f"ClusterAttack until round {stop}")
        lines += [entry(shared, labels, "cluster", defense, baseline=at, more={"attack-stop": stop})]
    title = f"Recovery after ClusterAttack stops, {plan.model} on {plan.data}"
    return Grid("recovery", title, ("defense", "attack"), tuple(lines))


GRIDS: dict[str, Callable[[Plan], Grid]] = {
    "table1": table1,
    "table3": table3,
    "table4": table4,
    "table5": table5,
    "figure2": figure2,
    "figure3": figure3,
    "figure4": figure4,
    "defense-tax": defense_tax,
    "ratios": ratios,
    "recovery": recovery,
    "worst-case": worst_case,
    "readings": readings,
    "targeted": targeted,
    "union-targeted": union_targeted,
    "deep-poisoning": poisoning_grid,
}
"""The tables and figures by the command that makes them."""


def grids_of(names: Sequence[str], plan: Plan) -> list[Grid]:
    """The grids of these names, with a note of what the paper has otherwise. Raises ``OptionError``: see ``noted``."""
    usual = {"deep-poisoning": ROUNDS}
    grids = [with_rounds(GRIDS[name](plan), plan.rounds, usual.get(name, paper.ROUNDS)) for name in names]
    return noted(grids, plan)


def noted(grids: Sequence[Grid], plan: Plan) -> list[Grid]:
    """The grids with a note of what is not as the paper has it.

    Raises ``OptionError`` where the plan names a defense for fewer rounds that none of them has, or attacks and
    defenses that none of them compares.
    """
    changed = ", ".join(f"{name} = {value}" for name, value in sorted(plan.changed.items()))
    notes = [f"All runs with {changed}."] if changed else []
    grids = list(grids)
    sooner = f"After {plan.rounds} rounds; what the paper prints is after {paper.ROUNDS}."
    for place, grid in enumerate(grids):
        told = [sooner] if plan.rounds != paper.ROUNDS and any(entry.printed for entry in grid.entries) else []
        grids[place] = replace(grid, notes=(*grid.notes, *told, *notes))
    used = {kind: {str(one.options[kind]) for grid in grids for one in grid.cells} for kind in ("attack", "defense")}
    fitting = {
        "attack": "table1, figure2, worst-case, targeted",
        "defense": "figure2, worst-case, defense-tax, targeted",
    }
    for defense in plan.rounds_for:
        require(defense in used["defense"], "--rounds-for", defense, "one of " + ", ".join(sorted(used["defense"])))
    for kind, asked in (("attack", plan.attacks), ("defense", plan.defenses)):
        for name in asked:
            require(name in used[kind], f"--add-{kind}", name, f"a command that compares them ({fitting[kind]})")
    return grids


PAPERS = ("table1", "table3", "table4", "table5", "figure2", "figure3", "figure4")
