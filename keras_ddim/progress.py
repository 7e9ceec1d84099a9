"""A progress bar for long work: Keras's own."""

import time

import keras

from keras_ddim.checks import check_choice

SECONDS_BEFORE_PROGRESS = 2.0


class Progress:
    """A bar of `target` units, shown at once (`verbose=1`), after 2 s ("auto") or never (0)."""

    def __init__(self, target: int, unit_name: str, verbose: int | str = "auto") -> None:
        check_choice("verbose", verbose, (0, 1, "auto"))
        self.target, self.verbose, self.done = target, verbose, 0
        self.bar = keras.utils.Progbar(target, unit_name=unit_name, verbose=int(verbose != 0))
        self.start: float | None = None

    def advance(self, units: int = 1) -> None:
        """Counts `units` more as done."""
        self.done += units
        # From the first unit on, which may have taken long to compile.
        self.start = self.start or time.monotonic()
        if self.verbose == 1 or time.monotonic() - self.start > SECONDS_BEFORE_PROGRESS:
            self.bar.update(self.done)

    def finish(self) -> None:
        """Ends the bar of work that took fewer units than `target`."""
        if self.done < self.target:
            self.target = self.bar.target = self.done
            self.advance(0)
