"""A pruning that is right keeps what it promises, or says that the budget cannot be had."""

from .fuzzing import amounts, fuzz
from .sorts.prunings import examine
from .strategies.prunings import prunings


@amounts
def test_a_pruning_keeps_its_promises_and_is_loaded_as_it_was_saved(scene, amount):
    fuzz(prunings(), lambda case: examine(scene, case), amount, few=10)
