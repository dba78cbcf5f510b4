"""Notes every address that a process of the server connects to or looks up, in the file CONNECTIONS_FILE.

Python imports this by itself when its directory is on the path.
"""

import os
import sys


def note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect":
        said = repr(arguments[1])
    elif event == "socket.getaddrinfo":
        said = repr(arguments[:2])
    else:
        return
    descriptor = os.open(os.environ["CONNECTIONS_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{event} {said}\n".encode())
    os.close(descriptor)


if "CONNECTIONS_FILE" in os.environ:
    sys.addaudithook(note)
