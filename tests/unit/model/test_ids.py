import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import ModelError
from pipelines.model.ids import MAX_ID_BYTES, IdTable, id_table

IDS = st.text(st.characters(exclude_characters=",\r\n\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(st.lists(IDS, min_size=1, max_size=30, unique=True), st.lists(IDS, max_size=5))
def test_ids_are_found_again_and_others_are_not(ids, others):
    table = IdTable(*id_table(ids))
    assert table.rows(ids).tolist() == list(range(len(ids)))
    assert table.texts(np.arange(len(ids))) == ids
    assert [row >= 0 for row in table.rows(others)] == [other in ids for other in others]
    assert [table.row(text) for text in [*ids, *others]] == table.rows([*ids, *others]).tolist()


@pytest.mark.parametrize("bad", ["", "a\0", "\0a", "x" * (MAX_ID_BYTES + 1)])
def test_an_id_that_cannot_be_stored_is_refused(bad):
    with pytest.raises(ModelError, match="cannot be stored: wanted 1 to 1020 bytes"):
        id_table(["good", bad])
