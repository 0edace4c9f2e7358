"""An adapter that misbehaves is refused, or what it leads to is right."""

from .fuzzing import amounts, fuzz
from .sorts.adapters import examine
from .strategies.adapters import adapters


@amounts
def test_an_adapter_is_refused_or_its_result_equals_masking(scene, amount):
    fuzz(adapters(), lambda case: examine(scene, case), amount, few=40)
