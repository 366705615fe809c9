"""near.py: which known word was meant."""

from policy.near import did_you_mean, nearest

KINDS = ("Workload", "Revocation", "Service")


def test_a_slip_of_the_hand_and_another_case_find_the_word():
    for word in ("WorkLoad", "Worklod", "workload", "Workloads", "Wrkload"):
        assert nearest(word, KINDS) == "Workload"


def test_what_is_like_none_finds_none():
    assert nearest("ConfigMap", KINDS) == ""
    assert nearest("", KINDS) == ""
    assert nearest("Workload", ()) == ""


def test_a_word_too_long_to_be_meant_is_not_compared():
    assert nearest("Workload" * 100_000, KINDS) == ""


def test_the_hint_is_a_question_or_what_there_is():
    assert did_you_mean("servis", KINDS, "known: all") == "did you mean Service?"
    assert did_you_mean("x", KINDS, "known: all") == "known: all"
    assert did_you_mean("x", KINDS) == ""
