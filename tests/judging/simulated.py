"""The simulated raters of the benchmarks."""

import importlib.util
import sys
from pathlib import Path

_FILE = Path(__file__).parents[2] / "benchmarks" / "simulated_raters.py"
_SPEC = importlib.util.spec_from_file_location("simulated_raters", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _MODULE  # where dataclasses look for annotations
_SPEC.loader.exec_module(_MODULE)

Population = _MODULE.Population
failed_checks = _MODULE.failed_checks
four_votes = _MODULE.four_votes
pair_votes = _MODULE.pair_votes
