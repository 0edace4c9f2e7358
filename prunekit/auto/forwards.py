"""freed: a class whose forward pass does not rest on its input having as many channels as it joins.

Attention often reshapes what its heads return to the shape of its input, `reshape(B, N, C)`, which
holds as long as no head has left. Here such a size is left to torch to work out, `reshape(B, N,
-1)`: the only way to remove heads from such a module without copying its code. And where attention
divides by the root of the size of its heads, it divides by what that was.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from types import FunctionType
from typing import Any

from torch import nn

SHAPING = ("reshape", "view")
SIZING = (*SHAPING, "expand", "split", "chunk", "unflatten", "repeat")
CHANNELS = ("C", "num_channels")  # what timm and nearly everybody call them, and transformers
JOINED = "channels_of_heads"  # the attribute that says how many all heads return
SCALE = "scale_of_heads"  # what queries times keys are multiplied with; None: what torch takes
ATTENDS = "scaled_dot_product_attention"


_SELF = ast.Name("self", ast.Load())


@cache
def freed(base: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass without such sizes; the class itself if it has none, or no source."""
    own = {name: method for name, method in _methods(base).items() if name != "__init__"}
    methods = {name: made for name in own if (made := _freed(own[name])) is not None}
    if not methods:
        return base

    def reduced(module: nn.Module, protocol: Any) -> tuple[Any, ...]:
        return _empty, (base,), vars(module)

    named = {"__module__": base.__module__, "__qualname__": base.__qualname__, SCALE: None}
    return type(base.__name__, (base,), {**methods, **named, "__reduce_ex__": reduced})


@cache
def sizes_of(base: type[nn.Module]) -> frozenset[str]:
    """Return the names of the attributes that a class gives to operations that change shapes."""
    trees = filter(None, map(_tree, _methods(base).values()))
    return frozenset(name for tree in trees for name in _sizing(tree))


def _sizing(tree: ast.AST) -> Iterator[str]:
    """Yield the attributes of `self` among such sizes, or in what is assigned to one of them."""
    sizes: list[ast.AST] = [arg for call in _calls(tree, SIZING) for arg in call.args]
    variables = {n.id for size in sizes for n in ast.walk(size) if isinstance(n, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and variables & {ast.unparse(t) for t in node.targets}:
            sizes.append(node.value)
    for node in (node for size in sizes for node in ast.walk(size)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
            yield node.attr


def _empty(base: type[nn.Module]) -> nn.Module:
    """Return what unpickling fills."""
    made = freed(base)  # type: ignore[arg-type]
    return made.__new__(made)


def _methods(base: type[nn.Module]) -> dict[str, FunctionType]:
    """Return the methods that instances have, but for those of every module."""
    found = {}
    for cls in reversed(base.__mro__[: base.__mro__.index(nn.Module)]):
        found.update({n: own for n, own in vars(cls).items() if isinstance(own, FunctionType)})
    return found


def _tree(function: FunctionType) -> ast.Module | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None


def _calls(tree: ast.AST, names: tuple[str, ...]) -> Iterator[ast.Call]:
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    yield from (c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr in names)


def _freed(function: FunctionType) -> Callable[..., Any] | None:
    """Return a function without sizes that are its input's, or None if it has none."""
    tree = _tree(function)
    if tree is None or function.__closure__ is not None:
        return None
    changed = [call for call in _calls(tree, SHAPING) if _free(call)]
    changed += [call for call in _calls(tree, (ATTENDS,)) if _scale(call)]
    scaled = _Scaled()
    tree = scaled.visit(tree)
    if not changed and not scaled.found:
        return None
    source = ast.unparse(ast.fix_missing_locations(tree))
    place = f"<{function.__module__}.{function.__qualname__}, freed by prunekit>"
    linecache.cache[place] = (len(source), None, source.splitlines(keepends=True), place)
    made: dict[str, Any] = {}
    exec(compile(source, place, "exec"), function.__globals__, made)
    return made[function.__name__]  # type: ignore[no-any-return]


def _free(call: ast.Call) -> bool:
    """Leave the size that is made of the input's channels to torch; say whether there is one."""
    sized = [n for n, arg in enumerate(call.args) if _names_channels(arg)]
    if len(sized) != 1:
        return False
    (at,) = sized
    if all(ast.unparse(arg) != "-1" for arg in call.args):
        call.args[at] = ast.parse("-1", mode="eval").body
    elif not isinstance(call.args[at], ast.Name):  # a head's share of the channels
        call.args[at] = _Joined().visit(call.args[at])
    else:
        return False
    return True


def _scale(call: ast.Call) -> bool:
    """Say the scale of attention by an attribute; return whether nothing else does."""
    if any(keyword.arg in ("scale", None) for keyword in call.keywords):
        return False
    call.keywords.append(ast.keyword("scale", ast.Attribute(_SELF, SCALE, ast.Load())))
    return True


def _names_channels(arg: ast.AST) -> bool:
    return any(isinstance(node, ast.Name) and node.id in CHANNELS for node in ast.walk(arg))


class _Scaled(ast.NodeTransformer):
    """Lets the attribute stand for what is divided by the root of a size: `q.shape[-1] ** -0.5`."""

    found = False

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        said = ast.unparse(node.values[0]) == f"self.{SCALE}"
        return node if said else self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Pow) or ast.unparse(node.right) != "-0.5":
            return node
        self.found = True
        return ast.BoolOp(ast.Or(), [ast.Attribute(_SELF, SCALE, ast.Load()), node])


class _Joined(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id not in CHANNELS:
            return node
        return ast.Attribute(_SELF, JOINED, ast.Load())
