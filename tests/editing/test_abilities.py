"""The table of what each family can do is that of the registry."""

import importlib
from pathlib import Path

from danqing.families import REGISTRY, display_name
from danqing.families.abilities import Fills, TakesNoise, Translates, Varies

PAGE = Path(__file__).parents[2] / "docs" / "editing.md"
METHODS = {Fills: "fill", Varies: "vary", Translates: "translate", TakesNoise: "noise_shape"}


def test_the_table_of_families_says_what_their_classes_have() -> None:
    _, _, rest = PAGE.read_text(encoding="utf-8").partition("## Which family can do what")
    rows = [line.strip("|").split("|") for line in rest.partition("\n## ")[0].splitlines() if "|" in line]
    told = {row[0].strip(): [cell.strip() for cell in row[1:5]] for row in rows[2:]}
    expected = {}
    for family, (module, learner, _) in REGISTRY.items():
        if module.startswith("danqing.learners"):  # they recognize images, and change none
            continue
        for name, variant in getattr(importlib.import_module(module), learner).variants().items():
            able = [hasattr(variant, method) for method in METHODS.values()]
            expected[name or display_name(family)] = ["yes" if each else "no" for each in able]
    assert told == expected, f"Say in the table of {PAGE.name} and its Chinese twin what each family can do."
