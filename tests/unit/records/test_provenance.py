from datetime import UTC, datetime

from sqlalchemy import insert, select, text

from pipelines.records.provenance import record_version
from pipelines.records.tables import reccom, tracking
from tests.receipts import row

ANCESTOR_QUERY = """
select A.version_number, A.user_id, B.data_creation, B.trained_on, B.model_rmse
from reccom A, tracking B where A.version_number = B.version_number order by A.version_number desc limit 2;
"""


def record(engine, version, rmse=0.9, **more):
    record_version(
        engine,
        version_number=version,
        data_creation=datetime(2026, 3, 1, 8, tzinfo=UTC),
        trained_on=datetime(2026, 3, 1, 9, tzinfo=UTC),
        model_rmse=rmse,
        git_commit="c" * 40,
        run_id=f"manual-{version}",
        **more,
    )


def answer(engine, request_id, version):
    answered = row(request_id, version_number=version)
    with engine.begin() as connection:
        connection.execute(insert(reccom).values(answered))


def test_version_is_recorded_in_utc(engine):
    record(engine, 3)
    with engine.connect() as connection:
        assert connection.execute(select(tracking)).all() == [
            (3, datetime(2026, 3, 1, 8), datetime(2026, 3, 1, 9), 0.9, "c" * 40, "manual-3", *[None] * 4)
        ]


def test_what_is_not_known_of_a_version_is_null(engine):
    record(engine, 3)
    with engine.connect() as connection:
        nulls = "figures is null and gate_reason is null and offsets is null and code_commit is null"
        assert connection.scalar(text(f"select count(*) from tracking where {nulls}")) == 1


def test_story_of_a_version_is_kept(engine):
    offsets = [{"topic": "movielog4", "generation": 1, "partition": 0, "first": 0, "last": 499}]
    story = {"figures": {"rmse": 0.9, "ndcg_at_10": None}, "gate_reason": "RMSE 0.9 is below 1.0"}
    record(engine, 3, **story, offsets=offsets, code_commit="d" * 40)
    with engine.connect() as connection:
        kept = connection.execute(select(tracking)).mappings().one()
    assert {name: kept[name] for name in story} == story
    assert kept["offsets"] == offsets
    assert kept["code_commit"] == "d" * 40


def test_recording_a_version_again_overwrites_it(engine):
    record(engine, 3, rmse=0.9)
    record(engine, 3, rmse=0.8)
    with engine.connect() as connection:
        assert connection.execute(select(tracking.c.version_number, tracking.c.model_rmse)).all() == [
            (3, 0.8)
        ]


def test_query_of_the_ancestor_runs_as_written(engine):
    for version in (1, 2, 3):
        record(engine, version, rmse=1 - version / 10)
        answer(engine, f"request-{version}", version)
    answer(engine, "request-of-an-unrecorded-version", 4)
    with engine.connect() as connection:
        rows = connection.execute(text(ANCESTOR_QUERY)).all()
    assert [(row.version_number, row.user_id, row.model_rmse) for row in rows] == [
        (3, "596363", 1 - 3 / 10),
        (2, "596363", 1 - 2 / 10),
    ]
    assert rows[0].data_creation.startswith("2026-03-01 08:00")
    assert rows[0].trained_on.startswith("2026-03-01 09:00")
