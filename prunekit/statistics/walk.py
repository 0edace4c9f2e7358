"""A large and a small model walk through calibration images side by side, block by block.

At any time memory holds the inputs of one block, for all images and both models, the activations
of one batch inside it, and of the large model for all images as many as fit into `HELD` bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import AdapterError
from .common import Images, first_weight, placed, without_labels

HELD = 5 * 2**28  # 1.25 GiB
END = ""  # of a section, among its layers
WHOLE = ""  # the whole model's name among its modules
Section = tuple[str, list[str]]  # a block, or the whole model, and the layers to look at in it


class Walk:
    """Where the two models stand, and what they make of the images there."""

    def __init__(self, large: nn.Module, small: nn.Module, images: Images):
        """Stand before the images, of which labels are not looked at; they are read repeatedly."""
        self._large, self._small, self._images = large, small, images
        self._device = next(large.parameters()).device
        self._at = WHOLE
        self._held: list[tuple[Tensor, Tensor]] = []
        # What the large model's layers return in the section, and at its end, as far as is known.
        self._outputs: dict[str, list[Tensor]] = {}

    def sections(self, layers: Collection[str], blocks: Sequence[str]) -> list[Section]:
        """Sort layers by when they run, and by the block they are part of.

        Args:
            layers: Modules to look at.
            blocks: Modules that run one after the other, each on the output of the one before.

        Returns:
            In order: what runs before the blocks, every block up to the last one that matters,
            and what runs after them. Sections of the whole model are slow: each of their layers
            takes a pass from the start.

        Layers that do not run are left out; of those that run twice, the first run counts.

        Raises:
            AdapterError: The blocks do not run like that.
            DataError: There are no images.
        """
        order = list(dict.fromkeys(self._order({*layers, *blocks}, blocks)))
        inside = {
            name: next((block for block in blocks if f"{name}.".startswith(f"{block}.")), WHOLE)
            for name in layers
        }
        chosen = [name for name in order if name in inside]
        first = order.index(blocks[0]) if blocks else len(order)
        before = [name for name in chosen if not inside[name] and order.index(name) < first]
        after = [name for name in chosen if not inside[name] and order.index(name) >= first]
        parts = [(block, [name for name in chosen if inside[name] == block]) for block in blocks]
        while parts and not parts[-1][1]:
            parts.pop()
        return [(WHOLE, before)] * bool(before) + parts + [(WHOLE, after)] * bool(after)

    def runs(self, blocks: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the blocks, each together with those after it until both models return alike.

        What is left at the end, and returns something else in either model, is left out. If that is
        all, as where the width of the model shrank, or there are no blocks, it is the whole model.

        Raises:
            AdapterError: They do not run one after the other.
            DataError: There are no images.
        """
        if not blocks:
            return [(WHOLE,)]
        self._order(blocks, blocks)
        image = next(iter(without_labels(self._images)))[:1]
        large, small = (_shapes(model, blocks, image) for model in (self._large, self._small))
        found: list[tuple[str, ...]] = []
        run: list[str] = []
        for block in blocks:
            run.append(block)
            if large[block] == small[block]:
                found.append(tuple(run))
                run = []
        return found or [(WHOLE,)]

    def through(self, run: Sequence[str]) -> Iterator[tuple[Any, Any]]:
        """Yield what the small model has before a run of blocks, and the large one after it.

        One batch at a time; the first block of the run was entered.
        """
        parts = [self._large.get_submodule(name) for name in run]
        for x, y in self._pairs():
            for part in parts:
                x = part(x)
            yield y, x

    def enter(self, section: str) -> None:
        """Go on to a block, through the one before it; or back to the images."""
        if section == WHOLE:
            self._held = []
        elif self._at == WHOLE:
            large, small = (m.get_submodule(section) for m in (self._large, self._small))
            self._held = [
                (_inputs(self._large, large, x).cpu(), _inputs(self._small, small, y).cpu())
                for x, y in self._pairs()
            ]
        else:
            large, small = self._parts()
            for number, (x, y) in enumerate(self._pairs()):
                passed = self._outputs[END][number] if END in self._outputs else large(x).cpu()
                self._held[number] = (passed, small(y).cpu())
        self._at, self._outputs = section, {}

    def seen(
        self, layer: str, later: Sequence[str] | None = None
    ) -> Iterator[tuple[int, Tensor | None, Tensor, Tensor]]:
        """Yield a layer's input and output in the large model, and its input in the small one.

        One batch at a time, after the number of its images; the layer is part of the section that
        was entered.

        Args:
            layer: What to look at.
            later: What will be looked at after it in this section, if the large model's outputs
                alone are of interest: where they fit into `HELD` bytes, they are kept, so that it
                need not run again. Its inputs are None then, and what was kept of this layer goes.
        """
        large, small = self._parts()
        held = self._outputs.get(layer) if later is None else self._outputs.pop(layer, None)
        names = [layer]
        if held is None and later is not None and self._at != WHOLE:
            names += [*later, END]
        images = sum(len(x) for x, _ in self._held)
        for number, (x, y) in enumerate(self._pairs()):
            inputs, outputs = None, None if held is None else held[number].to(self._device)
            if outputs is None:
                inputs, found = _run_to(large, self._large, names, x)
                outputs = found.pop(layer)
                if number == 0 and _bytes(found) / len(x) * images > HELD:
                    found, names = {}, [layer]
                for name, kept in found.items():
                    self._outputs.setdefault(name, []).append(kept.cpu())
            yield len(x), inputs, outputs, _inputs(small, self._small.get_submodule(layer), y)

    def _parts(self) -> tuple[nn.Module, nn.Module]:
        return self._large.get_submodule(self._at), self._small.get_submodule(self._at)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._at != WHOLE:
            for x, y in self._held:
                yield x.to(self._device), y.to(self._device)
            return
        for images in without_labels(self._images):
            x = placed(images, first_weight(self._large))
            yield x, x

    def _order(self, names: Collection[str], blocks: Sequence[str]) -> list[str]:
        """Run one image through the large model, note what runs when, and check the blocks."""
        image = next(iter(without_labels(self._images)))[:1]
        order: list[str] = []
        passed: list[Tensor] = []  # the output of the last block

        def enter(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            order.append(name)
            if name not in blocks:
                return
            alone = len(args) == 1 and isinstance(args[0], Tensor) and not kwargs
            expected = blocks[sum(other in blocks for other in order) - 1]
            chained = not passed or (alone and torch.equal(passed[-1], args[0]))
            if not alone or name != expected or not chained:
                raise AdapterError(
                    f"Block {name!r} does not run on the output of the block before it alone, as "
                    "the adapter's blocks() says; correct it, or return no blocks."
                )

        def leave(name: str, output: Tensor) -> None:
            if name in blocks:
                passed[:] = [output]

        handles = []
        for name in names:
            part = self._large.get_submodule(name)
            handles += [
                part.register_forward_pre_hook(
                    lambda _, args, kwargs, name=name: enter(name, args, kwargs), with_kwargs=True
                ),
                part.register_forward_hook(lambda _, args, out, name=name: leave(name, out)),
            ]
        try:
            self._large(placed(image, first_weight(self._large)))
        finally:
            for handle in handles:
                handle.remove()
        return order


def _shapes(model: nn.Module, names: Sequence[str], image: Any) -> dict[str, torch.Size]:
    """Return the shape of what each of some modules returns for an image."""
    found: dict[str, torch.Size] = {}

    def leave(name: str, output: Tensor) -> None:
        found[name] = output.shape

    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, args, out, name=name: leave(name, out)
        )
        for name in names
    ]
    try:
        model(placed(image, first_weight(model)))
    finally:
        for handle in handles:
            handle.remove()
    return found


class _Reached(Exception):
    """The layer has run; the rest of the model need not."""


def _run_to(
    part: nn.Module, model: nn.Module, names: Sequence[str], x: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a part of a model; return the first layer's input, and the output of all of them.

    If there is but one, it runs no further; else what follows may write into what they return. A
    layer may run twice; the first counts.
    """
    first, found = [], {}

    def note(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if len(names) == 1:
            first.append(inputs[0])
            found[name] = output
            raise _Reached
        if name == names[0]:
            first.append(inputs[0].clone())
        found.setdefault(name, output.clone())

    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: note(name, inputs, output)
        )
        for name in names
        if name != END
    ]
    try:
        found[END] = part(x)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return first[0], found


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _inputs(part: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """Run `part` up to `layer`, and return what that layer would get."""
    seen: list[Tensor] = []

    def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])
        raise _Reached

    handle = layer.register_forward_pre_hook(stop)
    try:
        part(x)
    except _Reached:
        pass
    finally:
        handle.remove()
    return seen[0]
