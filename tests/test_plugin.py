"""A plug-in that goes wrong is named, whatever it does."""

from __future__ import annotations

import functools
import sys

import pytest
import torch

from prunekit.cli import main
from prunekit.criteria import CRITERIA
from prunekit.criteria.base import Criterion, criterion
from prunekit.errors import CriterionError, PruneError, RegistryError, RepairError, described
from prunekit.plugin import configured, shown
from prunekit.repairs import REPAIRS
from prunekit.repairs.base import Repair
from prunekit.repairs.given import Product
from prunekit.testing import example_axes, example_layer


def raises(error):
    def function(_):
        raise error

    return function


FAILURES = {
    "any exception": (raises(ZeroDivisionError("by zero")), "ZeroDivisionError: by zero"),
    "no message": (raises(RuntimeError()), "failed with RuntimeError;"),
    "sys.exit": (lambda _: sys.exit(0), "SystemExit: 0"),
    "memory": (raises(MemoryError("too large")), "MemoryError: too large"),
    "BaseException": (raises(BaseException("odd")), "BaseException: odd"),
    "GPU memory": (raises(torch.OutOfMemoryError("CUDA")), "OutOfMemoryError: CUDA"),
    "escapes": (raises(ValueError("a\x1b[1m\nb")), r"ValueError: a \[1m b"),
    "at length": (raises(ValueError("x " * 9999)), r"ValueError: (x ){98}\.\.\.;"),
}


@pytest.mark.parametrize(("function", "reason"), FAILURES.values(), ids=FAILURES)
def test_a_criterion_that_fails_is_named_with_its_package_and_its_reason(function, reason):
    with pytest.raises(
        CriterionError, match=rf"^Criterion 'bad' \(test_plugin:.*{reason}"
    ) as caught:
        Criterion("bad", function)(example_axes())
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(("function", "reason"), FAILURES.values(), ids=FAILURES)
def test_a_repair_that_fails_is_named_with_its_package_and_its_reason(function, reason):
    with pytest.raises(RepairError, match=rf"^Repair 'bad' \(test_plugin:.*{reason}"):
        Repair("bad", function)(example_layer())
    product = Product("head", torch.eye(4), torch.eye(4), torch.tensor([0, 2]))
    with pytest.raises(RepairError, match=rf"^Repair 'bad' \(test_plugin:.*{reason}"):
        Repair("bad", lambda layer: layer, product=function).mix(product)


def test_ctrl_c_is_nobody_s_fault():
    with pytest.raises(KeyboardInterrupt):
        Criterion("slow", raises(KeyboardInterrupt()))(example_axes())


def test_a_plug_in_s_own_refusal_keeps_its_sentence_under_its_name():
    own = CriterionError("Criterion 'mine' wants more axes.")
    with pytest.raises(CriterionError) as caught:
        Criterion("mine", raises(own))(example_axes())
    assert caught.value is own
    with pytest.raises(CriterionError, match=r"'mine' \(test_plugin.* refuses: No more\."):
        Criterion("mine", raises(PruneError("No more.")))(example_axes())


def endless(axes):
    while True:
        yield torch.zeros(axes[0].size)


def fails_late(axes):
    yield torch.zeros(axes[0].size)
    raise KeyError("late")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda axes: None, "returned None for 4 axes; expected a list"),
        (lambda axes: 3.5, r"returned 3\.5 for 4 axes; expected a list"),
        (lambda axes: torch.tensor(1.0), "TypeError: iteration over a 0-d tensor"),
        (endless, "returned more than 4 scores for 4 axes"),
        (fails_late, "KeyError: 'late'"),
        (lambda axes: ["a"] * 4, r"with 'a'; expected a tensor of shape \(16,\)"),
        (lambda axes: [torch.zeros(a.size, dtype=torch.cfloat) for a in axes], "scored axis"),
        (lambda axes: [torch.zeros(a.size, device="meta") for a in axes], "failed with"),
        (lambda axes: [torch.zeros(a.size).to_sparse() for a in axes], "failed with"),
    ],
)
def test_results_that_are_no_scores_are_refused(function, message):
    with pytest.raises(CriterionError, match=rf"'bad' \(test_plugin:.*{message}"):
        Criterion("bad", function)(example_axes())


def test_a_generator_of_scores_is_as_good_as_a_list():
    def one_by_one(axes):
        for axis in axes:
            yield torch.arange(axis.size)

    assert len(Criterion("fine", one_by_one)(example_axes())) == 4


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda layer: None, "returned None for 'layer'; expected a pair"),
        (lambda layer: 3, "returned 3 for 'layer'; expected a pair"),
        (lambda layer: layer.weight, r"returned tensor\(.* for 'layer'; expected a pair"),
        (lambda layer: (layer.weight, 3.0), r"shapes \(6, 8\) and float for layer 'layer'"),
        (lambda layer: (layer.weight.numpy(), layer.bias), r"shapes ndarray and \(6,\)"),
        (lambda layer: (layer.weight * 1e300, layer.bias), "'layer' NaN or infinite in float32"),
        (lambda layer: (layer.weight, layer.bias / 0), "'layer' NaN or infinite in float32"),
    ],
)
def test_results_that_are_no_weights_are_refused(function, message):
    with pytest.raises(RepairError, match=rf"'bad' \(test_plugin:.*{message}"):
        Repair("bad", function)(example_layer())


