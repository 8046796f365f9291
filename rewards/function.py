"""A plain function as a reward: `kind: module:function`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor

from rewards.reward import Reward


class FunctionReward(Reward):
    """Asks a function `(images, prompts, **options) -> scores`; made by `as_reward`, read by `rewards.answers`.

    Args:
        options: Further keyword arguments of every call.

    Raises:
        TypeError: If the function does not take them.
    """

    function: ClassVar[Callable[..., Any]]

    def __init__(self, **options: Any) -> None:
        inspect.signature(type(self)).bind(**options)
        self._options = options

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return type(self).function(images, prompts, **self._options)


def as_reward(function: Callable[..., Any]) -> type[FunctionReward]:
    """The class of rewards that ask a function.

    The function's attribute `differentiable` says whether gradients flow from its scores into the images; without it
    they do not. The class's signature is what the function takes besides images and prompts.

    Raises:
        TypeError: If the function cannot be called with images and prompts.
    """
    signature = inspect.signature(function)
    signature.bind_partial(None, None)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = [name for name, parameter in signature.parameters.items() if parameter.kind in positional][:2]
    options = [parameter for name, parameter in signature.parameters.items() if name not in taken]
    name = getattr(function, "__name__", type(function).__name__)
    body = {
        "__doc__": function.__doc__,
        "__module__": getattr(function, "__module__", __name__),
        "__signature__": signature.replace(parameters=options),
        "differentiable": bool(getattr(function, "differentiable", False)),
        "function": staticmethod(function),
    }
    return type(name, (FunctionReward,), body)
