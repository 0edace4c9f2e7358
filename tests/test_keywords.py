"""Functions that collect keywords in a checked value."""

import inspect

import pytest

from prunekit import finetune, prune


@pytest.mark.parametrize("function", [prune, finetune])
def test_all_keywords_are_in_the_signature(function):
    shown = inspect.signature(function).parameters
    assert "seed" in shown
    assert not [p for p in shown.values() if p.kind is inspect.Parameter.VAR_KEYWORD]


def test_a_misspelt_keyword_names_the_function_and_what_was_meant():
    with pytest.raises(TypeError, match=r"prune\(\) got .* 'ration'; did you mean 'ratio'\?$"):
        prune("vit_micro", ration=0.3)
    with pytest.raises(TypeError, match=r"finetune\(\) got .* 'qqq'$"):
        finetune("nowhere", qqq=1)
