"""SIGINT and SIGTERM, at a moment that suits."""
import signal
import threading


class Interrupts:
    """Within this context the signals are noted, for the training loop to act on.

    Attributes
    ----------
    received : signal.Signals or None
        What has come; a loop that sees it saves its work and ends.
    """
    _SIGNALS = signal.SIGINT, signal.SIGTERM

    def __init__(self):
        self.received = None
        self._before = {}

    def _note(self, number, frame):  # pylint: disable=unused-argument
        self.received = signal.Signals(number)

    def __enter__(self):
        # Python hands signals to the main thread only.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self._SIGNALS}
        return self

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)
