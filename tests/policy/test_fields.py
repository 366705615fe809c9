"""fields.py: which fields a rule may set."""

import pytest

from policy.fields import bad_field


@pytest.mark.parametrize(
    ("name", "value"),
    [("x-a", ""), ("x-a", "b c"), ("x-a", "b\tc"), ("!#$%&'*+-.^_`|~", "\xe9"), ("set-cookie", "a=b")],
)
def test_what_may_be_set(name: str, value: str) -> None:
    assert bad_field(name, value) == ""


@pytest.mark.parametrize("name", ["host", "te", "upgrade", "content-length", "x-forwarded-for", "x-edgemesh-reason"])
def test_what_only_edgemesh_sets(name: str) -> None:
    assert bad_field(name) == "is not a filter's to set"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "") for name in ("", "X-a", "x a", "x:", "x\r", "é")),
        *(("x", value) for value in (" a", "a ", "a\r\nb", "a\0", "a\nb", "€")),
    ],
)
def test_what_is_malformed(name: str, value: str) -> None:
    assert bad_field(name, value).startswith("is malformed")
