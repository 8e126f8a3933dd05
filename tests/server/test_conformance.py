"""The page of conformance is up to date, nothing the specification requires is missing, and a judge that judges."""

from __future__ import annotations

import pytest

from server.specification import Specification, found, script


@pytest.fixture(scope="module")
def specification() -> Specification:
    judge = found()
    if judge is None:
        pytest.skip("no specification beside the repository; set LUTHIER_SHARED")
    return judge


def test_the_page_is_up_to_date(specification: Specification) -> None:
    module = script()
    page = module.page(module.their_document(specification.file), module.our_document())
    assert module.PAGE.read_text(encoding="utf-8") == page, "python scripts/conformance.py"


def test_no_required_field_of_an_answer_is_missing(specification: Specification) -> None:
    module = script()
    theirs, ours = module.their_document(specification.file), module.our_document()
    both = [module.compare(theirs, ours, key) for key in theirs.operations if key in ours.operations]
    broken = [(one.method, one.path, one.broken) for one in both if one.broken]
    assert not broken


def test_the_judge_refuses_what_does_not_fit(specification: Specification) -> None:
    file = {"id": "file-1", "object": "file", "bytes": 1, "created_at": 1, "filename": "a", "purpose": "batch", "status": "processed"}
    specification.check(("GET", "/files/{}"), file)
    specification.check(("GET", "/files/{}"), file | {"purpose": "evals"})
    for wrong in ({"bytes": "1"}, {"status": "done"}, {"expires_at": None}):
        with pytest.raises(AssertionError, match="does not fit"):
            specification.check(("GET", "/files/{}"), file | wrong)
    with pytest.raises(AssertionError, match="required"):
        specification.check(("GET", "/files/{}"), {"id": "file-1"})
