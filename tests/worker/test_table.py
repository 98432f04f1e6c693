"""Which form a path belongs to."""

from __future__ import annotations

from modelproxy.worker import app
from modelproxy.worker.forms.table import FORMS


def test_every_path_of_another_api_has_its_form_and_no_other() -> None:
    """A path that the routes know and the table does not would be answered as if it were messages."""
    assert set(FORMS) == set(app.OTHERS)
