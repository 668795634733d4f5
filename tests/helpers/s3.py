"""An S3 server on the loopback address, behind a door that can be shut."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

HOST = "127.0.0.1"


class Door:
    """Passes connections on to a port.  While it is shut they are refused, and open ones end."""

    def __init__(self, behind: int) -> None:
        self.behind, self.port = behind, free_port()
        self.open_ones: set[socket.socket] = set()
        self.listener: socket.socket | None = None
        self.open()

    def open(self) -> None:
        self.listener = socket.create_server((HOST, self.port))
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def shut(self) -> None:
        assert self.listener is not None
        with suppress(OSError):  # wakes who waits in accept
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in list(self.open_ones):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def shut_for(self, seconds: float) -> None:
        self.shut()
        threading.Timer(seconds, self.open).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                outside, _ = listener.accept()
                inside = socket.create_connection((HOST, self.behind))
                self.open_ones |= {outside, inside}
                for one, other in ((outside, inside), (inside, outside)):
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while content := one.recv(2**16):
                other.sendall(content)
        for connection in (one, other):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        one.close()
        self.open_ones.discard(one)


def free_port() -> int:
    with closing(socket.create_server((HOST, 0))) as found:
        return int(found.getsockname()[1])


@contextmanager
def s3_server() -> Iterator[int]:
    """The port of a server of this process's own, which keeps all in memory."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    try:
        _wait_for(port, server)
        yield port
    finally:
        server.kill()
        server.wait()


def _wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
    while server.poll() is None:
        with suppress(OSError):
            socket.create_connection((HOST, port), timeout=1).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"the server ended with {server.returncode}")
