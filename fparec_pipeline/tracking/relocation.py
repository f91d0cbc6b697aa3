"""MLflow's own store after its data root was moved or copied: where artifacts lie, put right.

MLflow keeps absolute addresses of artifacts. Without this, a store that was moved would write to
its old place, and make that again. What belongs here: the columns of MLflow's tables that hold such
addresses, and nothing else of MLflow.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

STORE = "mlflow.db"
ARTIFACTS = "artifacts"  # folder below the store's
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def relocate(folder: Path) -> int:
    """Make the artifacts' addresses of the store in `folder` begin with that folder.

    Those that lie elsewhere by choice, outside of any `artifacts` folder of such a store, stay.

    Returns:
        How many addresses were changed: 0 where the store is at its place.
    """
    store = folder / STORE
    if not store.exists():
        return 0
    here = (folder / ARTIFACTS).as_uri()
    with closing(sqlite3.connect(store)) as database, database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        if "experiments" not in tables:
            return 0
        found = database.execute(
            "SELECT artifact_location FROM experiments WHERE name LIKE 'fparec%'"
        )
        old = {
            location.rpartition(f"/{ARTIFACTS}/")[0] + f"/{ARTIFACTS}"
            for (location,) in found
            if location and location.startswith("file:") and f"/{ARTIFACTS}/" in location
        } - {here}
        return sum(
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608
                f"WHERE substr({column}, 1, ?) = ?",
                (here, len(there) + 1, len(there) + 1, there + "/"),
            ).rowcount
            for there in old
            for table, column in ADDRESSES
            if table in tables
        )
