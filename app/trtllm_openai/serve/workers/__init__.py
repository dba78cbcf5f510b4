"""Several HTTP worker processes behind one port, and the supervisor that owns them and the runners.

The supervisor binds the port and serves nothing itself. Each worker runs the whole application: it accepts
connections from the same listening socket, and has its own connections to the runners. State of the whole
server goes over a channel to the supervisor (addresses of runners, metrics, stored responses, runner control)
or through shared memory (`runners.shared_counters`: admission limits and limits per API key).
"""
