from types import SimpleNamespace

from marquee_airflow.assets import MODEL, newest_version


def test_the_newest_of_several_versions_is_released():
    events = {MODEL: [SimpleNamespace(extra={"version": number}) for number in (4, 6, 5)]}
    assert newest_version(events) == 6


def test_a_run_by_hand_has_no_version_of_its_own():
    assert newest_version({}) is None