def test_weights_must_be_finite_in_the_precision_of_the_model():
    repair = Repair("big", lambda layer: (layer.weight * 1e6, layer.bias))
    repair(example_layer(), torch.bfloat16)
    with pytest.raises(RepairError, match="infinite in float16"):
        repair(example_layer(), torch.float16)


@pytest.mark.parametrize(
    ("mixed", "message"),
    [
        (torch.eye(4), "returned .* expected a pair"),
        (
            (torch.eye(4), torch.eye(4)),
            r"shapes \(4, 4\) and \(4, 4\) for 'head'; expected \(2, 4\)",
        ),
        ((torch.full((2, 4), torch.nan),) * 2, "'head' NaN or infinite"),
    ],
)
def test_mixtures_that_do_not_fit_are_refused(mixed, message):
    product = Product("head", torch.eye(4), torch.eye(4), torch.tensor([0, 2]))
    repair = Repair("bad", lambda layer: layer, product=lambda product: mixed)
    with pytest.raises(RepairError, match=message):
        repair.mix(product)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Criterion("odd", lambda: []), r"'odd' \(test_plugin:.*cannot be called with one"),
        (lambda: Criterion("odd", lambda a, b: []), "missing a required argument: 'b'"),
        (lambda: Criterion("odd", lambda a, *, b: []), "missing a required argument: 'b'"),
        (lambda: Criterion("odd", 3), r"'odd' .* is 3; expected a function"),
        (lambda: Criterion("odd", len, needs="bogus"), "No needs is called 'bogus'. Known: act"),
        (lambda: Criterion("odd", len, scope="axes"), "No scope is called 'axes'. Did you mean"),
        (lambda: Criterion("odd", len, weight_scope="x"), "No weight_scope is called 'x'"),
        (lambda: Criterion("a:b", len), r"the name 'a:b'; expected a word"),
        (lambda: criterion(len)(len), r"got the name <built-in function len>; .*@criterion"),
        (lambda: Repair("odd", len, needs="bogus"), "No needs is called 'bogus'"),
        (lambda: Repair("odd", len, inputs="dens"), "No inputs is called 'dens'. Did you mean"),
        (lambda: Criterion("odd", len, allowed={"p": None}), "'odd' has no options"),
    ],
)
def test_what_could_never_work_is_refused_where_it_is_defined(make, message):
    with pytest.raises((CriterionError, RepairError), match=message):
        make()


def test_any_callable_has_an_origin():
    class Scores:
        def __call__(self, axes, *, p=1):
            return [torch.arange(axis.size) * p for axis in axes]

    for function in (Scores(), functools.partial(Scores.__call__, None), Scores().__call__):
        found = Criterion("odd", function)
        assert found.configure(p=2)(example_axes())[0][1] == 2
        assert ":" in found.origin


@pytest.mark.parametrize("noun", ["criterion", "repair"])
def test_the_command_line_says_it_in_a_sentence_and_leaves_with_2(noun, capsys, monkeypatch):
    plugins, sort = {"criterion": (CRITERIA, Criterion), "repair": (REPAIRS, Repair)}[noun]
    monkeypatch.setitem(plugins._loaded, "quits", sort("quits", lambda _: sys.exit(0)))
    arguments = ["--ratio", "0.3", f"--{noun}", "quits", "--calibration", "2"]
    assert main(["run", "--arch", "vit_micro", *arguments]) == 2
    said = capsys.readouterr().err
    assert f"prunekit: {noun.capitalize()} 'quits' (test_plugin:" in said
    assert "SystemExit: 0; correct it, or choose another." in said


# --- options -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registry", "spec", "message"),
    [
        (REPAIRS, "lstsq:ridge=nan", "'ridge' of repair 'lstsq' got nan; expected a finite number"),
        (REPAIRS, "lstsq:ridge=inf", "got inf; expected a finite number"),
        (REPAIRS, "lstsq:ridge=1e999", "got inf; expected a finite number"),
        (REPAIRS, "lstsq:ridge=-1", r"got -1\.0; expected 0 or more"),
        (CRITERIA, "magnitude:p=0", "'p' of criterion 'magnitude' got 0; expected 1 or 2"),
        (CRITERIA, f"magnitude:p={'9' * 50}", r"got 9{36} \.\.\.; expected 1 or 2"),
        (CRITERIA, f"magnitude:p={'9' * 5000}", r"got '9{35} \.\.\.; expected int"),
        (CRITERIA, f"random:seed={2**64}", "got 18446744073709551616; expected an integer of 64"),
    ],
)
def test_values_that_make_no_sense_are_refused_before_any_work(registry, spec, message):
    with pytest.raises(PruneError, match=message):
        configured(registry, spec)


def test_an_integer_too_long_to_be_written_is_refused_in_words():
    with pytest.raises(CriterionError, match="got a value of type int; expected 1 or 2"):
        CRITERIA.get("magnitude").configure(p=10**5000)


@pytest.mark.parametrize("spec", [3, None, len, REPAIRS.get("bias"), ["magnitude"]])
def test_what_is_no_criterion_is_refused(spec):
    with pytest.raises(RegistryError, match=r"Expected a criterion or its name, got .*@criterion"):
        configured(CRITERIA, spec)


def test_values_are_shown_short():
    assert shown(3) == "3"
    assert len(shown("a" * 1000)) == 40


def test_an_error_that_cannot_be_printed_still_has_a_name():
    class Odd(Exception):
        def __str__(self):
            raise ValueError

    assert described(Odd()) == "Odd"
