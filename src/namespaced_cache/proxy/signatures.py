"""Functions that have the parameters of another function and call something else.

Spies and tracers read the parameters of a method from its code, not only from
`inspect.signature()`. So each of these functions is compiled from source of its own.
"""

from __future__ import annotations

import builtins
import inspect
import linecache
from collections.abc import Mapping
from types import CodeType, FunctionType
from typing import Any, TypeGuard

_FLAGS = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS | inspect.CO_COROUTINE


def parameters(function: Any) -> tuple[object, ...]:
    """Return what a caller or a spy can see of the parameters, for a comparison."""
    code = function.__code__
    shown = vars(function)
    return (
        code.co_posonlyargcount,
        code.co_argcount,
        code.co_kwonlyargcount,
        code.co_flags & _FLAGS,
        code.co_varnames[: _count(code)],
        function.__defaults__,
        function.__kwdefaults__,
        function.__annotations__,
        shown.get("__wrapped__"),
        shown.get("__signature__"),
    )


def is_method(member: object) -> TypeGuard[FunctionType]:
    """Tell whether `with_parameters_of` can copy this member of a class."""
    if not isinstance(member, FunctionType):
        return False
    code = member.__code__
    return bool(code.co_argcount or code.co_flags & inspect.CO_VARARGS)


def with_parameters_of(
    member: Any, name: str, owner: type, call: str, names: Mapping[str, object]
) -> FunctionType:
    """Compile the method `name` of the class `owner`, with the parameters of `member`.

    `call` is the expression that it calls with the arguments, without the instance.
    In it, `{self}` stands for the instance. `names` are the global names that it uses.
    If `member` is a coroutine function, the method awaits the result.
    """
    arguments, instance, passed = _spelled(member.__code__)
    is_async = inspect.iscoroutinefunction(member)
    # The frames of these functions belong to this package, whatever the owner is.
    scope = {"__name__": __name__, "__builtins__": builtins, **names}
    function = _compiled(
        name, owner.__qualname__, arguments, instance, passed, call, is_async, scope
    )
    function.__module__ = owner.__module__
    function.__defaults__ = member.__defaults__
    if member.__kwdefaults__:
        function.__kwdefaults__ = dict(member.__kwdefaults__)
    function.__annotations__ = dict(member.__annotations__)
    function.__doc__ = member.__doc__
    # A decorator may have set attributes. If it has set `__wrapped__`, the method shows
    # the same parameters as the decorated one, everywhere.
    vars(function).update(vars(member))
    return function


def accept_all(function: Any, call: str) -> None:
    """Let a function of `with_parameters_of` pass on all arguments, from now on.

    It is changed in place, because a tracer may hold it. `inspect` shows the same
    parameters as before.
    """
    if "__signature__" in vars(function):
        return
    signature = inspect.signature(function)
    permissive = _compiled(
        function.__name__,
        function.__qualname__.rpartition(".")[0],
        "*args, **kwargs",
        "args[0]",
        "*args[1:], **kwargs",
        call,
        inspect.iscoroutinefunction(function),
        function.__globals__,
    )
    function.__signature__ = signature
    function.__code__ = permissive.__code__
    function.__defaults__ = None


def _compiled(  # noqa: PLR0913, PLR0917  # the parts of one function's source
    name: str,
    owner: str,
    arguments: str,
    instance: str,
    passed: str,
    call: str,
    is_async: bool,  # noqa: FBT001  # as above
    scope: dict[str, Any],
) -> FunctionType:
    define, answer = ("async def", "return await") if is_async else ("def", "return")
    called = call.format(self=instance)
    source = f"{define} {name}({arguments}):\n    {answer} {called}({passed})\n"
    # Tracebacks and inspect.getsource() find the source in linecache.
    filename = f"<{owner}.{name}({arguments}): {called}>"
    lines = source.splitlines(keepends=True)
    linecache.cache[filename] = len(source), None, lines, filename
    made: dict[str, Any] = {}
    exec(compile(source, filename, "exec"), scope, made)  # noqa: S102  # source from above
    function: FunctionType = made[name]
    function.__qualname__ = f"{owner}.{name}"
    # Tracers and profilers take the name that they record from the code object.
    function.__code__ = function.__code__.replace(co_qualname=function.__qualname__)
    return function


def _spelled(code: CodeType) -> tuple[str, str, str]:
    """Return the source of the parameters, the instance, and the arguments without it.

    Defaults are no part of the source. They are attributes of a function.
    """
    names = iter(code.co_varnames)
    positional = [next(names) for _ in range(code.co_argcount)]
    keywords = [next(names) for _ in range(code.co_kwonlyargcount)]
    rest = next(names) if code.co_flags & inspect.CO_VARARGS else ""
    others = next(names) if code.co_flags & inspect.CO_VARKEYWORDS else ""

    spelled = list(positional)
    if code.co_posonlyargcount:
        spelled.insert(code.co_posonlyargcount, "/")
    if rest or keywords:
        spelled.append(f"*{rest}")
    spelled += keywords
    # The instance may be the first of the rest, as in many decorators.
    instance = positional[0] if positional else f"{rest}[0]"
    passed = positional[1:]
    if rest:
        passed.append(f"*{rest}" if positional else f"*{rest}[1:]")
    passed += [f"{name}={name}" for name in keywords]
    if others:
        spelled.append(f"**{others}")
        passed.append(f"**{others}")
    return ", ".join(spelled), instance, ", ".join(passed)


def _count(code: CodeType) -> int:
    """Return how many of the code's variables are parameters."""
    return (
        code.co_argcount
        + code.co_kwonlyargcount
        + bool(code.co_flags & inspect.CO_VARARGS)
        + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    )
