"""Several HTTP worker processes behind one port, and the supervisor that owns them and the runners.

The supervisor binds the port and serves nothing itself. Each worker runs the whole application: it accepts
connections from the same listening socket, and speaks to the runners over sockets of its own. What holds for
the server as a whole goes over a channel to the supervisor (where the runners are, metrics, stored responses,
pool control) or through shared memory (`runners.shared_counters`: bounds on what waits and on each key).
"""
