"""The answer of a chat model, over any service with OpenAI's `/chat/completions`.

`OPENAI_BASE_URL` says where (with its `/v1`), `OPENAI_API_KEY` with which key, `OPENAI_MODEL` which
model; the parameters `model` and `temperature` of the variant go first. Only this variant needs any
of them, and only it uses the network.
"""

import functools
import os
import re
import ssl
from typing import Any

import httpx

from wtb_ray.context import params
from wtb_ray.errors import ConfigurationError, NodeFailed
from wtb_ray.examples.rag.state import State

MODEL = "gpt-4o-mini"
TIMEOUT_S = 60.0

_SYSTEM = (
    "You know Python's standard library. Choose the one object that answers the question best. "
    "Reply with its qualified name only, exactly as it stands in the list."
)


async def chat(state: State) -> State:
    """Let the model choose among the candidates.

    A reply that names none of them is kept as it is, and so is a wrong answer.
    """
    if not state["candidates"]:
        return {"answer": ""}
    reply = await _complete(_prompt(state))
    names = re.findall(r"\w+(?:\.\w+)*", reply)
    named = [name for name in names if name in state["candidates"]]
    return {"answer": next(iter(named), reply.strip()[:200])}


def transient(error: Exception) -> bool:
    """Whether another try may help: no connection, too many requests, or the service's own error."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == 429 or error.response.is_server_error
    return isinstance(error, httpx.TransportError)


def _prompt(state: State) -> str:
    others = ", ".join(state["candidates"][len(state["context"]) :])
    described = "\n".join(f"- {line}" for line in state["context"])
    return f"Question: {state['question']}\n\nCandidates:\n{described}\nFurther names: {others}"


async def _complete(prompt: str) -> str:
    url = os.environ.get("OPENAI_BASE_URL")
    if not url:
        raise ConfigurationError(
            "the variant answer: chat needs OPENAI_BASE_URL",
            field="OPENAI_BASE_URL",
            reason="it is not set",
        )
    key = os.environ.get("OPENAI_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(verify=_tls(), timeout=TIMEOUT_S) as client:
        response = await client.post(
            f"{url.rstrip('/')}/chat/completions", headers=headers, json=_request(prompt)
        )
    response.raise_for_status()
    return _content(response)


def _request(prompt: str) -> dict[str, Any]:
    chosen = params()
    request: dict[str, Any] = {
        "model": chosen.get("model") or os.environ.get("OPENAI_MODEL") or MODEL,
        "messages": [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": prompt},
        ],
    }
    if "temperature" in chosen:
        request["temperature"] = chosen["temperature"]
    return request


def _content(response: httpx.Response) -> str:
    try:
        return str(response.json()["choices"][0]["message"]["content"])
    except (ValueError, LookupError, TypeError) as error:
        raise NodeFailed(
            f"{response.url} did not answer as /chat/completions does",
            field="choices",
            reason=response.text[:200],
        ) from error


@functools.cache
def _tls() -> ssl.SSLContext:
    """Loading the certificates takes longer than the rest of a client."""
    return httpx.create_ssl_context()
