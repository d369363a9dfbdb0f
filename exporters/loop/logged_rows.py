"""Which record a logged route is of, so that texts need not be logged where the records hold them."""

from __future__ import annotations

from router_core.ledger.reader import LoggedRoute
from router_core.ledger.rows import key_of
from router_core.records import Records

__all__ = ["LoggedRows"]


class LoggedRows:
    """Which row of the records a route is of: the one with its text in its task."""

    def __init__(self, records: Records) -> None:
        self._prompts = records.prompt
        self._tasks, self._keys = records.task, [key_of(prompt) for prompt in records.prompt]
        self._by_id = {query: i for i, query in enumerate(records.query_id)}
        self._by_key = {(task, key): i for i, (task, key) in enumerate(zip(self._tasks, self._keys, strict=True))}

    def of(self, route: LoggedRoute, task: str) -> int | None:
        """The row; an id counts only where task and text agree with it, or the text was never known."""
        row = self._by_id.get(route.id)
        if row is not None and self._tasks[row] == task and route.key in (None, self._keys[row]):
            return row
        return self._by_key.get((task, route.key or ""))

    def text_of(self, route: LoggedRoute) -> tuple[str, str] | None:
        """Task and text of a route; None where neither it nor the records hold the text."""
        task = route.task or "default"
        row = self.of(route, task)
        text = route.text if row is None else self._prompts[row]
        return (task, text) if text else None

    def own_id(self, route: str) -> str:
        """Id of a route that is none of the records: no other row's."""
        while route in self._by_id:
            route = f"route {route}"
        return route
