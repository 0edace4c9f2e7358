"""A weights file is taken as it is meant, or refused in a sentence."""

from .fuzzing import amounts, fuzz
from .sorts.weights import examine
from .strategies.weights import files


@amounts
def test_a_weights_file_is_taken_as_meant_or_refused(scene, amount):
    fuzz(files(), lambda case: examine(scene, case), amount, few=6)
