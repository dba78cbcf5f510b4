"""The numbers of a load test, from records whose statistics are known."""

from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtllm_openai.bench.plan import Load, Record
from trtllm_openai.bench.stats import meets, parse_slo, percentiles, summarise, tpot


def record(
    began: float = 0.0, ttft: float = 0.1, tokens: int = 11, each: float = 0.01, error: str = ""
) -> Record:
    gaps = array("d", [each] * (tokens - 1)).tobytes()
    return Record(began, ttft, ttft + each * (tokens - 1), 7, tokens, gaps, error)


def test_rates_count_from_first_request_to_last_answer() -> None:
    row = summarise(Load(3, concurrency=2), [record(5.0), record(5.0), record(5.8)], {})
    assert row["seconds"] == pytest.approx(1.0)
    assert row["requests_per_s"] == pytest.approx(3.0)
    assert row["output_tokens_per_s"] == pytest.approx(33.0)
    assert row["ttft"] == {name: pytest.approx(0.1) for name in ("p50", "p90", "p99")}
    assert row["itl"]["p99"] == pytest.approx(0.01)
    assert row["tpot"]["p50"] == pytest.approx(0.01)
    assert row["e2e"]["p50"] == pytest.approx(0.2)
    assert "goodput_per_s" not in row


def test_errors_are_counted_by_kind_and_are_no_successes() -> None:
    bad = Record(0.0, 0.0, 1.0, 0, 0, b"", "HTTP 429")
    row = summarise(Load(3, rate=1.0), [record(), bad, bad], {"ttft": 1.0})
    assert row["errors"] == {"HTTP 429": 2}
    assert row["requests_per_s"] == pytest.approx(1.0)
    assert row["slo_met"] == pytest.approx(1 / 3)


def test_only_errors_have_no_times() -> None:
    row = summarise(Load(1, rate=1.0), [Record(0.0, 0.0, 1.0, 0, 0, b"", "timeout")], {})
    assert row["requests_per_s"] == 0
    assert row["ttft"] is row["itl"] is row["tpot"] is None


def test_goodput_needs_every_bound_of_a_success() -> None:
    slow, fast, failed = record(ttft=0.6), record(), record(error="cut short")
    row = summarise(Load(3, concurrency=3), [slow, fast, failed], parse_slo("ttft=0.5,tpot=0.05"))
    assert row["slo_met"] == pytest.approx(1 / 3)
    assert meets(fast, {"ttft": 0.1, "tpot": 0.0101, "e2e": 0.21})
    assert not meets(fast, {"tpot": 0.009})


def test_single_token_has_no_time_per_token() -> None:
    assert tpot(record(tokens=1)) is None


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50))
def test_percentiles_are_numpys_and_rise(values: list[float]) -> None:
    found = percentiles(values)
    assert found is not None
    assert found["p50"] <= found["p90"] <= found["p99"] <= max(values)
    assert found["p90"] == pytest.approx(float(np.quantile(values, 0.9)))


@pytest.mark.parametrize("text", ["ttft", "speed=1", "ttft=fast"])
def test_wrong_slo(text: str) -> None:
    with pytest.raises(ValueError):
        parse_slo(text)


def test_shares_add_up() -> None:
    for whole in (Load(10, concurrency=7), Load(3, concurrency=1), Load(9, rate=4.5)):
        shares = [whole.share(index, 4) for index in range(4)]
        assert sum(share.requests for share in shares) == whole.requests
        if whole.concurrency is not None:
            assert sum(share.concurrency or 0 for share in shares) == whole.concurrency
        else:
            assert sum(share.rate or 0 for share in shares) == whole.rate
