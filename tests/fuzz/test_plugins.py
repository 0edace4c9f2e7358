"""A criterion or repair that misbehaves is named, and nobody's model suffers."""

from .fuzzing import amounts, fuzz
from .sorts.plugins import examine
from .strategies.plugins import criteria, repairs


@amounts
def test_a_criterion_that_misbehaves_is_named_and_harms_nothing(scene, amount):
    fuzz(criteria(), lambda case: examine(scene, case), amount, few=10)


@amounts
def test_a_repair_that_misbehaves_is_named_and_harms_nothing(scene, amount):
    fuzz(repairs(), lambda case: examine(scene, case), amount, few=10)
