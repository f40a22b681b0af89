"""The shape of a graph file as pydantic models, one per registered type, and as JSON Schema for editors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, WithJsonSchema, create_model
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.json_schema import models_json_schema

from serket.graph.stream import StreamEntry
from serket.messages import Family
from serket.protocol import Port
from serket.registry import Kind, class_ports, options_of, registered

__all__ = ["A_NAME", "Binding", "File", "GaussianPrior", "Run", "VariableEntry", "entry_model", "json_schema",
           "option_values", "ports_model"]  # fmt: skip

A_NAME = "the name of one variable"  # tags a branch, and is what errors say was expected there
Name = Annotated[str, Field(pattern=r"^[^\W\d][\w-]*$")]
Trust = Annotated[float, Field(gt=0, le=1, description="exponent on the messages that leave; 1 is full trust")]
Calibration = Annotated[float, Field(gt=0, le=100, description="exponent fitted on held-out rows")]
Switch = Annotated[bool, WithJsonSchema({"enum": [True, False, "on", "off"]})]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class GaussianPrior(_Strict):
    """``prior: {mean: [0, 0], covariance: [[1, 0], [0, 1]]}``."""

    mean: list[float]
    covariance: list[list[float]]


def _form(value: Any) -> str:
    return "mapping" if isinstance(value, dict) else "list" if isinstance(value, list) else A_NAME


class VariableEntry(_Strict):
    """An entry of ``variables:``."""

    family: Family
    size: int = Field(ge=1, le=1_000_000, description="dimensions, or categories")
    prior: (
        Annotated[
            Annotated[list[float], Tag("list")] | Annotated[GaussianPrior, Tag("mapping")],
            Discriminator(lambda value: "mapping" if isinstance(value, dict) else "list"),
        ]
        | None
    ) = Field(None, description="probabilities, pseudo-counts, or mean and covariance")
    combine: Literal["single", "product"] = Field("single", description="product: several child ports own the prior")


class Run(_Strict):
    """The section ``run:``."""

    rounds: int = Field(0, ge=0, description="rounds of mutual learning")
    calibrate: Literal["none", "senses", "labels"] = Field(
        "none", description="fit exponents on held-out rows: by how senses predict each other, and by labels"
    )
    explore: int = Field(8, ge=0, description="other divisions of concepts tried in a round")
    seed: int = Field(0, ge=0)
    feedback: Switch = Field(True, description="off: no module learns from what stands above it")


class File(_Strict):
    """A graph: what is connected to what."""  # The models of module and composer entries depend on their type.

    serket: Literal[1] = Field(description="version of this format")
    data: str | None = Field(None, description="an embedded data set or a path; --data overrides it")
    variables: dict[Name, VariableEntry] = Field(min_length=1)
    modules: dict[Name, dict[str, Any]] = Field(min_length=1)
    composers: dict[Name, dict[str, Any]] = {}
    run: Run = Field(default_factory=lambda: Run.model_validate({}))
    stream: StreamEntry | None = Field(None, description="how observations of several sensors become sets")


class Binding(_Strict):
    """A bound variable with a trust of its own; a bare name stands for one without."""

    variable: str
    trust: Trust | None = None


One = Annotated[
    Annotated[str, Tag(A_NAME)] | Annotated[Binding, Tag("mapping")],
    Discriminator(lambda value: "mapping" if isinstance(value, dict) else A_NAME),
]
Several = Annotated[
    Annotated[str, Tag(A_NAME)]
    | Annotated[Binding, Tag("mapping")]
    | Annotated[list[One], Field(min_length=1), Tag("list")],
    Discriminator(_form),
]


def ports_model(name: str, ports: Mapping[str, Port]) -> type[BaseModel]:
    """Return the model of a ``ports:`` mapping for these templates."""
    fields: dict[str, Any] = {
        f"field_{i}": (
            Several if port.many else One,
            Field(
                None if port.optional else ...,
                alias=key,
                description=f"{port.role} port, {port.family or 'any family'}",
            ),
        )  # fmt: skip
        for i, (key, port) in enumerate(ports.items())
    }
    return create_model(f"{name}_ports", __base__=_Strict, **fields)


@cache
def entry_model(cls: type, kind: Kind, name: str) -> type[BaseModel]:
    """Return the model of an entry: its own keys, and the options of its class with their types and defaults.

    Options stand in fields ``option_0``, ``option_1``, ..., aliased, so that no option's name collides with pydantic's.
    """
    ports = class_ports(cls)
    bindings = dict[str, Several] if ports is None else ports_model(f"{kind}_{name}", ports)
    options = options_of(cls)
    fields: dict[str, Any] = {
        "type": (Literal[name], ...),
        "ports": (bindings, ...),
        "data": (str | None, Field(None, min_length=1, description="the key of its array in the data file")),
        "trust": (Trust | None, None),
        "calibration": (
            dict[str, Calibration],
            Field({}, description="exponents by port, and of what is imagined under `data`: serket run writes them"),
        ),
        "feedback": (Switch | None, Field(None, description="off: does not learn from what stands above it")),
    }
    if hasattr(cls, "fit"):
        fit = create_model(f"{kind}_{name}_fit", __base__=_Strict, **_fields(options_of(cls.fit)))
        fields["fit"] = (fit | None, Field(None, description="options of its training"))
        fields["refit"] = (fit | None, Field(None, description="options of its training in rounds, over those of fit"))
    for own in {"trust", "calibration"} & options.keys():  # The class's own, as in `product`.
        del fields[own]
    doc = (inspect.getdoc(cls) or name).splitlines()[0]
    return create_model(f"{kind}_{name}", __base__=_Strict, __doc__=doc, **fields, **_fields(options))


def _fields(parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    return {
        f"option_{i}": (_known(p.annotation), Field(... if p.default is p.empty else p.default, alias=name))
        for i, (name, p) in enumerate(parameters.items())
    }


def _known(annotation: Any) -> Any:
    """Return the annotation, or Any where pydantic cannot read it: the class has to check such an option itself."""
    if annotation is inspect.Parameter.empty:
        return Any
    try:
        TypeAdapter(annotation).json_schema()
    except (PydanticUserError, PydanticUndefinedAnnotation):
        return Any
    return annotation


def option_values(entry: BaseModel, *, given: bool = False) -> dict[str, Any]:
    """Return the options of an entry or of its ``fit`` by name, with their defaults unless only those ``given``."""
    fields = {name: f.alias for name, f in type(entry).model_fields.items() if name.startswith("option_")}
    return {str(a): getattr(entry, n) for n, a in fields.items() if not given or n in entry.model_fields_set}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a graph file, with one definition per registered type and its options."""
    models: dict[Kind, list[type[BaseModel]]] = {
        kind: [entry_model(cls, kind, name) for name, cls in registered(kind).items()]
        for kind in ("module", "composer")
    }
    every: list[type[BaseModel]] = [File, *models["module"], *models["composer"]]
    references, whole = models_json_schema([(model, "validation") for model in every])
    schema: dict[str, Any] = whole["$defs"].pop("File")
    for kind, entries in models.items():
        section = schema["properties"][f"{kind}s"]
        (pattern,) = section["patternProperties"]
        section["patternProperties"] = {pattern: {"oneOf": [references[entry, "validation"] for entry in entries]}}
        section["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Serket graph", **whole}
