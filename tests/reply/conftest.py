"""Events as the engine would tell them."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from gemma3n_appliance.engine.events import Event
from gemma3n_appliance.reply.told import ChunkedReply, gather


async def told(events: Sequence[Event]) -> AsyncGenerator[Event, None]:
    for event in events:
        yield event


def whole(reply: ChunkedReply, events: Sequence[Event]) -> dict[str, Any]:
    return json.loads(reply.whole(asyncio.run(gather(told(events), reply))).to_json())
