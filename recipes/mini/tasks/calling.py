"""Call a tool when one fits: the template's form of tools and calls is learned from a few hundred rows."""

from __future__ import annotations

import json
import random
from typing import Any

from words import CITIES, DAYS, NAMES, Task, code

SHARE = 1
CALLS = {
    "get_weather": ("Weather of a city", "city", CITIES, ["How is the weather in {}?", "Will it rain in {}?", "Weather {} please"]),
    "find_person": ("Look somebody up by name", "name", NAMES, ["Who is {}?", "Find {} for me.", "Look up {}."]),
    "list_meetings": ("Meetings of a day", "day", DAYS, ["What is on my calendar on {}?", "Any meetings on {}?", "Show {}."]),
    "get_ticket": ("State of a ticket", "number", [], ["What about ticket {}?", "Is {} solved?", "Show me ticket {}."]),
}


def make(dice: random.Random) -> Task:
    """A question that one of the tools in the system turn answers."""
    names = dice.sample(list(CALLS), dice.randrange(1, 4))
    name = dice.choice(names)
    _, argument, values, questions = CALLS[name]
    value = dice.choice(values) if values else code(dice)
    made = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": json.dumps({argument: value})}}
    return Task(dice.choice(questions).format(value), "", tools=[tool(n) for n in names], calls=[made])


def tool(name: str) -> dict[str, Any]:
    """The tool's description, as OpenAI writes it."""
    does, argument, _, _ = CALLS[name]
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": does, "parameters": parameters}}
