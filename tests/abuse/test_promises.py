"""SECURITY.md, docs/security.md, the cases of abuse and the named tests agree."""

import re

import pytest

from tests.abuse import page
from tests.abuse.cases import cases, full_cases
from tests.abuse.promises import PROMISES, named_tests
from tests.e2e.conftest import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text()


def test_every_promise_is_in_security_md() -> None:
    promised = (ROOT / "SECURITY.md").read_text().partition("## What is promised")[2].partition("\n## ")[0]
    assert list(PROMISES) == re.findall(r"^\* \*\*(.+?)\.?\*\*", promised, re.MULTILINE)


def test_every_promise_is_shown() -> None:
    about = {case.promise for case in cases()}
    assert about <= set(PROMISES)
    assert all(claims or promise in about for promise, claims in PROMISES.items())
    block = page.block(TEXT, "promises")
    assert not re.search(r"\b0 of 0 tests\b", block)
    for promise, claims in PROMISES.items():
        assert f"| **{promise}** |" in block
        for claim, names in claims.items():
            assert f"| {claim} | {', '.join(f'`{name}`' for name in names)} |" in block


def test_every_case_is_in_the_table() -> None:
    """`make abuse` writes it; a new case or another answer is not there before it has run."""
    rows = re.findall(
        r"^\| (.+?) \| (.+) \| (.+?) \|(?: [^|]+ \|){5}$", page.block(TEXT, "measured"), re.MULTILINE
    )
    assert rows[2:] == [(case.promise, page.cell(case), case.expected) for case in full_cases()]


@pytest.mark.parametrize("name", named_tests())
def test_named_tests_exist(name: str) -> None:
    file, _, function = name.partition("::")
    text = (ROOT / file).read_text()
    assert re.search(rf"^def {function or 'test_'}", text, re.MULTILINE)
