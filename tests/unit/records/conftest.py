import pytest

from pipelines.records.database import connect, migrate


@pytest.fixture
def opened():
    """Connects as the code does, and closes again: an open SQLite file is a warning in newer Pythons."""
    engines = []

    def connect_and_remember(url):
        engines.append(connect(url))
        return engines[-1]

    yield connect_and_remember
    for engine in engines:
        engine.dispose()


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'records.db'}"


@pytest.fixture
def engine(url, opened):
    migrate(url)
    return opened(url)
