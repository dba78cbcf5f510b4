"""The features that a client's class checks, by name."""

from collections.abc import Callable


def by_name(subject: object) -> dict[str, Callable[[], None]]:
    """The public methods of `subject`, each by its docstring."""
    methods = [getattr(subject, name) for name in vars(type(subject)) if not name.startswith("_")]
    return {method.__doc__: method for method in methods}
