"""Types of options and arguments of commands, the workers' included. Not here: how numbers are read (`settings`)."""

from functools import partial
from typing import Any

import click

from service.settings.quantities import MOST_INTEGER, number, whole_number


class NumberOption(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click alone
    """A number within bounds, as settings take it: 20M, 1.5k, 2_000_000; or `word`, which stays as it is."""

    name = "number"

    def __init__(self, least: float, most: float = MOST_INTEGER, *, whole: bool = True, word: str = "") -> None:
        self._word = word
        self._parse = partial(whole_number if whole else number, least=least, most=most)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number of a text; ends the command if there is none."""
        if not isinstance(value, str) or (self._word and value == self._word):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
