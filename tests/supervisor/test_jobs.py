"""Reading what systemd is doing."""

from __future__ import annotations

import pytest

from modelproxy.supervisor import jobs

UNIT = "modelproxy.service"


@pytest.mark.parametrize(
    ("listing", "job"),
    [
        ("", None),
        ("No jobs running.\n", None),
        (f"41 {UNIT} stop running\n", "stop"),
        (f" 40 modelproxy.socket stop waiting\n 41 {UNIT}  restart running\n", "restart"),
        ("41 other.service stop running\n", None),
        (f"41 {UNIT}\n", None),
    ],
)
def test_the_job_of_a_unit(listing: str, job: str | None) -> None:
    assert job == jobs.job_of(UNIT, listing)


def test_the_manager_of_a_user_is_asked_as_such() -> None:
    """A system service has none, and belongs to the system's."""
    assert jobs.systemctl({"MANAGERPID": "7"}, "show")[:2] == ["systemctl", "--user"]
    assert "--user" not in jobs.systemctl({}, "show")
