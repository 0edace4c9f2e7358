"""Comparisons and training runs that were damaged are refused, and never run what they bring."""

from .fuzzing import amounts, fuzz
from .sorts.records import examine_store, examine_training
from .strategies.records import stores, trainings


@amounts
def test_a_damaged_comparison_is_refused_or_reported_the_same(scene, amount):
    fuzz(stores(), lambda case: examine_store(scene, case), amount, few=6)


@amounts
def test_a_damaged_training_run_is_refused_or_resumed_bit_for_bit(scene, amount):
    fuzz(trainings(), lambda case: examine_training(scene, case), amount, few=4)
