"""The forms as an OpenAPI document refers to them."""

from dyrygentd import wire


def test_schemas_name_each_form() -> None:
    """The OpenAPI document refers to the forms by their names."""
    assert {"WorkflowPage", "WorkflowView"} <= set(wire.schemas([wire.WorkflowPage]))
