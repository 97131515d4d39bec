"""Events as the engine would tell them."""

from collections.abc import AsyncGenerator, Sequence

from gemma3n_appliance.engine.events import Event


async def told(events: Sequence[Event]) -> AsyncGenerator[Event, None]:
    for event in events:
        yield event
