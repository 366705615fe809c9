"""store/problems.py: whatever there is of mistakes, what is told of them is bounded."""

from agent.store.problems import MOST, told
from policy.model import Problem, Severity, Where


def problem(number: int, severity: Severity = "error", message: str = "is wrong") -> Problem:
    return Problem(severity, Where("a.yaml", number), "X n/x", message, "mend it")


def test_a_few_are_told_as_they_are() -> None:
    few = (problem(2), problem(1, "notice"), problem(3, "warning"))
    assert set(told(few)) == set(few)
    assert told((few[0], few[0])) == (few[0],)


def test_of_many_the_first_hundred_are_told_and_the_rest_counted_errors_first() -> None:
    many = (
        [problem(n, "notice") for n in range(500)]
        + [problem(n) for n in range(60)]
        + [problem(n, "warning") for n in range(30)]
    )
    found = told(many)
    assert len(found) == MOST + 1
    assert [one.where.line for one in found if one.severity == "error"] == list(range(60))
    assert len([one for one in found if one.severity == "warning"]) == 30
    (rest,) = [one for one in found if not one.where.file]
    assert (rest.severity, rest.message) == ("notice", "and 490 more: 490 notices")


def test_errors_that_are_not_told_one_by_one_are_errors_still() -> None:
    (rest,) = [one for one in told([problem(n) for n in range(101)]) if not one.where.file]
    assert (rest.severity, rest.message) == ("error", "and 1 more: 1 error")


def test_long_texts_are_cut() -> None:
    long = "x" * 1_000_000
    (found,) = told([Problem("error", Where(long, 7), long, long, long)])
    assert len(str(found)) < 2100
    assert "(1000000)" in found.message
    assert found.where.line == 7
