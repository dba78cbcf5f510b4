"""The promises of SECURITY.md and the tests that show each, beside the cases of abuse.

    python -m tests.abuse.promises

prints the tests, as arguments for pytest.
"""

from __future__ import annotations

from tests.abuse.case import (
    BOUNDS,
    CRASH,
    DATA,
    DOWNLOADS,
    GUIDES,
    ISOLATION,
    KEYS,
    LOGS,
    VALUES,
    WORK,
)

UNIT = "tests/unit"
API, TORCH = f"{UNIT}/api", f"{UNIT}/engines/torch"
CLIENTS, RUNNERS = "tests/faults/test_clients.py", "tests/faults/test_runners.py"

PROMISES: dict[str, dict[str, list[str]]] = {
    ISOLATION: {
        "answers are the same whoever else asks": [f"{TORCH}/test_company.py", "tests/faults/test_soak.py"],
        "cached prefixes are those of the same key and salt": [
            "tests/e2e/test_tenants.py::test_no_key_can_tell_what_another_has_asked",
            f"{API}/test_prefixes.py",
        ],
    },
    KEYS: {
        "what needs a key, and which": [
            f"{API}/test_auth.py",
            f"{CLIENTS}::test_keys_guard_everything_but_health",
        ],
        "a stored response is its key's": [
            f"{API}/responses/test_store.py::test_no_key_has_what_another_made"
        ],
    },
    BOUNDS: {
        "heads, trailers, chunks, pipelining, upgrades, timeouts": [f"{API}/test_connection.py"],
        "bodies together, compressed bodies": [
            f"{API}/test_receiving.py",
            f"{API}/test_content_coding.py",
            "tests/e2e/test_http.py::test_requests_that_never_end",
        ],
        "a client that stalls, floods or leaves": [
            f"{CLIENTS}::test_a_client_that_reads_1_byte_a_second",
            f"{CLIENTS}::test_500_half_open_connections",
            f"{CLIENTS}::test_100_clients_that_leave_at_once",
            "tests/e2e/test_tenants.py::test_a_stream_that_is_not_read_gives_its_place_back",
        ],
        "three times the load leaves the goodput": ["tests/faults/test_overload.py"],
        "limits of a key, fair queueing between keys": [
            "tests/e2e/test_tenants.py::test_limits_for_a_minute_hold_for_all_workers",
            f"{UNIT}/engine_host/test_fair_queue.py",
        ],
    },
    WORK: {
        "every limit is exact, on every route": [f"{API}/test_budget.py"],
        "schemas are checked in time": [f"{API}/test_schema_check.py"],
        "choices of a request share its prompt and stop strings": [
            f"{UNIT}/engine_host/test_messages.py",
            f"{UNIT}/text/test_stops.py",
        ],
    },
    VALUES: {
        "all parameters at and beyond their limits, singly and mixed": [f"{TORCH}/test_extreme_values.py"],
    },
    GUIDES: {
        "compiling is bounded in time, memory and stack": [f"{TORCH}/test_guide_trial.py"],
        "masks are bounded in time": [
            f"{TORCH}/test_guides.py::test_a_guide_that_takes_too_long_for_its_tokens_ends"
        ],
    },
    DATA: {
        "templates are bounded and sandboxed": [
            f"{UNIT}/chat/test_sandbox.py",
            f"{UNIT}/chat/test_template.py",
        ],
    },
    LOGS: {
        "bodies are logged where asked, keys never": [
            "tests/e2e/test_telemetry.py::test_bodies_are_logged_where_asked_and_keys_never"
        ],
        "no value forges a line": [f"{UNIT}/telemetry/test_logs.py"],
    },
    DOWNLOADS: {},
    CRASH: {
        "runners that are killed, hang, or fail on a request": [
            f"{RUNNERS}::test_kill_a_runner_in_mid_stream",
            f"{RUNNERS}::test_kill_a_runner_in_prefill",
            f"{RUNNERS}::test_a_request_that_ends_its_runners_is_given_up",
            f"{RUNNERS}::test_stop_a_runner",
        ],
        "workers that die": [
            "tests/e2e/test_workers.py::test_a_worker_that_dies_takes_only_its_own_requests_along"
        ],
    },
}
"""By promise: what is claimed, and the files or tests that show it."""


def named_tests() -> list[str]:
    """All of them, once."""
    found = [test for claims in PROMISES.values() for names in claims.values() for test in names]
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    print(" ".join(named_tests()))
