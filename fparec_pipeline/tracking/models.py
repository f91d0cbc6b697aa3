"""The trained networks of trials as MLflow's LoggedModels: weights as safetensors, and metrics.

What belongs here: what the *Models* tab and column show of a trial. The models that are asked for
recommendations, which stand in the registry, belong to `registry`.
"""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fparec_pipeline.training.record import RECORD, WEIGHTS, TrialRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TYPE = "safetensors"  # what the page shows as the model's type


def log_model(client: "MlflowClient", run: "Run", folder: Path, record: TrialRecord) -> str | None:
    """The id of the LoggedModel with the trial's weights; None where it has none (an import).

    Calling it again for a run gives the model that the run has.

    Args:
        client: of the store.
        run: the trial's.
        folder: the trial's.
        record: what is in it.
    """
    from mlflow.entities import LoggedModelOutput

    if not (folder / WEIGHTS).exists():
        return None
    experiment, run_id = run.info.experiment_id, run.info.run_id
    found = client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'")
    ready = [model for model in found if str(model.status) == "READY"]
    if ready:
        return str(ready[0].model_id)
    model = client.create_logged_model(
        experiment,
        name=f"{record.arm}-{record.dataset}-seed-{record.seed}",
        source_run_id=run_id,
        tags=_tags(record),
        params={key: str(value) for key, value in record.hyperparameters.items()},
        model_type=TYPE,
    )
    with tempfile.TemporaryDirectory() as staged:
        for name in (WEIGHTS, RECORD):
            shutil.copyfile(folder / name, Path(staged) / name)
        client.log_model_artifacts(model.model_id, staged)
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, record.best_epoch)])
    return str(model.model_id)


def set_aside(client: "MlflowClient", run: "Run") -> None:
    """Tag the models of a run that was superseded."""
    for output in run.outputs.model_outputs if run.outputs else []:
        client.set_logged_model_tags(output.model_id, {"superseded": "true"})


def _tags(record: TrialRecord) -> dict[str, str]:
    return {
        "mlflow.note.content": f"The weights of a trial: `{WEIGHTS}`, which safetensors reads. Its "
        f"configuration is in `{RECORD}`.",
        "dataset": record.dataset,
        "model": record.arm,
        "seed": str(record.seed),
        "fingerprint": record.fingerprint,
        "data_hash": record.data_hash,
        "superseded": "false",
    }
