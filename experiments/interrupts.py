"""Handling SIGINT and SIGTERM between two steps of a training."""
import signal
import threading


class Interrupts:
    """Within this context a signal sets an attribute, which the training loop reads.

    Attributes
    ----------
    received : signal.Signals or None
        The last signal. The loop then saves a checkpoint and ends.
    """
    _SIGNALS = signal.SIGINT, signal.SIGTERM

    def __init__(self):
        self.received = None
        self._before = {}

    def _note(self, number, frame):
        self.received = signal.Signals(number)

    def __enter__(self):
        # Python runs signal handlers in the main thread only.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self._SIGNALS}
        return self

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)
