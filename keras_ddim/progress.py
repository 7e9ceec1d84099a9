"""The progress bar of everything that takes long, Keras's own."""

import time

import keras

from keras_ddim.checks import check_choice

SECONDS_BEFORE_PROGRESS = 2.0


class Progress:
    """A bar at once (`verbose=1`), once the work takes over 2 seconds ("auto"), or none (0).

    The work is `target` units, named in the singular.
    """

    def __init__(self, target: int, unit_name: str, verbose: int | str = "auto") -> None:
        self.target, self.unit_name, self.verbose = target, unit_name, verbose
        self.done = 0
        self.start: float | None = None
        check_choice("verbose", verbose, (0, 1, "auto"))
        self.bar = self._make_bar() if verbose == 1 else None

    def _make_bar(self) -> keras.utils.Progbar:
        return keras.utils.Progbar(self.target, unit_name=self.unit_name)

    def advance(self, units: int = 1) -> None:
        """Tells that so many more units are done."""
        self.done += units
        # The first unit may have been compiled, which says nothing about the others.
        self.start = self.start or time.monotonic()
        waited = time.monotonic() - self.start
        if self.bar is None and self.verbose == "auto" and waited > SECONDS_BEFORE_PROGRESS:
            self.bar = self._make_bar()
        if self.bar is not None:
            self.bar.update(self.done)
