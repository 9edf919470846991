from types import SimpleNamespace

from marquee_airflow.assets import MODEL, newest_version, what_came


def test_the_newest_of_several_versions_is_released():
    events = {MODEL: [SimpleNamespace(extra={"version": number}) for number in (4, 6, 5)]}
    assert newest_version(events) == 6


def test_a_run_by_hand_has_no_version_of_its_own():
    assert newest_version({}) is None


def test_an_event_of_new_batches_says_lines_batches_and_newest_offsets():
    collected = {
        "lines": 7,
        "batches": ["movielog4~1-0-000000000003-000000000009.parquet"],
        "partitions": {"0": {"first_offset": 3, "last_offset": 9, "lines": 7}},
        "notes": [],
    }
    assert what_came(collected) == {
        "lines": 7,
        "batches": ["movielog4~1-0-000000000003-000000000009.parquet"],
        "newest_offsets": {"0": 9},
    }
