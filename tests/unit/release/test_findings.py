from dataclasses import replace

import pytest

from pipelines.model.artifact import load
from pipelines.release.findings import Answer, Request, findings_of, told, trouble
from pipelines.release.plan import Plan
from pipelines.settings import read
from tests.fakes import tiny_artifact

PLAN = Plan.of(read())
EVEN = (*(f"m{movie:02}" for movie in range(2, 40, 2)), "m01")
"""What user "1" of the tiny artifact gets; "m00" has been seen."""
ODD = (*(f"m{movie:02}" for movie in range(3, 40, 2)), "m00")
LATELY = tuple(f"m{movie:02}" for movie in range(20))
ONES = Request("1", EVEN, source="personal")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(tiny_artifact(tmp_path_factory.mktemp("model") / "v7"))


def answered(movie_ids=EVEN, *, request=ONES, status=200, took_ms=1.0, version="7", source="personal"):
    return Answer(request, status, took_ms, version, source, movie_ids)


def found(model, *answers, requests=None):
    return findings_of(model, answers, requests=requests or len(answers), seconds=1.0)


def said(model, *answers, requests=None, **plan):
    return trouble(replace(PLAN, **plan), found(model, *answers, requests=requests))


def test_nothing_speaks_against_a_sound_candidate(model):
    strangers = answered(LATELY, request=Request("x", LATELY, source="trending"), source="trending")
    findings = found(model, answered(), answered(), answered(), strangers)
    assert trouble(PLAN, findings) == ""
    assert (findings.strangers, findings.overlap, findings.below, findings.stable_below) == (
        1,
        1.0,
        0.25,
        0.25,
    )
    assert told(findings) == (
        "4 of 4 requests in 1.0 s, 0 failed; p50 1.0 ms, p99 1.0 ms; 1 to strangers; "
        "25.0% below the personal rung (serving version: 25.0%); "
        "100.0% of the serving version's movies in common"
    )


@pytest.mark.parametrize(
    ("movie_ids", "reason"),
    [
        (EVEN[:3], "user '1' gets 3 distinct movies, 20 were wanted"),
        ((), "user '1' gets 0 distinct movies, 20 were wanted"),
        ((*EVEN[:19], EVEN[0]), "user '1' gets 19 distinct movies, 20 were wanted"),
        (("m00", *EVEN[1:]), "user '1' is offered 'm00', which that user has seen"),
        (("m40", *EVEN[1:]), "user '1' is offered 'm40', which the version does not know"),
    ],
)
def test_a_list_that_nobody_should_get_is_named(movie_ids, reason, model):
    assert said(model, answered(), answered(movie_ids)) == f"1 of 2 answers are wrong; the first: {reason}"


def test_what_was_watched_since_the_training_counts_as_seen(model):
    since = replace(ONES, watched=("m02", "no+such+movie+1900"))
    assert "is offered 'm02', which that user has seen" in said(model, answered(request=since))


def test_a_list_may_be_short_for_whoever_has_seen_nearly_everything(model):
    # User "1" has seen m00 before the training, and since then all but the three that are left.
    request = Request("1", watched=tuple(f"m{movie:02}" for movie in range(1, 37)))
    assert said(model, answered(("m37", "m38", "m39"), request=request)) == ""
    assert "gets 2 distinct movies, 3 were wanted" in said(model, answered(("m37", "m38"), request=request))


def test_an_answer_of_another_version_is_named(model):
    assert "answered by version '6'" in said(model, answered(version="6"))


def test_failed_answers_are_counted_against_their_limit(model):
    failed = answered((), status=503)
    assert said(model, answered(), failed) == "1 of 2 answers failed; the limit is 0.0%"
    assert said(model, answered(), failed, max_preflight_errors=0.5) == ""


def test_p99_is_that_of_all_answers(model):
    quick = [answered()] * 99
    assert said(model, *quick, answered(took_ms=900.0)) == ""
    slow = said(model, *quick[:98], *[answered(took_ms=900.0)] * 2)
    assert slow == "p99 of the response times is 900 ms over 100 answers; the limit is 100 ms"


def test_a_candidate_that_answers_too_few_in_time_is_refused(model):
    assert said(model, answered(), requests=2) == "only 1 of 2 requests were answered within 30 s"
    assert said(model, requests=2) == "none of 2 requests was answered within 30 s"


def test_lists_that_have_nothing_in_common_with_the_serving_versions_are_refused(model):
    other = replace(ONES, answered=ODD)
    # EVEN and ODD share no movie: m01 is not in ODD, m00 is not in EVEN.
    assert said(model, answered(request=other)) == (
        "the lists have 0.0% of the serving version's movies in common; the limit is 10.0%"
    )
    # One list in two is the same: a half in the mean.
    assert said(model, answered(request=other), answered(), min_preflight_overlap=0.5) == ""


def test_more_answers_below_the_personal_rung_than_the_serving_versions_are_refused(model):
    below = answered(source="trending")
    assert said(model, *[answered()] * 19, below) == ""
    assert said(model, *[answered()] * 9, below) == (
        "10.0% of the answers come from below the personal rung, 0.0% of the serving version's; "
        "the limit is 5.0% more"
    )
