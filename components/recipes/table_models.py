"""What a table can hold: each model's recipe, its label, the row it is compared with, and the paper's own figures."""

from functools import partial

from skipwise.common.errors import UserError
from skipwise.components.recipes import RECIPES, named_recipe
from skipwise.components.recipes.ablations import ABLATIONS
from skipwise.studies.config import Model

# HR@1/5/10/20 of table 1 of Seshadri & Knees, arXiv 2309.11623.
_TABLE_1 = {
    "unidir": ("Unidir S-", None, (0.2821, 0.4803, 0.5593, 0.6316)),
    "unidir-skip-context": ("Unidir S+, c = ŷ", "unidir", (0.3049, 0.5042, 0.5836, 0.6550)),
    "unidir-skip-track": ("Unidir S+, c = e", "unidir", (0.3073, 0.5088, 0.5867, 0.6554)),
    "bidir": ("Bidir S-", None, (0.1945, 0.4203, 0.5135, 0.5989)),
    "bidir-skip-context": ("Bidir S+, c = ŷ", "bidir", (0.2101, 0.4370, 0.5270, 0.6101)),
    "bidir-skip-track": ("Bidir S+, c = e", "bidir", (0.2339, 0.4358, 0.5165, 0.5911)),
}

MODELS: dict[str, Model] = {
    **{
        name: Model(
            label, "bidirectional" if name.startswith("bidir") else "unidirectional", RECIPES[name], base, paper
        )
        for name, (label, base, paper) in _TABLE_1.items()
    },
    "best": Model("best", "best", RECIPES["best"]),
    "best-skip-blind": Model("best, S-", "best", RECIPES["best-skip-blind"], "best"),
    "long": Model("long", "long", RECIPES["long"], "long-skip-blind"),
    "long-skip-blind": Model("long, S-", "long", RECIPES["long-skip-blind"]),
    **{
        name: Model(ablation.label, "ablations", partial(named_recipe, name), ablation.baseline)
        for name, ablation in ABLATIONS.items()
    },
}


def with_baselines(names: tuple[str, ...]) -> list[str]:
    """`names`, each after the row it is compared with; raises `UserError` for a name that no model has."""
    ordered: list[str] = []
    for name in names:
        if name not in MODELS:
            raise UserError(f"there is no model '{name}': expected --recipes out of {', '.join(MODELS)}")
        if name not in ordered:
            before = MODELS[name].baseline
            ordered += [row for row in with_baselines((before,) if before else ()) if row not in ordered]
            ordered.append(name)
    return ordered
