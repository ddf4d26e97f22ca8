"""SIGTERM and Ctrl-C: the first asks the run to stop after the step, the second ends it at once."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

EXIT_ABORTED = 130
SHOW_CURSOR = b"\x1b[?25h\n"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
NOTE = "stopping at the next step; a second signal stops at once"


class StopRequested(Exception):
    """Raised by long work between two of its parts, when a stop was asked for."""


class StopSignals:
    """Context manager; `requested` turns True at the first signal.

    Python runs handlers between two of its own instructions, so a long compilation would hold back
    the second signal. The C-level handler also writes each signal number into a socket, where a
    thread of ours meets it at any time.

    Args:
      say: given one line, from that thread, when the first signal arrives.
    """

    def __init__(self, say: Callable[[str], None] = lambda line: None):
        self.requested = False
        self._say = say
        self._previous: dict[int, Any] = {}
        self._sockets: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None
        self._old_wakeup = -1

    def check(self) -> None:
        """Raise StopRequested once a stop was asked for."""
        if self.requested:
            raise StopRequested

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread may install handlers; others are stopped by it
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        self._sockets = reader, writer
        self._old_wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        self._thread = threading.Thread(target=self._watch, args=(reader,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._sockets is None:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wakeup)
        reader, writer = self._sockets
        writer.close()  # ends the thread
        if self._thread is not None:
            self._thread.join(timeout=5)
        reader.close()
        self._sockets = None

    def _handle(self, number: int, frame: Any) -> None:
        self.requested = True

    def _watch(self, reader: socket.socket) -> None:
        count = 0
        while received := reader.recv(64):
            count += sum(byte in STOP_SIGNALS for byte in received)
            if count >= 2:
                if sys.stderr.isatty():
                    os.write(sys.stderr.fileno(), SHOW_CURSOR)
                os._exit(EXIT_ABORTED)
            if count == 1:
                self.requested = True
                self._say(NOTE)
