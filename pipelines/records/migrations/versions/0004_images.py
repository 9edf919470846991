"""Each release names the image that its replicas are made of."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Older code, which may run beside this one, inserts rows without it.
    image = sa.Column("image", sa.String(80), comment="digest of the image its replicas are made of")
    with op.batch_alter_table("releases") as releases:
        releases.add_column(image)


def downgrade() -> None:
    with op.batch_alter_table("releases") as releases:
        releases.drop_column("image")
