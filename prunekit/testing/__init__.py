"""Checks that authors of criteria, repairs and adapters run on their own code, and on models.

Each check is one claim. In a test suite of your own:

    @pytest.mark.parametrize("check", criterion_checks("mine"), ids=str)
    def test_my_criterion_keeps_the_contract(check):
        check()
"""

from .adapters import adapter_checks
from .check import Check
from .criteria import criterion_checks, example_axes
from .pruned import pruned_checks
from .repairs import example_layer, repair_checks

__all__ = [
    "Check",
    "adapter_checks",
    "criterion_checks",
    "example_axes",
    "example_layer",
    "pruned_checks",
    "repair_checks",
]
