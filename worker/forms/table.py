"""Which form a path belongs to. A further API is one more row, and a word in `app.OTHERS`."""

from __future__ import annotations

from .asking import Form
from .chat import Chat

FORMS: dict[str, Form] = {
    "/v1/chat/completions": Chat(),
}
