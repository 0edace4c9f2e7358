"""Checks that authors of criteria, repairs and adapters run on their own code.

Each check is one claim. In a test suite of your own:

    @pytest.mark.parametrize("check", criterion_checks("mine"), ids=str)
    def test_my_criterion_keeps_the_contract(check):
        check()
"""

from .adapters import adapter_checks
from .check import Check
from .criteria import criterion_checks, example_axes
from .repairs import example_layer, repair_checks

__all__ = [
    "Check",
    "adapter_checks",
    "criterion_checks",
    "example_axes",
    "example_layer",
    "repair_checks",
]
