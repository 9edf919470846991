from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from sqlalchemy import inspect

from pipelines.records.database import connect, migrate
from pipelines.records.tables import metadata


def test_processes_that_start_at_once_may_all_migrate(tmp_path):
    url = f"sqlite:///{tmp_path / 'records.db'}"
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(migrate, [url] * 8)) == [None] * 8
    engine = connect(url)
    assert set(metadata.tables) < set(inspect(engine).get_table_names())
    engine.dispose()
