"""A checkpoint as an MLflow model: what `mlflow.pyfunc.load_model` finds beside it, and loads.

The folder of a run's checkpoint is the model, and the checkpoint its data.
"""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from experiments.software import requirements

if TYPE_CHECKING:  # heavy
    from experiments.inference import LoadedModel

FILES = ("MLmodel", "requirements.txt", "python_env.yaml", "input_example.json")
EMBEDDINGS = "embeddings"  # the parameter that asks for them


def describe(model: "LoadedModel", folder: Path, checkpoint: str) -> list[str]:
    """Write into `folder`, where the `checkpoint` is, what makes it an MLflow model; the files'
    names.

    The signature's columns are a manifest's and arrays, all optional; the example is made up. What
    it needs is stated, not inferred.
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    example = model.example()
    told = {"artifact_path": FILES[3], "type": "dataframe", "pandas_orient": "split"}
    described = Model(
        signature=_signature(model), saved_input_example_info=told if example else None
    )
    mlflow.pyfunc.add_to_model(
        described, loader_module=__name__, data=checkpoint, python_env=FILES[2]
    )
    texts = {
        FILES[0]: described.to_yaml(),
        FILES[1]: "\n".join(requirements()) + "\n",
        FILES[2]: f"python: {platform.python_version()}\ndependencies:\n- -r requirements.txt\n",
    }
    if example:
        values = [of.tolist() if isinstance(of, np.ndarray) else of for of in example.values()]
        texts[FILES[3]] = json.dumps({"columns": list(example), "data": [values]})
    for name, text in texts.items():
        (folder / name).write_text(text)
    return list(texts)


def _signature(model: "LoadedModel") -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array

    from experiments.inference import RATE

    # MLflow takes no whole number for a double: numbers are of any kind.
    number: Any = AnyType()  # type: ignore[no-untyped-call]
    columns: dict[str, Any] = {}
    for input in model.inputs.values():
        for name, column in input.arguments.items():
            known = model.all_columns.get(column)
            columns[column] = number if known is None or known.kind == "number" else "string"
            if name == input.array:
                columns[name] = Array(Array(number))
                if input.timed:
                    columns[f"{name}{RATE}"] = number
    read: list[Any] = [ColSpec(kind, name, required=False) for name, kind in columns.items()]
    said: list[Any] = [ColSpec("string", "label")] if len(model.labels) > 1 else []
    for name in model.fields or ("e0",):
        said.append(ColSpec("boolean" if name == "positive" else "double", name, required=False))
    return ModelSignature(
        inputs=Schema(read),
        outputs=Schema(said),
        params=ParamSchema([ParamSpec(EMBEDDINGS, "boolean", not model.labels)]),
    )


class Served:
    """A trained model as MLflow calls it."""

    def __init__(self, model: "LoadedModel") -> None:
        self.model = model

    def predict(self, data: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """A row an exam, and of several labels an exam and `label`, under the exam's index: the
        task's fields, or with the parameter "embeddings" e0, e1, ... (float32).

        InputError, naming the row, for an exam that can't be used.
        """
        embeds = bool((params or {}).get(EMBEDDINGS, not self.model.labels))
        index, rows = [], []
        for place, row in zip(data.index, data.to_dict("records"), strict=True):
            try:
                exam = self.model.of_row({str(name): value for name, value in row.items()})
                found = self._embedded(exam) if embeds else self._said(exam)
            except InputError as error:
                raise InputError(f"row {place}: {error}") from None
            rows += found
            index += [place] * len(found)
        table = pd.DataFrame(rows, index=pd.Index(index, name=data.index.name))
        return table.astype(np.float32) if embeds else table

    def _said(self, exam: Any) -> list[dict[str, Any]]:
        answers = self.model.predict_exam(exam).labels
        several = len(answers) > 1
        return [
            {**({"label": label} if several else {}), **answer.fields}
            for label, answer in answers.items()
        ]

    def _embedded(self, exam: Any) -> list[dict[str, Any]]:
        return [{f"e{i}": number for i, number in enumerate(self.model.embed_exam(exam))}]


def _load_pyfunc(path: str) -> Served:
    """MLflow's way in. Code that is not this software's is not run: `load_model(allow=...)` may."""
    from experiments.inference import LoadedModel

    return Served(LoadedModel.read(Path(path), path))
