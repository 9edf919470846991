from marquee_airflow.assets import what_came


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
