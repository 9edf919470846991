"""How the long-running programs of the one-machine stack are told to end."""

import signal
import threading


def stop_event() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set from now on; to be called in the main thread."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
