"""Termination signals of a command that runs until it is stopped."""

import signal
import threading


class Signals:
    """Termination signals: KeyboardInterrupt during the start, so that nothing is left behind; later a stop request.

    Only the first one interrupts: a second one would interrupt the cleanup.
    """

    def __init__(self) -> None:
        self.stop_requested = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._interrupt)

    def _interrupt(self, *_: object) -> None:
        self.stop_requested.set()
        self.listen()
        raise KeyboardInterrupt

    def listen(self) -> None:
        """From now on a signal only sets `stop_requested`."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self.stop_requested.set())
