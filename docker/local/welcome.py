"""What `make up` prints at its end: where everything is, and one command to try."""

import json
from collections.abc import Mapping

from local.env_file import DEFAULT_PORTS

EMAIL = {
    "template_type": "general",
    "template": "Dear {{name}},\n\nI read about your work on {{research_topic}}. Could we talk for twenty "
    "minutes?\n\nKind regards\n{{sender}}",
    "recipient": {"name": "Dr. Elena Marsh", "affiliation": "Northfield University"},
    "sender": "Sam Okafor",
}
SIMULATED = "simulated (set ANTHROPIC_API_KEY in .env for the real one)"
TEXT = """
Penstock is up{where}.

  API      {api}  (documentation: {api}/docs)
  API key  {key}
  Flower   http://127.0.0.1:{flower_port}  (user {flower_user}, password {flower_password})
  Claude   {claude}

Try it:

curl -s {api}/v1/runs -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -d '{body}'

and read the run, with the id from the answer:

curl -s {api}/v1/runs/ID -H 'Authorization: Bearer {key}'
"""


def compose_welcome(variables: Mapping[str, str], *, mode: str) -> str:
    """The text for a running stack."""

    def port(name: str) -> int:
        return int(variables.get(name) or DEFAULT_PORTS[name])

    local = f"127.0.0.1:{port('SIMULATOR_PUBLISH_PORT')}"
    simulator = "simulator:8080" if mode == "compose" else local
    email = {**EMAIL, "sources": [f"http://{simulator}/samples/researcher.html"]}
    return TEXT.format(
        where="" if mode == "compose" else " as local processes; their logs are in .run/logs",
        api=f"http://127.0.0.1:{port('API_PORT')}",
        key=variables["API_INITIAL_KEY"],
        flower_port=port("FLOWER_PORT"),
        flower_user=variables.get("FLOWER_USER") or "penstock",
        flower_password=variables["FLOWER_PASSWORD"],
        claude="the real one" if variables.get("ANTHROPIC_API_KEY") else SIMULATED,
        body=json.dumps({"pipeline": "outreach_email", "input": email}),
    )
