"""Which form a path belongs to. A further API is one more row, and a word in `app.OTHERS`."""

from __future__ import annotations

from .asking import Form
from .chat import Chat
from .responses import Responses

FORMS: dict[str, Form] = {
    "/v1/chat/completions": Chat(),
    "/v1/responses": Responses(),
}
