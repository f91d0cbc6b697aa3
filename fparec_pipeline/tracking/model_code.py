"""The code of a registered model. MLflow runs this file when it loads one; nobody else imports it.

What it imports of this project travels with the model.

Nothing belongs here but what MLflow calls.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from fparec_pipeline.serving.answers import DEFAULT_K, BadRequest, answer
from fparec_pipeline.serving.model import PackedModel

FOLDER = "champion"  # the artifact


class Champion(PythonModel):
    """Asked with a column `history` of lists of item ids; answers one object a row."""

    def load_context(self, context: PythonModelContext) -> None:
        self.model = PackedModel.load(Path(context.artifacts[FOLDER]))

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        wanted = {"k": DEFAULT_K, "exclude_seen": True} | (params or {})
        try:
            return answer(self.model, list(model_input["history"]), **wanted)
        except BadRequest as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


set_model(Champion())
