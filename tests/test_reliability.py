"""docs/reliability.md names the fault tests that there are."""

from reliability import page_rows, rows


def test_the_page_has_the_rows_of_the_tests():
    assert page_rows() == rows(), "run `make reliability`"
